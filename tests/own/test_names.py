"""New blocks are called what a deeper model of the class would call them, wherever names are counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import timm.optim
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(torch.relu(self.enter(x)))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Blocks that the forward goes through in order, whatever they are called; the first is no block."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        for number in range(depth):
            self.add_module(f"b{number + 1}", nn.Conv2d(3, width, 3) if number == 0 else Residual(width))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


class Net(nn.Module):
    def __init__(self, depth: int = 3, width: int = 4) -> None:
        super().__init__()
        self.stage, self.head = Stage(depth, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(x).mean((2, 3)))  # type: ignore[no-any-return]


class ByName(nn.Module):
    """As many blocks, but the forward asks for each by its name."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.layer1, self.layer2, self.layer3 = Residual(width), Residual(width), Residual(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number in (1, 2, 3):
            x = getattr(self, f"layer{number}")(x)
        return x


@pytest.mark.parametrize("form", ["module", "graph"])
def test_parts_that_are_counted_in_a_module_of_any_class_are_counted_anew(form: str) -> None:
    model = Net().double()
    grown = fxgrow.grow(model, depth="+3", example_inputs=X, form=form)
    children = fxgrow.report(grown).plan.depth.children[0]
    assert [new for new, _ in children.names] == [f"b{number}" for number in range(1, 7)]
    assert [old for _, old in children.names if old] == ["b1", "b2", "b3"]
    assert children.names[-1][1] == "", "new ones stand between those that were there, too"
    assert grown.state_dict().keys() == Net(6).state_dict().keys()
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    native = Net(6).double()
    native.load_state_dict(grown.state_dict())
    assert torch.allclose(native(X.double()), model(X.double()), atol=1e-12)
    assert {name for name, birth in fxgrow.births(grown).items() if min(birth.counts()) == 0} == {
        f"stage.{new}.{leaf}"
        for new, old in children.names
        if old
        for leaf, _ in model.get_submodule(f"stage.{old}").named_parameters()
    } | {"head.weight", "head.bias"}


def test_it_grows_toward_a_deeper_one_of_its_class() -> None:
    model, target = Net(), Net(5, 6)
    grown = fxgrow.grow(model, like=target, example_inputs=X)
    assert {n: t.shape for n, t in grown.state_dict().items()} == {n: t.shape for n, t in target.state_dict().items()}
    assert type(grown) is Net


def test_parts_that_a_forward_asks_for_by_name_keep_their_names() -> None:
    grown = fxgrow.grow(ByName(), depth={"layer3": "+1"}, example_inputs=X)
    assert {"layer1", "layer2", "layer3"} <= set(dict(grown.named_children()))
    assert "layer4" not in dict(grown.named_children())


@pytest.mark.slow
def test_layer_decay_groups_what_timm_counts() -> None:
    model = timm.create_model("regnetx_002", num_classes=4)
    deep = fxgrow.grow(model, depth={"s3": "+2", "s4": "+1"}, example_inputs=torch.randn(2, 3, 32, 32), verify=False)
    assert [list(dict(getattr(deep, stage).named_children())) for stage in ("s3", "s4")] == [
        [f"b{number}" for number in range(1, 7)],
        [f"b{number}" for number in range(1, 9)],
    ]
    groups = [timm.optim.param_groups_layer_decay(net, layer_decay=0.5) for net in (model, deep)]
    scales = [{group["lr_scale"] for group in each} for each in groups]
    assert len(scales[1]) == len(scales[0]) + 3


class Counted(nn.Module):
    """Works out the names of its blocks: from their number, or from a list of names."""

    def __init__(self, by: object, depth: int = 3, width: int = 4) -> None:
        super().__init__()
        self.stem, self.by = nn.Conv2d(3, width, 3), by
        for number in range(1, depth + 1):
            self.add_module(f"layer{number}", Residual(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in self.by if isinstance(self.by, list) else [f"layer{k}" for k in range(1, self.by + 1)]:  # type: ignore[operator]
            x = getattr(self, name)(x)
        return x


@pytest.mark.parametrize("by", [lambda n: n, lambda n: [f"layer{k + 1}" for k in range(n)]], ids=["number", "names"])
def test_names_that_a_forward_works_out_go_on(by: Callable[[int], object]) -> None:
    model = Counted(by(3)).double()
    grown = fxgrow.grow(model, depth=2, example_inputs=X)
    assert type(grown) is Counted and grown.by == by(6)
    assert grown.state_dict().keys() == Counted(by(6), 6).state_dict().keys()
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert torch.allclose(grown(X.double()), model(X.double()), atol=1e-12)
