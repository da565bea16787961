"""Courses that a forward takes by the size of its input: those on the other side of what it asks are looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError

X = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class BySize(nn.Module):
    """Has a mean over units on one side of a question about the length of its input."""

    def __init__(self, asks: Callable[[int], bool]) -> None:
        super().__init__()
        self.enter, self.leave, self.asks = nn.Linear(6, 8), nn.Linear(8, 3), asks

    def forward(self, x: Tensor) -> Tensor:
        length, x = x.shape[1], self.enter(x)
        return self.leave(x.relu() if self.asks(length) else x - x.mean(-1, keepdim=True))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("asks", "length"), [(lambda n: n > 2, 2), (lambda n: n < 100, 128), (lambda n: n != 3, 3)])
def test_a_course_beyond_a_bound_is_served_or_refused_by_name(asks: Callable[[int], bool], length: int) -> None:
    torch.manual_seed(0)
    model = BySize(asks).double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
    other = torch.randn(2, length, 6, dtype=torch.float64)
    try:
        assert torch.allclose(grown(other), model(other), rtol=0, atol=1e-12)
    except SettledError as refusal:
        assert f"x has {length} entries along axis 1" in str(refusal)


class Framewise(nn.Module):
    """Sums what it makes of each frame of a video, perhaps in a loop over an axis."""

    def __init__(self, loops: bool, axis: int = 1) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 3, 1)
        self.loops, self.axis = loops, axis

    def forward(self, video: Tensor) -> Tensor:
        if self.loops:
            frames = video.unbind(self.axis)
            return sum((self.leave(self.enter(frame).relu()) for frame in frames), torch.zeros((), dtype=video.dtype))
        samples = video.shape[0]
        return self.leave(self.enter(video.flatten(0, 1)).relu()).unflatten(0, (samples, -1)).sum(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("axis", [1, 2])
def test_a_loop_over_frames_is_refused_by_a_graph_and_kept_by_the_class(axis: int) -> None:
    torch.manual_seed(0)
    model = Framewise(True, axis).double()
    video, longer = (torch.randn(2, n, 2, 5, 5, dtype=torch.float64).transpose(1, axis) for n in (3, 4))
    graph = fxgrow.grow(model, width=2, example_inputs=video, form="graph")
    assert torch.allclose(graph(video), model(video), rtol=0, atol=1e-12)
    with pytest.raises(SettledError, match=rf"video had the sizes \[3\] along the axes \[{axis}\]"):
        graph(longer)
    grown = fxgrow.grow(model, width=2, example_inputs=video)
    assert type(grown) is Framewise
    assert torch.allclose(grown(longer), model(longer), rtol=0, atol=1e-12)


def test_a_graph_without_such_a_loop_takes_any_number_of_frames() -> None:
    torch.manual_seed(0)
    model = Framewise(False).double()
    video, longer = (torch.randn(2, n, 2, 5, 5, dtype=torch.float64) for n in (3, 4))
    graph = fxgrow.grow(model, width=2, example_inputs=video, form="graph")
    assert torch.allclose(graph(longer), model(longer), rtol=0, atol=1e-12)
