"""Norms that graphs call as modules: hooks run, and what is proved has the functions that they call."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.capture import GrownGraphModule, spelled_out
from fxgrow.guarded_norms import NATIVE
from tests.models import lively

ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class OwnForward(nn.LayerNorm):
    """As timm's: the same, by a forward of its own, which capture goes into."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Block(nn.Module):
    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm = norm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.sigmoid(self.up(self.norm(x))))


class Model(nn.Module):
    """With a sigmoid before the norms if they are to be guarded; without, new units of the stream may be means."""

    def __init__(self, norm: Any, guarded: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.Sequential(Block(norm), Block(norm))
        self.norm = nn.LayerNorm(8, elementwise_affine=False) if guarded else norm(8)
        self.act = nn.Sigmoid() if guarded else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.act(self.stem(x)))))  # type: ignore[no-any-return]


def model(norm: Any, guarded: bool) -> Model:
    torch.manual_seed(0)
    return lively(Model(norm, guarded)).double().eval()


def grown_graph(original: nn.Module, *amounts: float) -> GrownGraphModule:
    grown = fxgrow.grow(original, *amounts, form="graph", example_inputs=ROWS, verify="full")
    assert isinstance(grown, GrownGraphModule)
    assert str(certificate_of(grown).verdict) == "PROVED"
    return grown


def certificate_of(grown: nn.Module) -> Any:
    return fxgrow.report(grown).certificate


def assert_same(grown: nn.Module, original: nn.Module) -> None:
    for training in (False, True):
        torch.testing.assert_close(grown.train(training)(ROWS), original.train(training)(ROWS), rtol=1e-10, atol=1e-12)
    grown.eval()
    original.eval()


NORMS = [
    pytest.param(nn.LayerNorm, True, id="guarded LayerNorm"),
    pytest.param(nn.RMSNorm, True, id="guarded RMSNorm"),
    pytest.param(lambda size: nn.GroupNorm(1, size), True, id="guarded GroupNorm"),
    pytest.param(OwnForward, True, id="guarded, with a forward of its own"),
    pytest.param(OwnForward, False, id="with a forward of its own"),
]


@pytest.mark.parametrize(("norm", "guarded"), NORMS)
def test_hooks_on_norms_run_and_no_norm_is_a_function(norm: Any, guarded: bool) -> None:
    original = model(norm, guarded)
    grown = grown_graph(original, 1.5)
    seen: list[str] = []
    kinds = tuple(NATIVE)
    norms = {name: part for name, part in grown.named_modules() if isinstance(part, kinds)}
    assert norms.keys() == {"blocks.0.norm", "blocks.1.norm", "norm"}
    assert all(isinstance(part, tuple(NATIVE.values())) == guarded for part in norms.values())
    assert not any(node.op == "get_attr" for node in grown.graph.nodes)
    for name, part in norms.items():
        part.register_forward_hook(lambda *_, name=name: seen.append(name))
    assert_same(grown, original)
    assert seen == ["blocks.0.norm", "blocks.1.norm", "norm"] * 2


SAVED = [NORMS[0], *(pytest.param(*norm.values, id=norm.id, marks=pytest.mark.slow) for norm in NORMS[1:])]


@pytest.mark.parametrize(("norm", "guarded"), SAVED)
def test_such_graphs_are_proved_saved_copied_and_grow_on(norm: Any, guarded: bool, tmp_path: Path) -> None:
    original = model(norm, guarded)
    grown = grown_graph(original, 1.5)
    further = grown_graph(grown, 1.5, 1.5)
    for later in (grown, further):
        assert_same(later, original)
        assert str(fxgrow.certify(later, original).verdict) == "PROVED"
        fxgrow.save(later, tmp_path / "grown.safetensors")
        loaded = fxgrow.load(tmp_path / "grown.safetensors", original)
        assert str(loaded) == str(later)
        assert str(fxgrow.certify(loaded).verdict) == "PROVED"
        for copied in (loaded, copy.deepcopy(later), pickle.loads(pickle.dumps(later))):
            assert torch.equal(copied(ROWS), later(ROWS))
    assert_same(grown_graph(fxgrow.grow(original, 1.5, example_inputs=ROWS), 1.5), original)


def test_a_certificate_sees_what_a_norm_has_become() -> None:
    """Its numbers are read off the module, and a graph that calls torch's own norm takes it over all units."""
    original = model(nn.LayerNorm, True)
    grown = grown_graph(original, 1.5)
    norm: Any = grown.get_submodule("blocks.1.norm")
    for name, value in (("eps", 1e-3), ("core", ((0, 7),)), ("__class__", nn.LayerNorm)):
        before = getattr(norm, name)
        setattr(norm, name, value)
        assert str(fxgrow.certify(grown, original).verdict) != "PROVED", name
        setattr(norm, name, before)
    assert str(fxgrow.certify(grown, original).verdict) == "PROVED"


def test_what_is_spelled_out_is_what_runs() -> None:
    grown = grown_graph(model(OwnForward, True), 1.5)
    functions = copy.deepcopy(grown)
    functions.graph = spelled_out(functions)["both"]
    assert {node.target for node in functions.graph.nodes if node.op == "get_attr"} == {
        f"blocks.{k}.norm.{name}" for k in (0, 1) for name in ("weight", "bias")
    }
    assert torch.equal(functions(ROWS), grown(ROWS))


class Twice(nn.Module):
    """One weight, read by two norms that differ; and a norm of a bias that is somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.norm, self.other = nn.LayerNorm(8), nn.LayerNorm(8)
        self.shift = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.stem(x))
        for eps in (1e-5, 1e-3):
            x = torch.sigmoid(F.layer_norm(x, (x.shape[-1],), self.norm.weight, self.norm.bias, eps))
        return self.head(F.layer_norm(x, (x.shape[-1],), self.other.weight, self.shift))  # type: ignore[no-any-return]


def test_norms_that_no_module_can_compute_stay_functions() -> None:
    torch.manual_seed(0)
    original = lively(Twice()).double().eval()
    grown = grown_graph(original, 1.5)
    assert sum("layer_norm" in str(node.target) for node in grown.graph.nodes) == 3
    assert_same(grown, original)
    assert_same(grown_graph(grown, 1.5), original)


def test_settled_norms_are_torchs_own(tmp_path: Path) -> None:
    original = model(OwnForward, True)
    grown = grown_graph(original, 1.5)
    fxgrow.settle(grown, 0.25)
    assert "share=0.25" in str(grown.get_submodule("blocks.0.norm"))
    fxgrow.settle(grown, 0)
    assert_same(grown, original)
    fxgrow.settle(grown, 1)
    assert {type(grown.get_submodule(name)) for name in ("blocks.0.norm", "blocks.1.norm", "norm")} == {nn.LayerNorm}
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    assert torch.equal(fxgrow.load(tmp_path / "grown.safetensors", original)(ROWS), grown(ROWS))
    assert_same(grown_graph(grown, 1.5), grown)


def test_multipliers_before_and_after_them_fold() -> None:
    original = model(OwnForward, True)
    grown = fxgrow.grow(
        original, 1.5, form="graph", example_inputs=ROWS, parameterization="variance-transfer", verify="full"
    )
    folded = fxgrow.fold(grown)
    assert_same(folded, original)
    assert str(fxgrow.certify(folded, original).verdict) == "PROVED"
