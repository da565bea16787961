"""Runs of blocks that the class cannot have more of are held, and what is inside them is deepened."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error
from tests.models import Branched

X = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Stage(nn.Module):
    """A branch around branches."""

    def __init__(self) -> None:
        super().__init__()
        self.branches, self.out = nn.ModuleList([Branched(6, 12)]), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for branch in self.branches:
            y = branch(y)
        return x + self.out(y)  # type: ignore[no-any-return]


class Paired(nn.Module):
    """Goes through two lists at once, as the U-Nets of diffusers do: one of them cannot be longer."""

    def __init__(self) -> None:
        super().__init__()
        self.mixers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.stages = nn.ModuleList([Stage(), Stage()])

    def forward(self, x: Tensor) -> Tensor:
        for mixer, stage in zip(self.mixers, self.stages, strict=False):
            x = stage(mixer(x))
        return x


def test_blocks_that_the_class_cannot_have_are_held() -> None:
    torch.manual_seed(0)
    model = Paired().double()
    by_name = fxgrow.grow(model, depth={"stages": 2}, example_inputs=X)
    assert isinstance(by_name, torch.fx.GraphModule) and fxgrow.report(by_name).plan.depth.runs[0].after == 4
    grown = fxgrow.grow(model, depth=2, example_inputs=X)
    assert type(grown) is Paired and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert [len(grown.stages), *(len(stage.branches) for stage in grown.stages)] == [2, 2, 2]
    assert all(worst_error(model, grown, (X,), training=mode) < 1e-12 for mode in (False, True))
    held = fxgrow.report(grown).plan.held
    assert any("Paired cannot hold its growth" in staying.reason for staying in held)


class Looped(nn.Module):
    """Goes through a list by a loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x


class Staged(nn.Module):
    """Three parts of one class as attributes, which the forward calls by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = Looped(), Looped(), Looped()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.first(x)))  # type: ignore[no-any-return]


def test_lists_inside_parts_that_are_attributes_are_deepened() -> None:
    model = Staged().double()
    grown = fxgrow.grow(model, depth=1.5, example_inputs=X)
    assert type(grown) is Staged and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert [len(part.layers) for part in (grown.first, grown.again, grown.last)] == [3, 3, 3]
    assert worst_error(model, grown, (X,), training=True) < 1e-12


class ByNumber(nn.Module):
    """Has no run but one that the class cannot lengthen."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([Branched(6, 12), Branched(6, 12)])

    def forward(self, x: Tensor) -> Tensor:
        return self.branches[1](self.branches[0](x))  # type: ignore[no-any-return]


def test_where_no_run_would_be_left_a_graph_has_the_blocks() -> None:
    model = ByNumber().double()
    grown = fxgrow.grow(model, depth=1.5, example_inputs=X)
    assert isinstance(grown, torch.fx.GraphModule) and fxgrow.report(grown).plan.depth.runs[0].after == 3
    assert worst_error(model, grown, (X,), training=True) < 1e-12


class Reader(nn.Module):
    """Reads by a layer of its own, behind a linear one of another place."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return (self.query(x) @ self.key(x).mT).softmax(-1) @ x


def test_layers_of_unlike_places_are_no_chain() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Reader(), nn.Linear(6, 3)).double()
    plan = fxgrow.plan(model, width=1.5, depth=1.5, example_inputs=X)
    assert plan.form == "module" and plan.depth is not None and not plan.depth.runs


class Heads(nn.Module):
    """Heads of a width that is the stream's over their number, in a stream that does not grow; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.leave, self.head = (nn.Linear(*s) for s in ((6, 16), (16, 48), (16, 16), (16, 3)))
        self.into, self.out, self.heads = nn.Linear(16, 32), nn.Linear(32, 16), 2

    def forward(self, x: Tensor) -> Tensor:
        global seen
        x = self.embed(x).cumsum(-1)
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = (q @ k.transpose(2, 3)).softmax(-1)
        x = x + self.leave((seen @ v).transpose(1, 2).reshape(batch, length, width))
        return self.head(x + self.out(self.into(x).relu()))


seen: Tensor | None = None


def test_where_no_graph_can_be_the_class_holds_what_it_cannot_have() -> None:
    model = Heads().double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert type(grown) is Heads and (grown.heads, grown.into.out_features) == (2, 48)
    assert worst_error(model, grown, (X,), training=True) <= 1e-12


class Halved(nn.Module):
    """Reads what its second block gives, by a number in its code; goes through its blocks backwards, if asked to."""

    def __init__(self, backwards: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Branched(6, 12) for _ in range(3)])
        self.backwards = backwards

    def forward(self, x: Tensor) -> Tensor:
        blocks = list(self.blocks)
        for block in reversed(blocks) if self.backwards else blocks[:2]:
            x = block(x)
        y = x
        for block in () if self.backwards else blocks[2:]:
            x = block(x)
        return x * y


def test_new_blocks_come_last_where_the_class_cannot_have_them_in_between() -> None:
    torch.manual_seed(0)
    model = Halved(backwards=False).double()
    grown = fxgrow.grow(model, depth={"blocks": 2}, example_inputs=X)
    assert type(grown) is Halved and fxgrow.certify(grown).verdict is Verdict.PROVED
    depth = fxgrow.report(grown).plan.depth
    assert [old for _, old in depth.children[0].names] == ["0", "1", "2", "", "", ""]
    assert "they come last: the class computes something else: mul" in depth.runs[0].how
    assert worst_error(model, grown, (X,), training=True) < 1e-12


def test_new_blocks_of_a_list_that_is_gone_through_backwards_come_before_the_others() -> None:
    torch.manual_seed(0)
    model = Halved(backwards=True).double()
    grown = fxgrow.grow(model, depth=1.5, example_inputs=X)
    assert type(grown) is Halved and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert [old for _, old in fxgrow.report(grown).plan.depth.children[0].names] == ["", "0", "", "1", "2"]
    assert worst_error(model, grown, (X,), training=True) < 1e-12


class Gathering(nn.Module):
    """Concatenates what each of its blocks gives, as YOLO's do: a layer of so many channels reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Branched(6, 12) for _ in range(2)])
        self.read = nn.Linear(18, 6)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        made.extend(block(made[-1]) for block in self.blocks)
        return self.read(torch.cat(made, -1))  # type: ignore[no-any-return]


class Around(nn.Module):
    """A list of such parts, then a list of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Gathering(), Gathering()])
        self.blocks = nn.ModuleList([Branched(6, 12) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x).relu()
        for block in self.blocks:
            x = block(x)
        return x


def test_what_a_layer_behind_the_blocks_cannot_read_holds_them_and_no_others() -> None:
    torch.manual_seed(0)
    model = Around().double()
    grown = fxgrow.grow(model, depth=1.5, width=1.5, example_inputs=X)
    assert isinstance(grown, Around) and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert [len(grown.blocks), *(len(part.blocks) for part in grown.parts)] == [3, 2, 2]
    assert worst_error(model, grown, (X,), training=True) < 1e-12
    held = {place: held.reason for held in fxgrow.report(grown).plan.held for place in held.where}
    assert "Around cannot hold its growth" in held["parts.0.blocks"] and "blocks" not in held
