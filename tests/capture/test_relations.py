"""Courses that hang on numbers computed from sizes: refused by a graph, and looked at before the own class is kept."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError
from tests.capture.assembled import EXACT, normal


class Padding(nn.Module):
    """Pads images to a multiple of 4 where `pads` says so, and perhaps runs another layer then."""

    def __init__(self, pads: Callable[[Tensor], bool], mixing: bool = False) -> None:
        super().__init__()
        self.enter, self.mix, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.pads, self.mixing = pads, mixing

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        if self.pads(x):
            h = F.pad(h, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
            h = self.mix(h) if self.mixing else h
        return F.max_pool2d(self.leave(h), 2)


def _rounded_up(x: Tensor) -> bool:
    height, width = (math.ceil(size / 4) * 4 for size in x.shape[2:])
    return (height, width) != tuple(x.shape[2:])


def _after_pooling(x: Tensor) -> bool:
    return F.interpolate(F.max_pool2d(x, 2), scale_factor=2.0).shape != x.shape


EVEN, WIDER, HIGHER = normal(2, 3, 8, 8), normal(2, 3, 8, 11), normal(2, 3, 11, 8)
ASKED = [
    (lambda x: bool(-x.shape[2] % 4 or -x.shape[3] % 4), EVEN, WIDER, r"\(-x.shape\[3\]\) % 4 != 0"),
    (lambda x: (4 - x.shape[2] % 4) % 4 > 0, EVEN, HIGHER, r"\(4 - \(x.shape\[2\] % 4\)\) % 4 > 0"),
    (_rounded_up, EVEN, WIDER, r"ceil\(x.shape\[3\] / 4\) \* 4 == x.shape\[3\] is False"),
    (_after_pooling, EVEN, WIDER, "x had the sizes"),  # nothing else reads what was pooled
    (lambda x: x.shape[2] > x.shape[3], EVEN, HIGHER, r"x.shape\[2\] > x.shape\[3\]"),
    (lambda x: bool(-x.shape[2] % 4), normal(2, 3, 7, 5), EVEN, r"\(-x.shape\[2\]\) % 4 != 0"),
]


@pytest.mark.parametrize(("pads", "recorded", "other", "said"), ASKED)
def test_a_course_by_computed_sizes_is_taken_by_the_class_and_refused_by_a_graph(
    pads: Callable[[Tensor], bool], recorded: Tensor, other: Tensor, said: str
) -> None:
    torch.manual_seed(0)
    model = Padding(pads).double()
    own = fxgrow.grow(model, 2, example_inputs=recorded)
    assert type(own) is Padding
    torch.testing.assert_close(own(other), model(other), rtol=EXACT, atol=EXACT)
    graph = fxgrow.grow(model, 2, example_inputs=recorded, form="graph")
    torch.testing.assert_close(graph(recorded[:1]), model(recorded[:1]), rtol=EXACT, atol=EXACT)
    with pytest.raises(SettledError, match=said):
        pickle.loads(pickle.dumps(graph))(other)


@pytest.mark.parametrize(("pads", "recorded", "other", "said"), ASKED)
def test_a_layer_of_another_course_is_never_given_units_that_it_does_not_read(
    pads: Callable[[Tensor], bool], recorded: Tensor, other: Tensor, said: str
) -> None:
    torch.manual_seed(0)
    model = Padding(pads, mixing=True).double()
    grown = fxgrow.grow(model, 2, example_inputs=recorded)
    torch.testing.assert_close(grown(recorded), model(recorded), rtol=EXACT, atol=EXACT)
    try:
        output = grown(other)
    except SettledError:
        return
    torch.testing.assert_close(output, model(other), rtol=EXACT, atol=EXACT)


def test_images_of_other_even_sizes_are_taken() -> None:
    model = Padding(lambda x: bool(-x.shape[2] % 4 or -x.shape[3] % 4)).double()
    graph = fxgrow.grow(model, 2, example_inputs=EVEN, form="graph")
    for shape in ((1, 3, 12, 16), (3, 3, 4, 20)):
        torch.testing.assert_close(graph(normal(*shape)), model(normal(*shape)), rtol=EXACT, atol=EXACT)
