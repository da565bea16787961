"""Courses that hang on what a forward computes from an argument: each call is taken, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError
from tests.capture.assembled import EXACT, normal
from tests.models import lively

X = normal(3, 4)


class Told(nn.Module):
    """Centres its units where what it is told says so."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def centres(self, told: Any, count: int) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor, told: Any) -> Tensor:
        h = self.read(x).relu()
        if self.centres(told, h.shape[0]):
            return self.head(h - h.mean(-1, keepdim=True))  # type: ignore[no-any-return]
        return self.head(self.inner(h).tanh())  # type: ignore[no-any-return]


class Doubled(Told):
    def centres(self, told: Any, count: int) -> Any:
        return 2 * told - 1 == 5


class Divided(Told):
    def centres(self, told: Any, count: int) -> Any:
        return told % 4 == 0 or abs(told) // 8 > 3


class AtMost(Told):
    def centres(self, told: Any, count: int) -> Any:
        return max(told, 4) != 4


class WithCount(Told):
    def centres(self, told: Any, count: int) -> Any:
        return told + count > 9


class Halved(Told):
    def centres(self, told: Any, count: int) -> Any:
        return not 0.5 * told < 1.5


class First(Told):
    def centres(self, told: Any, count: int) -> Any:
        return told[0] * 2 == 6


class Letter(Told):
    def centres(self, told: Any, count: int) -> Any:
        return told[0] == "b"


class Long(Told):
    def centres(self, told: Any, count: int) -> Any:
        return len(told) > 4


class Lower(Told):
    def centres(self, told: Any, count: int) -> Any:
        return told.lower() == "b"


class Formatted(Told):
    def centres(self, told: Any, count: int) -> Any:
        return f"{told}_1" == "b_1"


class Settings(Told):
    def centres(self, told: Any, count: int) -> Any:
        settings = {"mode": told}
        return settings["mode"] == "b"


class Common(Told):
    def centres(self, told: Any, count: int) -> Any:
        return {"b"} & set(told)


class Apart(Told):
    def centres(self, told: Any, count: int) -> Any:
        return not set(told).isdisjoint({"b", "c"})


class Pair(Told):
    def centres(self, told: Any, count: int) -> Any:
        return told == [1, 2]


CASES: list[tuple[type[Told], Any, Sequence[Any]]] = [
    (Doubled, 1, (2, 3, 4)),
    (Divided, 1, (3, 4, 31, 32, -33, 8)),
    (AtMost, 1, (4, 5)),
    (WithCount, 1, (6, 7)),
    (Halved, 1.0, (2.5, 3.0, 3.5)),
    (First, (1, 1), ((2, 3), (3, 1), (3, 9))),
    (Letter, "abc", ("bcd", "acd")),
    (Long, "abc", ("abcd", "abcde")),
    (Lower, "a", ("b", "B", "c")),
    (Formatted, "a", ("b", "c")),
    (Settings, "a", ("b", "c")),
    (Common, ("a",), (("b",), ("a", "b"), ("c",))),
    (Apart, ("a",), (("b",), ("a", "b"), ("d",))),
    (Pair, [1, 1], ([1, 2], [2, 2])),
]


@pytest.mark.parametrize(("kind", "told", "others"), CASES)
def test_what_is_computed_from_an_argument_is_looked_at(kind: type[Told], told: Any, others: Sequence[Any]) -> None:
    model = lively(kind()).double().eval()
    grown: Any = fxgrow.grow(model, 1.5, example_inputs=(X, told), init="replicate")
    assert isinstance(grown, kind)
    taken: list[Any] = []
    for other in (told, *others):
        try:
            after = grown(X, other)
        except SettledError as error:
            assert "the code decides by what it computes from it" in str(error) or "would grow otherwise" in str(error)
            continue
        taken.append(other)
        torch.testing.assert_close(after, model(X, other), rtol=EXACT, atol=EXACT)
    assert taken[0] == told
    assert len(taken) > 1 or kind in (Letter, Long, Formatted, Settings, Common, Apart)


class Starred(Told):
    def forward(self, x: Tensor, *told: Any, **further: Any) -> Tensor:  # type: ignore[override]
        return super().forward(x, told or tuple(further))


class Flags(Starred):
    def centres(self, told: Any, count: int) -> Any:
        return "b" in told or (told and told[0] is True)


class Further(Told):
    def forward(self, x: Tensor, **further: Any) -> Tensor:  # type: ignore[override]
        also = further.pop("also", False)
        return super().forward(x, self.picked(**further) or also)

    def picked(self, centred: bool = False) -> bool:
        return centred

    def centres(self, told: Any, count: int) -> Any:
        return told


class Several(Told):
    """Reads what there is, and something else for what there is not."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.none = nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(4, 8)}), nn.Parameter(torch.ones(8))

    def forward(self, x: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        read = [self.parts[key](x[key]).relu() if key in x else self.none for key in self.parts]
        return self.head(sum(read))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "given", "others", "taken"),
    [
        (Flags, (X,), [((X, "b"), {}), ((X, True), {}), ((X, X), {}), ((X,), {"q": 1})], 2),
        (Further, (X,), [((X,), {"centred": True}), ((X,), {"also": True})], 1),
        (Several, ({"a": X, "b": X},), [(({"a": X},), {}), (({"b": X},), {})], 2),
    ],
)
def test_what_a_call_has_more_or_less_is_taken_or_refused(
    kind: type[nn.Module], given: Any, others: Sequence[tuple[Any, Any]], taken: int
) -> None:
    model = lively(kind()).double().eval()
    grown: Any = fxgrow.grow(model, 1.5, example_inputs=given)
    assert isinstance(grown, kind)
    for args, kwargs in others:
        try:
            after = grown(*args, **kwargs)
        except SettledError as error:
            assert "for which the model did not grow" in str(error)
            continue
        taken -= 1
        torch.testing.assert_close(after, model(*args, **kwargs), rtol=EXACT, atol=EXACT)
    assert taken == 0


class Passing(Told):
    """Gives back all that it is given, and more."""

    def forward(self, batch: dict[str, Tensor], **further: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return {**batch, "out": self.finished(batch["image"], **further)}

    def finished(self, x: Tensor, **further: Any) -> Tensor:
        return self.head(self.read(x).relu())  # type: ignore[no-any-return]


class Gated(Told):
    def forward(self, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        h = self.read(inputs[0]).relu()
        return self.head(self.inner(h) * inputs[1] if len(inputs) > 1 else h)  # type: ignore[no-any-return]


def test_what_nothing_hangs_on_may_be_there_or_not() -> None:
    model = lively(Passing()).double()
    grown = fxgrow.grow(model, 1.5, example_inputs=({"image": X},))
    out = grown({"image": X, "label": X[:, 0]}, verbose=True)
    torch.testing.assert_close(out, model({"image": X, "label": X[:, 0]}), rtol=EXACT, atol=EXACT)


def test_fewer_tensors_are_tried_and_further_ones_refused() -> None:
    model = lively(Gated()).double()
    grown = fxgrow.grow(model, 1.5, example_inputs=(X, X[:, :1]))
    torch.testing.assert_close(grown(X), model(X), rtol=EXACT, atol=EXACT)
    narrow = fxgrow.grow(model, 1.5, example_inputs=(X,))
    with pytest.raises(SettledError, match="inputs is a tensor, a tensor, for which the model did not grow"):
        narrow(X, X[:, :1])


class Listed(Told):
    def forward(self, images: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        h = self.read(images[0]).relu()
        return self.head(h - h.mean(-1, keepdim=True) if len(images) > 1 else self.inner(h))  # type: ignore[no-any-return]


def test_lists_with_more_or_fewer_tensors_are_taken_or_refused() -> None:
    model = lively(Listed()).double()
    for given in ([X], [X, X]):
        grown = fxgrow.grow(model, 1.5, example_inputs=(given,), init="replicate")
        assert isinstance(grown, Listed)
        for other in ([X], (X,), [X, X], [X, X, X]):
            try:
                after = grown(other)
            except SettledError as error:
                assert len(other) == 3 and "images is [a tensor, a tensor, a tensor]" in str(error)
                continue
            torch.testing.assert_close(after, model(other), rtol=EXACT, atol=EXACT)


class Bits(Told):
    def centres(self, told: Any, count: int) -> Any:
        return told >> 1 == 3 or told & 8


class Whole(Told):
    def centres(self, told: Any, count: int) -> Any:
        return int(told / 2) == 3


@pytest.mark.parametrize("kind", [Bits, Whole])
def test_a_graph_keeps_numbers_by_whose_bits_or_whole_part_it_was_decided(kind: type[Told]) -> None:
    model = lively(kind()).double()
    graph = fxgrow.grow(model, 1.5, example_inputs=(X, 1), form="graph")
    torch.testing.assert_close(graph(X, 1), model(X, 1), rtol=EXACT, atol=EXACT)
    with pytest.raises(SettledError, match="told was 1 when the model was captured, and is 6 now"):
        graph(X, 6)
