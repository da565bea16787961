"""certify: complete on what grows, sound against sabotage, exact about what is wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models.video.swin_transformer import SwinTransformer3d

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.guards import standardize
from fxgrow.proof.certificate import Verdict
from fxgrow.testing.sabotage import sabotaged
from tests.models import PLAIN, lively, perceptron
from tests.pairing import few, in_turn, slow

INITS = ("zero", "mirror", "replicate")
FAULTY = ("perceptron", "encoder-prenorm", "cross-attention")
TIMM = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet")


def grown(name: str, init: str = "zero", **options: Any) -> tuple[nn.Module, Any]:
    make, inputs = PLAIN[name]
    model = lively(make())
    return model, fxgrow.grow(model, 1.5, init=init, example_inputs=inputs, verify=False, **options)


@pytest.mark.parametrize(
    ("name", "init"),
    in_turn(PLAIN, INITS, [name for name in PLAIN if name not in ("tagger", "detector", "masked", "encoder")]),
)
def test_every_growth_of_a_user_model_is_proved(name: str, init: str) -> None:
    model, wider = grown(name, init)
    certificate = fxgrow.certify(wider, model)
    assert certificate.verdict is Verdict.PROVED, str(certificate)


@pytest.mark.parametrize(("name", "init"), in_turn(TIMM, INITS, ("test_convnext", "test_efficientnet")))
def test_every_growth_of_a_library_model_is_proved(name: str, init: str) -> None:
    model = lively(timm.create_model(name))
    certificate = fxgrow.certify(fxgrow.grow(model, 1.5, init=init, verify=False), model)
    assert certificate.verdict is Verdict.PROVED, str(certificate)


@pytest.mark.parametrize("init", INITS)
def test_copies_of_units_that_are_zero(init: str) -> None:
    """Branches that start at zero, as those of untrained residual networks: nothing of what reads them counts."""
    torch.manual_seed(0)
    silent = nn.BatchNorm2d(6)
    nn.init.zeros_(silent.weight)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), silent, nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    wider = fxgrow.grow(model, 1.5, init=init, example_inputs=torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED
    with torch.no_grad():
        wider[1].weight[0] = 1.0
    assert fxgrow.certify(wider, model).verdict is Verdict.REFUTED


@pytest.mark.parametrize("dtype", [slow(torch.float32), torch.bfloat16])
def test_rounded_gains_and_means_are_proved_in_lower_precision(dtype: torch.dtype) -> None:
    make, inputs = PLAIN["encoder"]
    model = lively(make()).to(dtype)
    wider = fxgrow.grow(model, 1.5, example_inputs=tuple(t.to(dtype) for t in inputs), verify=False)
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED


class PostNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.within = nn.Linear(4, 64), nn.Linear(64, 64)
        self.norm, self.leave = nn.LayerNorm(64), nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        return self.leave(self.norm(h + self.within(h)))  # type: ignore[no-any-return]


def test_pairs_that_cancel_leave_no_rounding_to_small_entries_beside_them() -> None:
    torch.manual_seed(0)
    model, x = PostNorm().double(), torch.randn(3, 4, dtype=torch.float64)
    wider = fxgrow.grow(model, 2, init="mirror", example_inputs=x, verify=False)
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED
    with torch.no_grad():
        wider.within.weight[0, 0] *= 1 + 1e-12
    assert fxgrow.certify(wider, model).verdict is Verdict.REFUTED


@pytest.mark.parametrize("name", few(("perceptron", "encoder-prenorm", "decoder", "tagger"), "perceptron"))
def test_several_growths_are_proved_from_the_last_and_from_the_first(name: str) -> None:
    model, once = grown(name)
    twice = fxgrow.grow(once, 1.5, init="mirror", verify=False)
    assert fxgrow.certify(twice, once).verdict is Verdict.PROVED
    assert fxgrow.certify(twice, model).verdict is Verdict.PROVED


@pytest.mark.parametrize(("name", "init"), zip(FAULTY, INITS, strict=True))
def test_no_fault_that_changes_outputs_is_proved(name: str, init: str) -> None:
    assert_no_fault_is_proved(name, init, 12)


@pytest.mark.slow
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", PLAIN)
def test_none_of_more_faults_in_any_user_model_is_proved(name: str, init: str) -> None:
    assert_no_fault_is_proved(name, init, 24)


def assert_no_fault_is_proved(name: str, init: str, count: int) -> None:
    model, wider = grown(name, init)
    before = {key: value.clone() for key, value in wider.state_dict().items()}
    tally = sabotaged(model, wider, count, seed=1)
    assert tally.missed == []
    assert tally.total == count and tally.found.total() >= count // 2
    assert all(torch.equal(value, before[key]) for key, value in wider.state_dict().items())
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED


def refutation(model: nn.Module, wider: Any) -> str:
    certificate = fxgrow.certify(wider, model)
    assert certificate.verdict is Verdict.REFUTED, str(certificate)
    return certificate.weakest.detail


def test_a_witness_names_the_parameter_the_index_and_the_value() -> None:
    model, wider = grown("perceptron")
    name = [n for n, p in wider.named_parameters() if n.endswith("weight")][-1]
    weight = wider.get_parameter(name)
    column = model.get_parameter(name).shape[1]
    with torch.no_grad():
        weight[0, column] = 0.25
    certificate = fxgrow.certify(wider, model)
    assert certificate.verdict is Verdict.UNKNOWN  # the unit may be zero, for all that is known
    assert certificate.weakest.detail == (
        f"{name}: the column of a new unit should add up to 0, but row [0] makes 0.25 at column {column}, "
        f"and nothing is known of the unit that it reads"
    )
    with torch.no_grad():
        weight[0, column] = 0.0
        weight[1, 0] = 0.5
    was = model.get_parameter(name)[1, 0].item()
    assert refutation(model, wider) == f"{name}: old entry [1, 0] counts as 0.5, it should be {was:.9g}"


def test_eps_that_does_not_follow_is_refuted() -> None:
    model, wider = grown("encoder-prenorm")
    norm = next(m for m in wider.modules() if isinstance(m, nn.LayerNorm))
    eps = norm.eps
    norm.eps = 1e-5
    assert refutation(model, wider) == f"eps of LayerNorm is {1e-5:.12g}, it should be {eps:.12g}"


def test_another_activation_is_refuted() -> None:
    model, wider = grown("perceptron")
    name = next(n for n, m in wider.named_modules() if n and not list(m.parameters()) and not list(m.children()))
    old = type(wider.get_submodule(name)).__name__
    wider.add_module(name, nn.Softplus())
    assert refutation(model, wider) == f"it is a Softplus, it was a {old}"


def test_an_untied_weight_is_refuted() -> None:
    model, wider = grown("decoder")
    wider.get_submodule("head").weight = nn.Parameter(wider.get_submodule("head").weight.detach().clone())
    assert refutation(model, wider) == "head.weight shares its values with nothing, in the original with embed.weight"


def test_an_op_without_a_rule_is_unknown_where_it_meets_what_grew() -> None:
    model, wider = grown("perceptron", form="graph")
    graph = wider.graph
    node = next(n for n in graph.nodes if n.op == "call_module")
    user = next(iter(node.users))
    with graph.inserting_after(node):
        inserted = graph.call_function(torch.frac, (node,))
    user.replace_input_with(node, inserted)
    certificate = fxgrow.certify(wider, model)
    assert certificate.verdict is Verdict.UNKNOWN
    assert (
        certificate.weakest.detail == f"it reads {inserted}, which the original does not have, where that reads {node}"
    )


@pytest.mark.parametrize("fault", ["writes", "calls again"])
def test_a_node_that_nothing_reads_can_do_harm_all_the_same(fault: str) -> None:
    model = lively(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    wider: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(4, 5), verify=False, form="graph")
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED
    graph = wider.graph
    first, norm = [n for n in graph.nodes if n.op == "call_module"][:2]
    with graph.inserting_after(norm):
        if fault == "writes":
            graph.call_function(torch.relu_, (norm,))
        else:
            graph.call_module("1", (first,))
    certificate = fxgrow.certify(wider, model)
    assert certificate.verdict is Verdict.UNKNOWN
    assert (
        certificate.weakest.detail
        == {
            "writes": f"the original has no such node, and it writes to what {norm} shows",
            "calls again": "the original has no such node, and it calls 1, which the original calls",
        }[fault]
    )


def test_grow_certifies_and_the_record_holds_until_something_changes(tmp_path: Path) -> None:
    model = lively(perceptron())
    wider = fxgrow.grow(model, 2, example_inputs=torch.randn(1, 5))
    step = fxgrow.report(wider)
    assert step.certificate is not None and step.certificate.verdict is Verdict.PROVED
    fxgrow.save(wider, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", perceptron().double())
    for twin in (wider, copy.deepcopy(wider), loaded):
        assert fxgrow.certify(twin).verdict is Verdict.PROVED
    with torch.no_grad():
        loaded.get_parameter("0.weight")[0, 0] += 1
    certificate = fxgrow.certify(loaded)
    assert certificate.verdict is Verdict.UNKNOWN
    assert certificate.detail == "changed since it grew: 0.weight; pass the original"


def test_growth_without_verification_leaves_no_record() -> None:
    _, wider = grown("perceptron")
    assert fxgrow.certify(wider).detail == "no certificate was made when it grew; pass the original"


def test_what_cannot_be_certified_is_an_error() -> None:
    model, wider = grown("perceptron")
    with pytest.raises(FxgrowError) as error:
        fxgrow.certify(model)
    assert str(error.value) == (
        "Sequential was not grown by fxgrow: pass a module that fxgrow.grow or fxgrow.load returned"
    )
    with pytest.raises(FxgrowError) as error:
        fxgrow.certify(wider, wider)
    assert str(error.value) == (
        "the grown model did not grow from this original (at Sequential): "
        "pass the model that was grown, at any of its stages"
    )


def test_certifying_touches_neither_model() -> None:
    model, wider = grown("encoder")
    before = [t.clone() for m in (model, wider) for t in m.state_dict().values()]
    fxgrow.certify(wider, model)
    after = [t for m in (model, wider) for t in m.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("library", ["timm", pytest.param("torchvision", marks=pytest.mark.slow)])
def test_windows_that_are_shifted_and_biased_by_a_table(library: str) -> None:
    """Indices are reshaped before they pick, and masks are written piece by piece."""
    options: dict[str, Any] = {"embed_dim": 24, "depths": [2, 2], "num_heads": [3, 6]}
    if library == "timm":
        model = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, num_classes=5, **options)
    else:
        model = SwinTransformer3d([2, 4, 4], window_size=[2, 7, 7], num_classes=5, **options)
    shape = (2, 3, 56, 56) if library == "timm" else (1, 3, 8, 56, 56)
    model = lively(model)
    grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(shape, dtype=torch.float64), verify=False)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED


class Relative(nn.Module):
    """Channels biased by a table that an index reads, worked out from `arange`, in place and through a view."""

    def __init__(self, early_view: bool) -> None:
        super().__init__()
        self.early_view = early_view
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.table = nn.Parameter(torch.randn(12, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x: [batch, 5, 6]
        at = torch.arange(5, device=x.device).unsqueeze(0) * 0.5
        early = at[0]
        at += 3
        at = early if self.early_view else at[0]
        y = self.enter(x) + self.table[(at * 2).long()]
        return self.leave(torch.relu(y))


@pytest.mark.parametrize("early_view", [False, True])
def test_an_index_worked_out_from_numbers(early_view: bool) -> None:
    model = lively(Relative(early_view))
    wider = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 5, 6, dtype=torch.float64))
    certificate = fxgrow.certify(wider, model)
    assert certificate.verdict is Verdict.PROVED, str(certificate)  # its values, or that both models have the same
    if early_view:
        return
    with torch.no_grad():
        wider.table[6, :8] += 1  # an entry that is read
    assert fxgrow.certify(wider, model).verdict is Verdict.REFUTED


class Dropped(Relative):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x: [batch, 5, 6]
        at = nn.functional.dropout(torch.arange(5, device=x.device) * 1.0, 0.5, training=True)
        return self.leave(torch.relu(self.enter(x) + self.table[at.long()]))


def test_an_index_of_random_numbers_is_the_same_in_both_whatever_it_is() -> None:
    model = lively(Dropped(False))
    wider = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 5, 6, dtype=torch.float64), verify=False)
    before = torch.get_rng_state()
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED
    assert torch.equal(torch.get_rng_state(), before), "a proof draws no random numbers"


class DropConnect(nn.Module):
    """Weights of the middle layer are normalised, and then dropped at random."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x: [batch, 6]
        weight = nn.functional.dropout(self.middle.weight.softmax(0), 0.5, training=True)
        return self.leave(torch.relu(self.enter(x).tanh() @ weight))


def test_weights_that_are_dropped_are_compared_with_random_draws_off() -> None:
    model = lively(DropConnect())
    wider = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 6, dtype=torch.float64), verify=False)
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED


class Through(nn.Module):
    """All but the first token get something added to them, through a view; `part` is of tokens or of channels."""

    def __init__(self, part: tuple[slice, ...]) -> None:
        super().__init__()
        self.part = part
        self.enter, self.other, self.leave = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x: [batch, 5, 6]
        y = self.enter(x) * 1.0
        y[self.part] += self.other(x)[self.part]
        return self.leave(torch.relu(y))


def test_what_is_written_through_a_view() -> None:
    tokens = (slice(None), slice(1, None))
    model = lively(Through(tokens))
    wider: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 5, 6), form="graph")
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED
    view = next(n for n in wider.graph.nodes if n.name == "getitem")
    view.args = (view.args[0], (slice(None), slice(0, -1)))
    assert fxgrow.certify(wider, model).verdict is not Verdict.PROVED


def test_an_empty_tensor_may_grow() -> None:
    class Prefixed(Through):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # x: [batch, 5, 6]
            y = self.enter(x)
            return self.leave(torch.relu(torch.cat([y[:, :0], y], 1)))

    model = lively(Prefixed(()))
    wider = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 5, 6))
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED


class Rotated(nn.Module):
    """Angles worked out from a buffer, moved to where the input is, and from places on a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("rates", torch.linspace(0.5, 2.0, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x: [batch, 9, 6]
        y, _ = torch.meshgrid(torch.arange(3, device=x.device), torch.arange(3, device=x.device), indexing="ij")
        picked = nn.functional.one_hot(y.flatten(), 4).to(x.dtype)
        angles = picked * self.rates.to(x.device)
        return self.leave(self.enter(x) * angles.sum(1)[:, None].cos())


def test_angles_worked_out_on_the_device_of_an_input() -> None:
    model = lively(Rotated())
    wider = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 9, 6, dtype=torch.float64))
    certificate = fxgrow.certify(wider, model)
    assert certificate.verdict is Verdict.PROVED, str(certificate)
    wider.rates[1] += 0.5
    assert fxgrow.certify(wider, model).verdict is Verdict.REFUTED


def test_an_op_without_a_rule_on_numbers_of_the_forward() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.table, self.leave = nn.Linear(5, 8), nn.Embedding(9, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            places = torch.arange(x.shape[1])[None].expand(x.shape[0], -1).clamp(min=0)
            last = places.max(dim=1)[0]
            return self.leave(torch.relu(self.enter(x).mean(1) + self.table(last)))

    model = lively(Placed())
    grown = fxgrow.grow(model, 1.5, example_inputs=torch.randn(2, 4, 5))
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED


def test_a_spectral_norm_over_other_entries_is_refuted() -> None:
    spectral = parametrizations.spectral_norm
    model = nn.Sequential(spectral(nn.Linear(4, 6)), nn.Tanh(), spectral(nn.Linear(6, 2))).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(3, 4, dtype=torch.float64))
    part = grown[2].parametrizations.weight[0]
    assert part.core == (((0, 2),), ((0, 6),))
    part.core = (((0, 2),), ((1, 7),))
    assert "not taken over the old entries along axis 1" in str(fxgrow.certify(grown, model))
    part.core = (((0, 2),), ((0, 6),))
    assert fxgrow.certify(grown, model)
    part._u[0] += 0.1
    assert str(fxgrow.certify(grown, model).verdict) == "REFUTED"


def test_a_standardised_weight_whose_gain_stays_is_proved_and_over_other_entries_refuted() -> None:
    layers = nn.Conv2d(3, 6, 1), nn.ReLU(), ScaledStdConv2d(6, 4, 1), nn.Flatten()
    model = lively(nn.Sequential(*layers)).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(3, 3, 2, 2).double(), form="graph")
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    for graph in grown.graphs().values():
        (guard,) = (node for node in graph.nodes if node.target is standardize)
        assert guard.args[4] == ((0, 6),)
        guard.args = (*guard.args[:4], ((1, 7),))
    grown.recompile()
    assert fxgrow.certify(grown, model).verdict is Verdict.REFUTED


class Blended(nn.Module):
    """Takes numbers that are equal as it is captured, and may be others at another call."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, near: float = 2.0, far: float = 2.0) -> torch.Tensor:
        x = self.enter(x)
        return self.leave(x * near + x.tanh() * (near - 2 * far))  # type: ignore[no-any-return]


@pytest.mark.parametrize("of_tensors", [True, False])
def test_an_argument_in_place_of_another_is_refuted(of_tensors: bool) -> None:
    model = lively(Blended())
    wider: Any = fxgrow.grow(model, 1.5, example_inputs=torch.randn(2, 6), form="graph")
    assert fxgrow.certify(wider, model).verdict is Verdict.PROVED
    near, far = (node for node in wider.graph.nodes if node.op == "placeholder" and node.name != "x")
    other = {near: far, far: near}
    for node in {*near.users, *far.users}:
        if ("x" in map(str, node.all_input_nodes) or "enter" in map(str, node.all_input_nodes)) is of_tensors:
            node.args = tuple(other.get(item, item) for item in node.args)
    wider.recompile()
    assert fxgrow.certify(wider, model).verdict is Verdict.REFUTED


class ByArgument(nn.Module):
    """What it does hangs on its arguments and on how many samples there are; some of it has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor, double: bool = False) -> Tensor:
        x = self.norm(self.read(x).relu())
        x = x.abs() + 1 if x.shape[0] > 6 else x
        with torch.no_grad():
            mask = x > 0
        return self.head(x * mask * (2 if double else 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["settled", "compared", "enter_grad", "leave_grad"])
def test_a_graph_without_a_guard_or_a_context_of_the_original_is_not_proved(name: str) -> None:
    model = ByArgument()
    grown: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(4, 5), form="graph", verify=False)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    taken_out = [node for node in reversed(grown.graph.nodes) if getattr(node.target, "__name__", "") == name]
    for node in taken_out:
        for user in list(node.users):
            grown.graph.erase_node(user)
        grown.graph.erase_node(node)
    grown.recompile()
    certificate = fxgrow.certify(grown, model)
    assert taken_out and str(certificate.verdict) == "UNKNOWN"
    assert name in certificate.weakest.detail


def give_a_forward(part: Any) -> None:
    part.forward = lambda x: nn.functional.layer_norm(x, x.shape[-1:])


def give_a_hook(part: nn.Module) -> None:
    part.register_forward_hook(lambda part, given, output: nn.functional.layer_norm(given[0], output.shape[-1:]))


@pytest.mark.parametrize("change", [give_a_forward, give_a_hook])
@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("path", ["norm", "head"])
def test_the_record_does_not_hold_for_a_part_with_another_forward_or_a_hook(change: Any, form: str, path: str) -> None:
    grown = fxgrow.grow(ByArgument(), 2, example_inputs=torch.randn(4, 5), form=form)
    assert str(fxgrow.certify(grown).verdict) == "PROVED"
    change(grown.get_submodule(path))
    assert str(fxgrow.certify(grown).verdict) == "UNKNOWN"
