"""Parts whose own `train` makes what the forward reads in eval mode: they grow, and make it anew."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval
from torchvision.models.feature_extraction import create_feature_extractor

import fxgrow
from fxgrow.errors import CaptureError, PlanError
from fxgrow.modules.containers import flat_tensors
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error


class Biased(nn.Module):
    """Attention whose biases are gathered once, where eval mode is set (LeViT, TinyViT)."""

    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.biases = nn.Parameter(torch.randn(heads, 4))
        self.register_buffer("places", torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]))
        self.gathered: Tensor | None = None

    @torch.no_grad()
    def train(self, mode: bool = True) -> Any:  # returns nothing, as much of OpenMMLab's code
        super().train(mode)
        self.gathered = None if mode else self.biases[:, self.places]

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        biases = self.gathered_for(x)
        return self.proj(((q @ k.transpose(-2, -1) + biases).softmax(-1) @ v).transpose(1, 2).flatten(2))

    def gathered_for(self, x: Tensor) -> Any:
        return self.biases[:, self.places] if self.training else self.gathered


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.blocks = nn.Sequential(Biased(), Biased())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


X = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def net(training: bool) -> Any:
    torch.manual_seed(0)
    model = Net().double()
    model.train(training)
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("amounts", [{"width": 2}, {"width": 1.5, "depth": 2}])
def test_tensors_made_where_the_mode_is_set_are_made_of_the_grown_parameters(
    training: bool, amounts: dict[str, Any], tmp_path: Path
) -> None:
    model = net(training)
    grown = fxgrow.grow(model, **amounts, example_inputs=X)
    assert type(grown) is Net and grown.training is training
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert len(grown.blocks[0].biases) == (4 if amounts["width"] == 2 else 3)
    torch.testing.assert_close(grown(X), model(X), rtol=0, atol=1e-14)  # as it is, before its mode is set again
    assert max(worst_error(model, grown, (X,), mode) for mode in (True, False)) <= 1e-14
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    assert torch.equal(fxgrow.load(tmp_path / "grown.safetensors", model)(X), grown(X))


def test_a_graph_computes_them_at_each_call() -> None:
    model = net(training=False)
    grown = fxgrow.grow(model, width=2, example_inputs=X, form="graph")
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert max(worst_error(model, grown, (X,), mode) for mode in (True, False)) <= 1e-14


def test_such_a_tensor_that_is_out_of_date_is_refused() -> None:
    model = net(training=False)
    with torch.no_grad():
        model.blocks[1].biases.add_(1)
    with pytest.raises(CaptureError, match=r"keeps a tensor for eval mode that its parameters no longer give \(at blo"):
        fxgrow.grow(model, width=2, example_inputs=X)
    model.eval()
    assert fxgrow.report(fxgrow.grow(model, width=2, example_inputs=X)).certificate.verdict is Verdict.PROVED


def test_a_model_in_parts_whose_train_returns_nothing_grows() -> None:
    class Silent(nn.Sequential):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.detach().sum()) > -1e9 else x

    torch.manual_seed(0)
    model = Silent(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))).double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert list(fxgrow.report(grown).plan.parts) != []
    torch.testing.assert_close(grown(X), model(X), rtol=0, atol=1e-14)


class Frozen(nn.Module):
    """Reads a switch where its mode is set, so that a copy with the other value fails there."""

    def __init__(self, deep: bool = False) -> None:
        super().__init__()
        self.deep = deep
        setattr(self, "deep_stem" if deep else "stem", nn.Linear(5, 8))
        self.head = nn.Linear(8, 3)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        for parameter in (self.deep_stem if self.deep else self.stem).parameters():
            parameter.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.deep_stem if self.deep else self.stem)(x).relu())


def test_a_switch_whose_other_value_fails_where_the_mode_is_set_is_no_course() -> None:
    torch.manual_seed(0)
    model = Frozen().double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert type(grown) is Frozen and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    torch.testing.assert_close(grown(X), model(X), rtol=0, atol=1e-14)
    copy.deepcopy(grown).train()


class FrozenNorms(nn.Module):
    """Keeps its batch norms in eval mode, as backbones of detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.Conv1d(8, 3, 1)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


def test_parts_that_a_change_of_mode_leaves_as_they_are_are_left_so() -> None:
    torch.manual_seed(0)
    model = FrozenNorms().double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert not grown.train().norm.training and grown.training
    torch.testing.assert_close(grown(X), model.train()(X), rtol=0, atol=1e-14)
    with pytest.raises(
        PlanError, match="a graph cannot keep that a change to train mode leaves 1 of its parts as they"
    ):
        fxgrow.grow(model, width=2, example_inputs=X, form="graph")


class Caching(Biased):
    """Keeps the biases that it gathered in eval mode for the next call, until it is trained (timm's LeViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    @torch.no_grad()
    def train(self, mode: bool = True) -> Any:
        nn.Module.train(self, mode)
        if mode and self.cache:
            self.cache = {}
        return self

    def gathered_for(self, x: Tensor) -> Any:
        if not self.training and str(x.device) not in self.cache:
            self.cache[str(x.device)] = self.biases[:, self.places]
        return self.biases[:, self.places] if self.training else self.cache[str(x.device)]


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_what_is_kept_for_the_next_call_is_not_made_where_the_mode_is_set(form: str) -> None:
    torch.manual_seed(0)
    model = net(training=False)
    model.blocks = nn.Sequential(Caching(), Caching()).double().eval()
    grown = fxgrow.grow(model, width=2, example_inputs=X, form=form)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert max(worst_error(model, grown, (X,), mode) for mode in (True, False)) <= 1e-14


class Dropping(nn.Module):
    """Its forward asks for its mode, so that a graph of it is of one mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 8)
        self.b = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(F.relu(self.a(x)), 0.5, self.training))


class Around(nn.Module):
    """Runs a feature extractor of torchvision, which sets another graph where its mode is set."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = create_feature_extractor(Dropping(), ["b"])
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)["b"])


def is_random(model: nn.Module) -> bool:
    outputs = [next(flat_tensors(model(X))) for _ in range(2)]
    return not torch.equal(*outputs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_modules_that_set_another_graph_with_their_mode_grow_in_both(
    training: bool, nested: bool, tmp_path: Path
) -> None:
    model, other = ((Around() if nested else create_feature_extractor(Dropping(), ["b"])).double() for _ in range(2))
    model.train(training)
    extractor: Any = model.backbone if nested else model
    graphs = extractor.graph, extractor.train_graph, extractor.eval_graph
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", other.train(not training))
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert (type(grown) is Around) is nested
    assert all(
        each is before
        for each, before in zip((extractor.graph, extractor.train_graph, extractor.eval_graph), graphs, strict=True)
    )
    assert all(graph.owning_module is extractor for graph in graphs[:1])
    for each in (model, grown, loaded):
        assert each.training is training and is_random(each) is training  # as it is, before its mode is set again
    for mode in (True, False):
        grown.train(mode)
        assert is_random(grown) is mode and is_random(model) is training
    assert worst_error(model, grown, (X,), False) <= 1e-14


def test_gradients_are_taken_in_train_mode_after_which_each_part_is_in_its_own() -> None:
    model = Around().double().eval()
    grown = fxgrow.grow(
        model, width=2, example_inputs=X, init="gradmax", loss=lambda net: net(X).square().sum(), verify=False
    )
    assert not grown.training and not is_random(grown) and not is_random(model)


class Flagged(nn.Module):
    """Keeps the mode in an attribute of its own, by which it computes."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, width), nn.Linear(width, 3)
        self.drops = True

    def train(self, mode: bool = True) -> Any:
        self.drops = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.a(x).relu(), 0.5, self.drops))


def test_a_copy_of_a_target_is_switched_to_the_mode_of_the_model() -> None:
    model = Flagged().double().eval()
    grown = fxgrow.grow(model, like=Flagged(16).double(), example_inputs=X)
    assert not grown.training and not is_random(grown) and not is_random(model)
    assert is_random(grown.train())


class Fused(nn.Module):
    """Makes a layer of two for eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.fused: nn.Module | None = None

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.fused = None if mode else fuse_linear_bn_eval(self.a, self.norm)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.b((self.norm(self.a(x)) if self.fused is None else self.fused(x)).relu())


def test_a_part_that_is_made_for_eval_mode_has_to_be_there() -> None:
    x = torch.randn(4, 5)
    with pytest.raises(CaptureError) as error:
        fxgrow.grow(Fused(), width=2, example_inputs=x)
    assert str(error.value) == (
        "a change to eval mode gives the model a part that it does not have now (at fused): "
        "call model.eval() first, then grow it"
    )
    model = Fused().eval()
    grown = fxgrow.grow(model, width=2, example_inputs=x)
    torch.testing.assert_close(grown(x), model(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(grown.train().eval()(x), model(x), rtol=0, atol=1e-5)  # it is made anew
    torch.testing.assert_close(grown.train()(x), model.train()(x), rtol=0, atol=1e-5)


class Extracting(nn.Module):
    """Has a feature extractor of torchvision's, a copy of which is in train mode."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(), nn.Conv2d(8, 8, 1))
        self.features, self.leave = create_feature_extractor(inner, {"2": "last"}), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.features(x)["last"].mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
def test_copies_are_in_the_mode_of_what_they_are_copies_of(training: bool) -> None:
    model = Extracting().train(training)
    model.features.train(not training)
    grown = fxgrow.grow(model, 1.5, example_inputs=torch.randn(2, 3, 4, 4))
    for other in (grown, fxgrow.fold(grown)):
        assert {path: part.training for path, part in other.named_modules()} == {
            path: part.training for path, part in model.named_modules()
        }
