"""Norms over old units that become norms over all units."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.parametrize import ParametrizationList

import fxgrow
from fxgrow import guards
from fxgrow.errors import FxgrowError
from fxgrow.own.call_edits import CallEdit
from tests.models import lively
from tests.pairing import few, in_turn, slow
from tests.test_guards import assert_near, normal

FORMS = pytest.mark.parametrize("form", ["module", "graph"])
X = normal(3, 6)


class Written(nn.Module):
    """A norm that the forward calls itself, at a size that it was built with."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.layer_norm(self.one(x).sigmoid(), self.gain.shape, self.gain))


def layers(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), norm, nn.Linear(8, 3))


MODELS = {
    "layer_norm": lambda: layers(nn.LayerNorm(8)),
    "rms_norm": lambda: layers(nn.RMSNorm(8, eps=1e-6)),
    "group_norm": lambda: layers(nn.GroupNorm(1, 8)),
    "written": Written,
}
KINDS = pytest.mark.parametrize("kind", MODELS)
KIND_AND_FORM = pytest.mark.parametrize(("kind", "form"), in_turn(MODELS, ("module", "graph")))


def pair(kind: str, form: str = "auto") -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = lively(MODELS[kind]()).double().eval()
    grown = fxgrow.grow(model, 2, example_inputs=X, form=form).eval()
    assert any("guarded" in group.how for group in fxgrow.report(grown).plan.groups)
    return model, grown


def built_by_hand(kind: str, grown: nn.Module) -> nn.Module:
    """The model of the grown sizes, of torch's own norms."""
    twin: Any = MODELS[kind]()
    wide = {"layer_norm": nn.LayerNorm(16), "rms_norm": nn.RMSNorm(16, eps=1e-6), "group_norm": nn.GroupNorm(1, 16)}
    if kind == "written":
        twin.gain = nn.Parameter(torch.ones(16))
        twin.one, twin.two = nn.Linear(6, 16), nn.Linear(16, 3)
    else:
        twin = nn.Sequential(nn.Linear(6, 16), nn.Sigmoid(), wide[kind], nn.Linear(16, 3))
    twin.double().load_state_dict(grown.state_dict())
    return twin.eval()  # type: ignore[no-any-return]


@KINDS
@FORMS
def test_it_leads_from_the_grown_function_to_that_of_torch_s_norm(kind: str, form: str) -> None:
    model, grown = pair(kind, form)
    names = list(grown.state_dict())
    outputs = [grown(X)]
    for share in (1e-9, 0.25, 0.5, 1 - 1e-9):
        fxgrow.settle(grown, share)
        outputs.append(grown(X))
    fxgrow.settle(grown, 1)
    outputs.append(grown(X))
    torch.testing.assert_close(outputs[0], model(X), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(outputs[-2], outputs[-1], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(outputs[-1], built_by_hand(kind, grown)(X), rtol=1e-12, atol=1e-12)
    assert float((outputs[0] - outputs[-1]).abs().max()) > 1e-3
    assert list(grown.state_dict()) == names
    assert "guards" not in str(grown)


def doubled(grown: Any, folder: Path) -> None:
    parametrize.register_parametrization(grown.get_submodule("2"), "weight", Doubled())


def divided(grown: Any, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    for part in (*grown.children(), grown):
        fully_shard(part, mesh=init_device_mesh("cpu", (1,)))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def settle_alike(rank: int, kind: str, form: str, way: Any, folder: Path) -> None:
    """Settle a model whose norms are of a subclass beside one whose norms are not."""
    _, grown = pair(kind, form)
    plain = copy.deepcopy(grown)
    plain.get_submodule("2").weight.data *= 2 if way is doubled else 1
    way(grown, folder)
    assert type(grown.get_submodule("2")) is not type(plain.get_submodule("2"))
    for share in (0, 0.5, 1):
        fxgrow.settle(grown, share)
        fxgrow.settle(plain, share)
        torch.testing.assert_close(grown(X), plain(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", [doubled, divided])
@pytest.mark.parametrize(("kind", "form"), in_turn(("layer_norm", "rms_norm", "group_norm"), ("module", "graph")))
def test_norms_of_whose_class_torch_makes_a_subclass(kind: str, form: str, way: Any, tmp_path: Path) -> None:
    """Divided ones in a process of their own: where autograd has met a mesh, no forked process can go backward."""
    if way is divided:
        torch.multiprocessing.start_processes(settle_alike, (kind, form, way, tmp_path), nprocs=1, start_method="fork")
    else:
        settle_alike(0, kind, form, way, tmp_path)


@KIND_AND_FORM
def test_back_to_the_old_units(kind: str, form: str) -> None:
    model, grown = pair(kind, form)
    fxgrow.settle(grown, 0.5)
    assert str(fxgrow.certify(grown, model).verdict) == "UNKNOWN"
    fxgrow.settle(grown, 0)
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm", "group_norm"])
def test_torch_s_class_comes_back(kind: str) -> None:
    _, grown = pair(kind)
    fxgrow.settle(grown, 1)
    plain = MODELS[kind]()
    assert [type(part) for part in grown.modules()] == [type(part) for part in plain.modules()]
    assert grown[2].__dict__.keys() == plain[2].__dict__.keys()
    assert "16" in grown[2].extra_repr()


@KIND_AND_FORM
@pytest.mark.parametrize("share", [0.5, slow(1)])
def test_nothing_says_proved_of_another_function(kind: str, form: str, share: float) -> None:
    model, grown = pair(kind, form)
    births = fxgrow.births(grown)
    assert str(fxgrow.certify(grown).verdict) == "PROVED"
    fxgrow.settle(grown, share)
    step = fxgrow.report(grown)
    assert (step.settled, step.certificate, step.verification) == (share, None, None)
    for certificate in (fxgrow.certify(grown), fxgrow.certify(grown, model)):
        assert str(certificate.verdict) == "UNKNOWN"
        assert "fxgrow.settle" in str(certificate)
    assert fxgrow.births(grown) == births


@KIND_AND_FORM
@pytest.mark.parametrize("share", [0.5, slow(1)])
def test_files_keep_it(kind: str, form: str, share: float, tmp_path: Path) -> None:
    model, grown = pair(kind, form)
    fxgrow.settle(grown, share)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    again = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert torch.equal(again(X), grown(X))
    assert fxgrow.report(again) == fxgrow.report(grown)
    assert str(fxgrow.certify(again, model).verdict) == "UNKNOWN"


@KINDS
def test_torch_saves_and_copies_it(kind: str) -> None:
    _, grown = pair(kind)
    fxgrow.settle(grown, 0.5)
    file = io.BytesIO()
    torch.save(grown, file)
    file.seek(0)
    for twin in (torch.load(file, weights_only=False), copy.deepcopy(grown)):
        assert torch.equal(twin(X), grown(X))
        fxgrow.settle(twin, 1)
        torch.testing.assert_close(twin(X), built_by_hand(kind, twin)(X), rtol=1e-12, atol=1e-12)


@KIND_AND_FORM
def test_what_is_settled_grows_as_any_model_does(kind: str, form: str, tmp_path: Path) -> None:
    model, grown = pair(kind, form)
    fxgrow.settle(grown, 1)
    before = grown(X)
    wider = fxgrow.grow(grown, 1.5, example_inputs=X)
    torch.testing.assert_close(wider(X), before, rtol=1e-10, atol=1e-10)
    assert str(fxgrow.certify(wider, grown).verdict) == "PROVED"
    assert str(fxgrow.certify(wider, model).verdict) == "UNKNOWN"
    fxgrow.settle(wider, 0.5)
    fxgrow.save(wider, tmp_path / "wider.safetensors")
    assert torch.equal(fxgrow.load(tmp_path / "wider.safetensors", model)(X), wider(X))


@KIND_AND_FORM
def test_a_guard_that_grew_twice_is_settled(kind: str, form: str) -> None:
    _, grown = pair(kind, form)
    wider: Any = fxgrow.grow(grown, 1.5, example_inputs=X).eval()
    expected = wider(X)
    fxgrow.settle(wider, 1e-9)
    torch.testing.assert_close(wider(X), expected, rtol=1e-7, atol=1e-7)
    fxgrow.settle(wider, 1 - 1e-9)
    expected = wider(X)
    fxgrow.settle(wider, 1)
    torch.testing.assert_close(wider(X), expected, rtol=1e-7, atol=1e-7)


class WrittenTwice(Written):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        h = F.layer_norm(self.one(x).sigmoid(), self.gain.shape, self.gain).sigmoid()
        return self.two(F.layer_norm(h, self.other.shape, self.other))


def test_a_model_of_which_one_norm_cannot_be_settled_stays_as_it_is() -> None:
    model = lively(nn.Sequential(*layers(nn.LayerNorm(8))[:3], nn.Linear(8, 6), WrittenTwice())).double()
    grown: Any = fxgrow.grow(model, 1.5, example_inputs=X)
    moved = CallEdit(guards.NORMS["layer_norm"], 0, "literal", ("args", 5), ((0, 8),))
    grown[4].edits = (*grown[4].edits, (moved,))  # what a growth leaves that puts old units elsewhere
    before, guard = grown(X), repr(grown[2])
    with pytest.raises(FxgrowError, match="computes several norms itself"):
        fxgrow.settle(grown, 1)
    assert torch.equal(grown(X), before) and repr(grown[2]) == guard


def test_half_way_its_units_do_not_grow() -> None:
    _, grown = pair("layer_norm")
    fxgrow.settle(grown, 0.5)
    with pytest.raises(FxgrowError, match="settling"):
        fxgrow.grow(grown, 1.5, example_inputs=X)


@pytest.mark.parametrize("form", few(("module", "graph"), "graph"))
def test_files_keep_shares_of_earlier_growths(form: str, tmp_path: Path) -> None:
    """A norm that was settled before another growth stays so, whatever new guards that growth brings."""

    def kept(grown: nn.Module) -> bool:
        fxgrow.save(grown, tmp_path / "grown.safetensors")
        return torch.equal(fxgrow.load(tmp_path / "grown.safetensors", model)(X), grown(X))

    torch.manual_seed(0)
    parts = [nn.Linear(6, 8), nn.Sigmoid(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Sigmoid(), nn.LayerNorm(8)]
    model = lively(nn.Sequential(*parts, nn.Linear(8, 3))).double().eval()
    grown = fxgrow.grow(model, {"0": 2}, example_inputs=X, form=form).eval()
    old_units = grown(X)
    fxgrow.settle(grown, 0.5)
    wider = fxgrow.grow(grown, {"3": 2}, example_inputs=X, form=form).eval()
    torch.testing.assert_close(wider(X), grown(X), rtol=1e-12, atol=1e-12)
    assert kept(wider)
    for share in (0.25, 0):
        fxgrow.settle(wider, share)
        assert kept(wider)
    torch.testing.assert_close(wider(X), old_units, rtol=1e-12, atol=1e-12)
    assert fxgrow.report(wider).settled == 0 and fxgrow.report(grown).settled == 0.5


@pytest.mark.slow
def test_a_model_of_timm_is_of_its_classes_again() -> None:
    torch.manual_seed(0)
    model, images = lively(timm.create_model("test_convnext")).double().eval(), normal(2, 3, 64, 64)
    grown: Any = fxgrow.grow(model, 1.5, depth=1.5, example_inputs=images, verify=False).eval()
    fxgrow.settle(grown, 0.5)
    half = grown(images)
    fxgrow.settle(grown, 1)
    assert {type(part) for part in grown.modules()} == {type(part) for part in model.modules()}
    for part in grown.modules():
        if isinstance(part, nn.LayerNorm):
            assert part.normalized_shape == tuple(part.weight.shape)
    assert float((half - grown(images)).abs().max()) > 0


@pytest.mark.parametrize("norm", guards.NORMS)
def test_the_weighted_norm_between_its_ends(norm: str) -> None:
    x, weight, bias = normal(2, 12), normal(12, seed=1), None if norm == "rms_norm" else normal(12, seed=2)
    shape, core = 2 if norm == "group_norm" else (12,), ((0, 2), (3, 5))
    arguments = (x, shape, weight, bias, 1e-6, core)
    for share in (0, 1):
        function, operands = guards.settled_call(norm, arguments, share)
        assert_near(guards.settling(x, norm, shape, weight, bias, 1e-6, core, share), function(*operands))
    function, operands = guards.settled_call(norm, arguments, 0.5)
    assert function is guards.settling
    assert torch.autograd.gradcheck(lambda x: function(x, *operands[1:]), (x.requires_grad_(),))


def test_half_a_unit_counts_half() -> None:
    x = torch.tensor([[1.0, 3.0, 8.0]], dtype=torch.float64)
    mean = (1 + 3 + 0.5 * 8) / 2.5
    variance = ((1 - mean) ** 2 + (3 - mean) ** 2 + 0.5 * (8 - mean) ** 2) / 2.5
    output = guards.settling(x, "layer_norm", (3,), None, None, 0.0, ((0, 2),), 0.5)
    torch.testing.assert_close(output, (x - mean) / variance**0.5)


@pytest.mark.parametrize("share", [-0.1, 1.1, "half", True, float("nan")])
def test_shares_out_of_range_are_refused(share: Any) -> None:
    _, grown = pair("layer_norm")
    with pytest.raises(FxgrowError, match="share is"):
        fxgrow.settle(grown, share)


def test_what_has_no_guard_is_refused() -> None:
    with pytest.raises(FxgrowError, match="was not grown"):
        fxgrow.settle(MODELS["layer_norm"](), 1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with pytest.raises(FxgrowError, match="no norm over old units"):
        fxgrow.settle(fxgrow.grow(model, 2, example_inputs=X), 1)
    _, grown = pair("layer_norm")
    fxgrow.settle(grown, 1)
    fxgrow.settle(grown, 1)  # there already
    with pytest.raises(FxgrowError, match="all were settled"):
        fxgrow.settle(grown, 0.5)


@FORMS
def test_spectral_norms_settle_on_all_entries_from_where_they_were(form: str) -> None:
    torch.manual_seed(0)
    layer = parametrizations.spectral_norm
    model = nn.Sequential(layer(nn.Conv2d(3, 4, 3)), nn.Tanh(), layer(nn.ConvTranspose2d(4, 2, 2)), nn.Tanh()).double()
    x = normal(2, 3, 6, 6)
    for _ in range(20):
        model(x)
    grown: Any = fxgrow.grow(model.eval(), 2, example_inputs=x, form=form).eval()
    before = grown(x)
    fxgrow.settle(grown, 0.5)
    assert torch.equal(grown(x), before)
    fxgrow.settle(grown, 1)
    parts = [part for part in grown.modules() if isinstance(part, ParametrizationList)]
    assert [type(part[0]) for part in parts] == [parametrizations._SpectralNorm] * 2
    assert_near(grown(x), before)  # until the next step of the power iteration
    for _ in range(200):
        grown.train()(x)
    for part in parts:
        part.eval()
        weight = part().flatten(1) if part is parts[0] else part().transpose(0, 1).flatten(1)
        assert_near(torch.linalg.matrix_norm(weight, 2), torch.ones((), dtype=torch.float64))
