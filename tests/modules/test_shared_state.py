"""State that copies share with a model: growth leaves it as it was, and a certificate sees what hangs on it."""

from __future__ import annotations

import copy
import functools
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.capture import capture

X = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CALLS = 0
SEEN: list[int] = []
TABLE: dict[int, Tensor] = {}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)


class ByClass(Layers):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        ByClass.calls += 1
        x = self.enter(x)
        return self.leave(x if ByClass.calls % 2 else x.relu())


class ByGlobalName(Layers):
    def forward(self, x: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        x = self.enter(x)
        return self.leave(x if CALLS % 2 else x.relu())


class ByGlobalList(Layers):
    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(1)
        x = self.enter(x)
        return self.leave(x if len(SEEN) % 2 else x.relu())


def counter() -> Callable[[], int]:
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return counted[0]

    return count


count = counter()


class ByClosure(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(x if count() % 2 else x.relu())


class ByIterator(Layers):
    """State that is nowhere to be found, but in what the next call does."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = iter([True, False] * 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(x if next(self.turns) else x.relu())


class LateByCount(Layers):
    """Another course, after more calls than are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        x = self.enter(x)
        return self.leave(x if self.count < 6 else x.relu())


class EveryFourth(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.state = {"step": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.state["step"] += 1
        x = self.enter(x)
        return self.leave(x if self.state["step"] % 4 else x.relu())


@pytest.mark.parametrize("kind", [ByClass, ByGlobalName, ByGlobalList, ByClosure, LateByCount, EveryFourth])
def test_a_course_that_hangs_on_earlier_calls_is_never_proved(kind: type[Layers]) -> None:
    before = ByClass.calls, CALLS, list(SEEN)
    grown = fxgrow.grow(kind().double(), 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == "TESTED"
    assert "an earlier call left" in str(fxgrow.report(grown).certificate)
    assert (ByClass.calls, CALLS, SEEN) == before


def test_nor_is_one_whose_state_is_nowhere() -> None:
    settled = capture(ByIterator().double(), X).settled
    assert any("an earlier call left behind" in note.what for note in settled)


class Remembering(Layers):
    """As attention with a cache of keys: what a call reads, it joins to what the calls before it read."""

    read: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.read = x if self.read is None else torch.cat([self.read, x], 1)
        return self.leave(self.enter(self.read).relu())


@pytest.mark.parametrize("kind", [ByIterator, Remembering])
def test_a_graph_which_makes_all_calls_alike_is_refused(kind: type[Layers]) -> None:
    with pytest.raises(fxgrow.FxgrowError, match="every call alike"):
        fxgrow.grow(kind().double(), 2, example_inputs=X, form="graph")


def test_the_class_of_the_model_remembers_after_growth() -> None:
    model = Remembering().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(grown(X), model(X))


class Counting(Layers):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.calls += 1
        return self.leave(self.enter(x).relu())


def test_a_class_that_only_counts_is_proved_and_counts_on() -> None:
    model = Counting().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert Counting.calls == 0
    grown(X)
    assert Counting.calls == 1
    with pytest.raises(fxgrow.FxgrowError, match="the class attribute calls of Counting"):
        fxgrow.grow(model, 2, example_inputs=X, form="graph")


@functools.lru_cache
def cached(count: int, start: int) -> Tensor:
    return torch.arange(start, start + count, dtype=torch.float64)[:, None]


def remembering(function: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    results: dict[int, Tensor] = {}

    @functools.wraps(function)
    def remembered(count: int) -> Tensor:
        if count not in results:
            results[count] = function(count)
        return results[count]

    return remembered


@remembering
def remembered(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)[:, None]


class CachedByFunction(Layers):
    def table(self, count: int) -> Tensor:
        return cached(count, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave((self.enter(x) + self.table(x.shape[1])).relu())


class CachedByMethod(CachedByFunction):
    @staticmethod
    @functools.lru_cache
    def places(count: int, start: int) -> Tensor:
        return torch.arange(start, start + count, dtype=torch.float64)[:, None]

    def table(self, count: int) -> Tensor:
        return self.places(count, 0)


class CachedByClosure(CachedByFunction):
    def table(self, count: int) -> Tensor:
        return remembered(count)


class CachedByName(CachedByFunction):
    def table(self, count: int) -> Tensor:
        if count not in TABLE:
            TABLE[count] = torch.arange(count, dtype=torch.float64)[:, None]
        return TABLE[count]


@pytest.mark.parametrize("kind", [CachedByFunction, CachedByMethod, CachedByClosure, CachedByName])
def test_no_cache_keeps_what_was_recorded(kind: Any) -> None:
    """A tensor without values there would break the model itself, and all others that read the cache."""
    model = kind().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
    longer = torch.randn(2, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(grown(longer), model(longer), rtol=1e-10, atol=1e-10)
    proved = {"PROVED"} if kind in (CachedByFunction, CachedByMethod) else {"PROVED", "TESTED"}
    assert str(fxgrow.report(grown).certificate.verdict) in proved


def test_a_forward_that_writes_to_its_input_is_compared_on_equal_ones() -> None:
    class Doubling(Layers):
        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return self.leave(self.enter(x).relu())

    model, x = Doubling().double(), X.clone()
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert torch.equal(x, X)
    first, second = X.clone(), X.clone()
    torch.testing.assert_close(grown(first), model(second), rtol=1e-10, atol=1e-10)
    assert torch.equal(first, second)


class CountingByTensor(Layers):
    """Tensors that are neither parameters nor buffers."""

    def __init__(self, deciding: bool) -> None:
        super().__init__()
        self.deciding, self.calls, self.seen = deciding, torch.zeros(()), [torch.zeros(2)]
        self.table = torch.arange(8.0)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen[0].add_(1)
        x = self.enter(x)
        return self.leave(x if self.deciding and self.calls % 2 else x.relu())


@pytest.mark.parametrize("deciding", [False, True])
def test_tensors_that_are_not_registered_are_the_copy_s_own(deciding: bool) -> None:
    model = CountingByTensor(deciding).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == ("TESTED" if deciding else "PROVED")
    assert (float(model.calls), float(grown.calls), model.seen[0].tolist()) == (0, 0, [0, 0])
    grown(X)
    assert (float(model.calls), float(grown.calls)) == (0, 1)
    assert (model.seen[0].tolist(), grown.seen[0].tolist()) == ([0, 0], [1, 1])
    assert grown.table is not model.table and torch.equal(grown.table, model.table)
    with pytest.raises(fxgrow.FxgrowError, match="the tensor calls of CountingByTensor"):
        fxgrow.grow(model, 2, example_inputs=X, form="graph")


class Notes:
    """What a user's own object keeps of each call."""

    def __init__(self) -> None:
        self.calls, self.seen = 0, {"means": [0.0]}

    def add(self, h: Tensor) -> None:
        self.calls += 1
        self.seen["means"].append(h.detach().mean())  # type: ignore[arg-type]


class Slot:
    """An object without a dictionary of attributes."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0

    def __repr__(self) -> str:
        return f"Slot({self.calls})"


def noted(held: Any, h: Tensor) -> None:
    """Puts something of a call into whatever keeps it."""
    if isinstance(held, Notes):
        held.add(h)
    elif isinstance(held, SimpleNamespace):
        held.last = h.detach()
    elif isinstance(held, Slot):
        held.calls += 1
    elif isinstance(held, np.ndarray):
        held[h.shape[0]] += 1
    elif isinstance(held, Counter):
        held["calls"] += 1
    elif isinstance(held, defaultdict):
        held["means"].append(h.detach().mean())
    else:
        held.append(h.detach().mean())


class Noting(Layers):
    """Two layers that keep notes in the same place, and read them or not."""

    def __init__(self, held: Any, reads: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.enter.held = self.held = held
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        y = self.leave(self.enter(x).relu())
        if self.reads is not None:
            y = y + self.reads(self.held)
        noted(self.enter.held, y)
        return y


@pytest.mark.parametrize(
    "held",
    [
        Notes(),
        Slot(),
        SimpleNamespace(last=None),
        np.zeros(4),
        Counter(),
        defaultdict(list),
        deque([0.0], maxlen=2),
        [0.0],
    ],
    ids=lambda held: type(held).__name__,
)
def test_what_a_forward_keeps_in_other_objects_is_the_copy_s_own(held: Any) -> None:
    model, before = Noting(held).double(), repr(vars(held) if hasattr(held, "__dict__") else held)
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert grown.held is grown.enter.held and grown.held is not held
    for _ in range(2):
        grown(X)
    assert repr(vars(held) if hasattr(held, "__dict__") else held) == before
    assert repr(copy.copy(grown.held)) != repr(held)


@pytest.mark.parametrize(
    ("held", "reads"),
    [
        (Notes(), lambda notes: notes.seen["means"][-1]),
        (SimpleNamespace(last=None), lambda notes: 0.0 if notes.last is None else notes.last),
        (deque([0.0], maxlen=2), sum),
    ],
)
def test_and_what_it_reads_there_hangs_on_earlier_calls(held: Any, reads: Callable[[Any], Any]) -> None:
    model = Noting(held, reads).double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == "TESTED"
    for _ in range(3):
        torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
    with pytest.raises(fxgrow.FxgrowError, match="every call alike"):
        fxgrow.grow(model, 2, example_inputs=X, form="graph")


class Absent:
    """Stands for an import that failed, and says so whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} of something that is not installed")


ABSENT = Absent()


def test_objects_that_answer_nothing_are_let_alone() -> None:
    class Optional(Layers):
        absent = ABSENT

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.enter(x).relu())  # type: ignore[no-any-return]

    grown = fxgrow.grow(Optional().double(), 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


KEPT = Notes()


def test_so_does_what_a_file_keeps() -> None:
    class Kept(Layers):
        notes: ClassVar = deque([1.0])

        def forward(self, x: Tensor) -> Tensor:
            y = self.leave(self.enter(x).relu()) * (1 + len(self.notes)) * (1 + KEPT.calls)
            KEPT.add(y)
            self.notes.append(2.0)
            return y

    grown = fxgrow.grow(Kept().double(), 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == "TESTED"
    assert (KEPT.calls, KEPT.seen, Kept.notes) == (0, {"means": [0.0]}, deque([1.0]))


def test_a_memory_that_is_not_registered_goes_on_and_no_graph_keeps_it() -> None:
    class Remembering(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.memory = torch.zeros(2, 5, 3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            x = self.leave(self.enter(x).relu()) + 0.5 * self.memory
            self.memory.copy_(x.detach())
            return x

    model = Remembering().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert float(model.memory.abs().sum()) == 0
    for _ in range(3):
        torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
    with pytest.raises(fxgrow.FxgrowError, match="writes into the tensor memory"):
        fxgrow.grow(model, 2, example_inputs=X, form="graph")
