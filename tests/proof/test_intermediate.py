"""Proofs by way of an intermediate model: new blocks, rescaled weights, folded multipliers, several growths, parts."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Certificate, Verdict
from fxgrow.testing.sabotage import sabotaged
from tests.growth.test_parts import INPUTS, Settling
from tests.models import PLAIN, lively
from tests.pairing import few, in_turn
from tests.test_depth import IMAGE, MODELS, Residual, conv, stages
from tests.transforms.test_readouts import IMAGE as IMAGES
from tests.transforms.test_readouts import Features

DENSE = [name for name in MODELS if name.startswith("dense")]


def built(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    return lively(make()), inputs


def proved(certificate: Certificate) -> bool:
    assert certificate.verdict is Verdict.PROVED, str(certificate)
    return True


def steps(certificate: Certificate) -> dict[str, Certificate]:
    return {leaf.claim: leaf for leaf in certificate.leaves()}


@pytest.mark.parametrize("name", few(DENSE, "dense norms"))
def test_new_dense_layers_add_units(name: str) -> None:
    model, inputs = built(name)
    once = fxgrow.grow(model, depth=2.0, example_inputs=inputs, verify=False)
    assert proved(fxgrow.certify(once, model))
    twice = fxgrow.grow(once, 1.5, 1.5, verify=False)
    assert proved(fxgrow.certify(twice, once))
    assert proved(fxgrow.certify(twice, model))
    third = fxgrow.grow(twice, 1.25, 1.25, parameterization="variance-transfer", verify=False)
    assert proved(fxgrow.certify(fxgrow.fold(third), twice))


@pytest.mark.parametrize("name", few(DENSE, "dense stream"))
def test_no_fault_beside_new_dense_layers_is_missed(name: str) -> None:
    model, inputs = built(name)
    grown = fxgrow.grow(model, 1.25, 1.5, example_inputs=inputs, verify=False)
    tally = sabotaged(model, grown, 24, seed=2)
    assert tally.missed == []
    assert tally.found.total() >= 12


def test_a_new_block_is_told_step_by_step() -> None:
    model, inputs = built("post-activation")
    grown = fxgrow.grow(model, depth={"2": "+1"}, example_inputs=inputs, verify=False)
    proof_of = steps(fxgrow.certify(grown, model))
    assert proof_of["_2_1_branch_3 is zero"].conditions == (
        "every entry of 2.2.branch.1.weight and 2.2.branch.1.bias is zero",
    )
    assert proof_of["add_2 is _2_1_after of the original"].rule == "x + 0 = x"
    after = proof_of["_2_1_after_1 is _2_1_after of the original"]
    assert (after.rule, after.conditions) == ("ReLU(x) = x", ("_2_1_after of the original is never negative",))


def test_a_gate_that_is_not_zero_is_refuted() -> None:
    model, inputs = built("residual")
    grown = fxgrow.grow(model, depth=1.5, example_inputs=inputs, verify=False)
    plan = fxgrow.report(grown).plan
    assert plan.depth is not None
    gate = next(t.name for t in plan.depth.tensors if t.start == "zero" and t.name.endswith("weight"))
    with torch.no_grad():
        grown.get_parameter(gate)[3] = 0.5
    certificate = fxgrow.certify(grown, model)
    assert certificate.verdict is Verdict.REFUTED
    assert certificate.weakest.detail == f"{gate}: old entry [3] is 0.5, it should be 0"


def test_a_block_copied_whole_is_not_proved() -> None:
    model, inputs = built("residual")
    grown = fxgrow.grow(model, depth=1.5, depth_init="stack", example_inputs=inputs, verify=False)
    certificate = fxgrow.certify(grown, model)
    assert certificate.verdict is Verdict.UNKNOWN
    assert certificate.weakest.detail == (
        "_2_1_branch_3 is added to the input of a new block, and nothing says that it is zero"
    )


def test_an_activation_that_changes_its_input_is_no_identity() -> None:
    """What the planner would refuse: the block is put in by hand, in the plan and in the grown model."""
    model = lively(stages(Residual(conv(), nn.ReLU()), Residual(conv(), nn.ReLU())))
    grown = fxgrow.grow(model, depth={"2": "+1"}, example_inputs=IMAGE, verify=False)
    for network in (model, grown):
        for path, module in list(network.named_modules()):
            if path.endswith(".after"):
                network.get_submodule(path.rpartition(".")[0])._modules["after"] = nn.GELU()
            del module
    certificate = fxgrow.certify(grown, model)
    assert certificate.verdict is Verdict.UNKNOWN
    assert certificate.weakest.detail == "GELU changes its input"


@pytest.mark.parametrize(("name", "init"), in_turn(PLAIN, ("zero", "mirror"), ("perceptron", "cross-attention")))
def test_variance_transfer_is_proved_folded_or_not(name: str, init: str) -> None:
    make, inputs = PLAIN[name]
    model = lively(make())
    once = fxgrow.grow(model, 2, example_inputs=inputs, init=init, parameterization="variance-transfer", verify=False)
    twice = fxgrow.grow(once, 1.5, init=init, verify=False)
    folded = fxgrow.fold(twice)
    assert proved(fxgrow.certify(once, model))
    assert proved(fxgrow.certify(twice, once))
    assert proved(fxgrow.certify(twice, model))
    assert proved(fxgrow.certify(fxgrow.fold(once), model))
    assert proved(fxgrow.certify(folded, model))
    with torch.no_grad():
        parameter = next(p for p in folded.parameters() if p.ndim > 1)
        parameter.view(-1)[0] *= 1 + 1e-9
    assert fxgrow.certify(folded, model).verdict is Verdict.REFUTED


def test_a_multiplier_or_a_statistic_that_is_off_is_refuted() -> None:
    torch.manual_seed(0)
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    model.add_module("5", nn.Conv2d(8, 4, 1).double())
    grown: Any = fxgrow.grow(
        model, 2, example_inputs=IMAGE, parameterization="variance-transfer", verify=False, form="graph"
    )
    assert proved(fxgrow.certify(grown, model))
    node = next(n for n in grown.graph.nodes if getattr(n.target, "__name__", "") == "multiplied")
    before = node.args
    node.args = (before[0], before[1] * 1.001)
    certificate = fxgrow.certify(grown, model)
    assert certificate.verdict is Verdict.REFUTED
    assert certificate.weakest.detail == (f"argument 1 of multiplied is {before[1] * 1.001}, it was {before[1]}")
    node.args = before
    grown.get_submodule("3").running_var[2] *= 1.5
    assert fxgrow.certify(grown, model).verdict is Verdict.REFUTED


def test_depth_width_and_depth_again_are_proved_from_the_first_model() -> None:
    model, inputs = built("post-activation")
    deeper = fxgrow.grow(model, depth=1.5, example_inputs=inputs, verify=False, form="graph")
    wider = fxgrow.grow(deeper, 1.5, verify=False, seed=3)
    last = fxgrow.grow(wider, 1.25, 1.5, parameterization="variance-transfer", verify=False)
    certificate = fxgrow.certify(fxgrow.fold(last), model)
    assert proved(certificate)
    assert [child.claim for child in certificate.children] == [
        "growths 1 to 2 kept the function",
        "growth 3 kept the function",
    ]
    assert proved(fxgrow.certify(last, wider))
    assert proved(fxgrow.certify(last, deeper))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "resnet18", "mobilenetv3_small_050"])
def test_library_models_are_proved_deeper_wider_and_rescaled(name: str) -> None:
    model = lively(timm.create_model(name))
    size = 160 if "vit" in name else 64
    grown = fxgrow.grow(
        model,
        1.25,
        1.5,
        example_inputs=torch.randn(2, 3, size, size),
        parameterization="variance-transfer",
        verify=False,
    )
    assert proved(fxgrow.certify(grown, model))
    assert proved(fxgrow.certify(fxgrow.fold(grown), model))


@pytest.mark.parametrize("init", few(("zero", "mirror", "replicate"), "zero"))
def test_readouts_of_streams_are_proved(init: str) -> None:
    model = lively(Features())
    once = fxgrow.grow(model, width=1.5, example_inputs=IMAGES, init=init, verify=False)
    again = fxgrow.grow(once, 1.5, 1.5, init=init, verify=False)
    assert proved(fxgrow.certify(once, model))
    assert proved(fxgrow.certify(again, once))
    assert proved(fxgrow.certify(again, model))
    with torch.no_grad():
        once.get_parameter("readout_1")[2, 3] = 0.25
    certificate = fxgrow.certify(once, model)
    assert certificate.verdict is Verdict.REFUTED
    assert certificate.weakest.detail == "readout_1: old entry [2, 3] counts as 0.25, it should be 0"


class Calm(Settling):
    """As it settles, without looking into its parts."""

    def forward(self, x: Tensor) -> Tensor:
        return self.settled(x)


def test_parts_are_proved_and_so_is_what_lies_between_them() -> None:
    model = lively(Calm())
    grown = fxgrow.grow(model, 2, example_inputs=INPUTS)
    kept = fxgrow.report(grown).certificate
    assert kept is not None
    for certificate in (kept, fxgrow.certify(grown, model), fxgrow.certify(grown)):
        assert proved(certificate)
    with torch.no_grad():
        grown.get_parameter("body.one.weight")[0, 0] += 1
    assert fxgrow.certify(grown, model).verdict is Verdict.REFUTED


def test_code_between_parts_that_reads_what_has_grown_is_unknown() -> None:
    model = lively(Settling())
    grown = fxgrow.grow(model, 2, example_inputs=INPUTS)
    certificate = fxgrow.certify(grown, model)
    assert certificate.verdict is Verdict.UNKNOWN
    assert certificate.weakest.detail == (
        "its code reads weight, and a part that it calls has grown in something of that name"
    )


def test_whatever_differs_between_the_parts_is_refuted() -> None:
    model = lively(Calm())
    model.register_buffer("extra", torch.ones(2))
    grown: Any = fxgrow.grow(model, {"leave": 2}, example_inputs=INPUTS, verify=False)
    grown.limit = 4
    assert fxgrow.certify(grown, model).weakest.detail == "Calm: its limit is 4, it was 3"
    grown.limit = 3
    grown.extra[0] = 2
    assert fxgrow.certify(grown, model).weakest.detail == "extra is not what it was"


@pytest.mark.slow
def test_a_detector_is_proved_in_parts() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)
    grown = fxgrow.grow(model, 1.25, example_inputs=([torch.randn(3, 96, 96)],), verify=False)
    assert proved(fxgrow.certify(grown, model))


@pytest.mark.parametrize(
    "name", few(("post-activation", "two branches", "chain", "pre-norm"), "post-activation", "chain")
)
def test_no_fault_in_a_deeper_model_is_proved(name: str) -> None:
    model, inputs = built(name)
    deeper = fxgrow.grow(model, 1.25, 1.5, example_inputs=inputs, verify=False)
    tally = sabotaged(model, deeper, 36, seed=2)
    assert tally.missed == []
    assert tally.found.total() >= 18


@pytest.mark.parametrize("name", few(("perceptron", "unet", "encoder-prenorm", "two-inputs"), "perceptron"))
def test_no_fault_in_a_rescaled_model_is_proved(name: str) -> None:
    make, inputs = PLAIN[name]
    model = lively(make())
    rescaled = fxgrow.grow(
        model, 1.5, example_inputs=inputs, parameterization="variance-transfer", init="mirror", verify=False
    )
    for grown in (rescaled, fxgrow.fold(rescaled)):
        tally = sabotaged(model, grown, 36, seed=3)
        assert tally.missed == []
        assert tally.found.total() >= 18


def test_a_recurrent_layer_beside_new_blocks_is_the_same_layer() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.body = nn.LSTM(6, 8, batch_first=True), nn.Sequential(Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return self.body(self.first(x)[0])  # type: ignore[no-any-return]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.map(x)

    model = lively(Recurrent())
    grown = fxgrow.grow(model, depth=1.5, example_inputs=torch.randn(2, 4, 6), verify=False)
    assert proved(fxgrow.certify(grown, model))
    with torch.no_grad():
        grown.get_parameter("first.weight_hh_l0")[0, 0] += 1
    assert fxgrow.certify(grown, model).verdict is Verdict.REFUTED


def test_what_is_written_through_a_view_beside_new_blocks_is_what_it_was() -> None:
    class Biased(nn.Module):
        """Attention whose scores but those of the first token get a bias in place, as in MViT."""

        def __init__(self) -> None:
            super().__init__()
            self.query, self.value, self.leave = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.query(x) @ x.transpose(1, 2)
            scores[:, 1:, 1:] += self.query(x)[:, 1:, :1]
            return x + self.leave(scores.softmax(-1) @ self.value(x))  # type: ignore[no-any-return]

    model = lively(nn.Sequential(nn.Linear(6, 8), nn.Sequential(Biased(), Biased()), nn.Linear(8, 3)))
    grown: Any = fxgrow.grow(model, depth=1.5, example_inputs=torch.randn(2, 5, 6), verify=False, form="graph")
    assert proved(fxgrow.certify(grown, model))
    added = next(n for n in grown.graph.nodes if n.target is operator.setitem)
    added.args = (added.args[0], (slice(None), slice(2, None), slice(2, None)), added.args[2])
    assert fxgrow.certify(grown, model).verdict is not Verdict.PROVED
