"""What a forward leaves in attributes, by itself or in containers and objects, is what the original leaves there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Leaving(nn.Module):
    def __init__(self, leave: Callable[[Any, Tensor], None]) -> None:
        super().__init__()
        self.enter, self.head, self.leave = nn.Linear(6, 8), nn.Linear(8, 3), leave
        self.losses: Any = []
        self.noted = SimpleNamespace(loss=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        self.leave(self, x.square().mean())
        return self.head(x)  # type: ignore[no-any-return]


def appended(model: Any, loss: Tensor) -> None:
    model.losses.clear()
    model.losses.append(loss)


LEFT: dict[str, tuple[Callable[[Any, Tensor], None], Callable[[Any], Tensor]]] = {
    "an attribute": (lambda m, loss: setattr(m, "losses", loss), lambda m: m.losses),
    "a list": (appended, lambda m: m.losses[0]),
    "a dictionary": (lambda m, loss: setattr(m, "losses", {"l2": loss}), lambda m: m.losses["l2"]),
    "an object": (lambda m, loss: setattr(m.noted, "loss", loss), lambda m: m.noted.loss),
    "a layer": (lambda m, loss: setattr(m.enter, "statistic", loss), lambda m: m.enter.statistic),
}


@pytest.mark.parametrize("where", LEFT)
def test_what_is_left_stays(where: str) -> None:
    torch.manual_seed(0)
    leave, left = LEFT[where]
    model = Leaving(leave).double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert isinstance(grown, Leaving) and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert worst_error(model, grown, (X,), training=True) < 1e-12
    model(X), grown(X)
    assert torch.allclose(left(model), left(grown), rtol=0, atol=1e-12)


LOSSES: list[Tensor] = []


class Elsewhere(Leaving):
    """Leaves a loss in an argument, or in a global list."""

    def forward(self, x: Tensor, out: Any = None) -> Tensor:  # type: ignore[override]
        x = self.enter(x).relu()
        self.leave(out, x.square().mean())
        return self.head(x)  # type: ignore[no-any-return]


def in_a_list_of_the_file(out: Any, loss: Tensor) -> None:
    LOSSES.append(loss)


@pytest.mark.parametrize(
    ("leave", "made", "left"),
    [
        (in_a_list_of_the_file, lambda: None, lambda out: LOSSES[-1]),
        (lambda out, loss: out.update(l2=loss), dict, lambda out: out["l2"]),
        (lambda out, loss: out.append(loss), list, lambda out: out[-1]),
        (lambda out, loss: setattr(out, "loss", loss), lambda: SimpleNamespace(loss=None), lambda out: out.loss),
    ],
)
def test_what_is_left_elsewhere_stays(leave: Any, made: Any, left: Any) -> None:
    torch.manual_seed(0)
    model, given, earlier = Elsewhere(leave).double(), made(), torch.ones(())
    LOSSES[:] = [earlier]
    grown: Any = fxgrow.grow(model, width=2, example_inputs=(X, given))
    assert [earlier] == LOSSES and given == made() and grown.enter.out_features == 16
    assert isinstance(grown, Elsewhere) and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    first, second = made(), made()
    model(X, first)
    loss = left(first)
    grown(X, second)
    assert left(second) is not loss and torch.allclose(left(second), loss, rtol=0, atol=1e-12)


def test_a_graph_does_not_leave_out_what_goes_into_an_argument() -> None:
    model = Elsewhere(lambda out, loss: out.append(loss)).double()
    with pytest.raises(PlanError, match="a graph cannot keep what the forward puts into its argument out"):
        fxgrow.grow(model, width=2, example_inputs=(X, []), form="graph")


class Watched(nn.Module):
    """A hook of its own keeps features and counts."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.enter, self.leave, self.where = nn.Linear(8, 16), nn.Linear(16, 2), where
        self.named, self.listed, self.last, self.count = dict[str, Any](), list[Any](), None, 0
        self.enter.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.count += 1
        if self.where == "named":
            self.named["enter"] = output
        elif self.where == "listed":
            self.listed[:] = [output]
        else:
            self.last = output

    def forward(self, x: torch.Tensor) -> Any:
        return self.leave(self.enter(x).relu())

    def kept(self) -> list[Any]:
        return [*self.named.values(), *self.listed, *([self.last] if self.last is not None else [])]


@pytest.mark.parametrize("where", ["named", "listed", "last"])
def test_what_hooks_keep_on_their_model_stays_there_and_is_not_put_into_the_original(where: str) -> None:
    torch.manual_seed(0)
    model, x = Watched(where).double(), torch.randn(3, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert isinstance(grown, Watched) and model.count == 0 and not model.kept()
    assert (grown(x) - model(x)).abs().max() < 1e-12
    assert [t.shape for t in grown.kept()] == [(3, 32)] and [t.shape for t in model.kept()] == [(3, 16)]


class Kept(nn.Module):
    """Keeps a table for each number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.tables: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        if count not in self.tables:
            self.tables[count] = torch.linspace(0, 1, count, dtype=x.dtype)[:, None]
        return self.leave(self.inner(self.enter(x).relu() * self.tables[count]).relu())  # type: ignore[no-any-return]


def test_tables_that_are_kept_by_sizes_stay() -> None:
    model, x = Kept().double(), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert isinstance(grown, Kept) and grown.inner.weight.shape == (32, 32)
    for given in (x, 2 * x, x[:3], x):
        torch.testing.assert_close(grown(given), model(given), rtol=1e-12, atol=1e-12)
    assert grown.tables.keys() == model.tables.keys() == {5, 3}
