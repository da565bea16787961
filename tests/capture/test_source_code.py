"""The code of functions: of one without a name, and not of what stands around it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.capture.source_code import code_of
from fxgrow.errors import SettledError

SEEN: list[Any] = []


def seen(*values: Any) -> None:
    SEEN.append(values)


def noting(text: str) -> Callable[[Any], Any]:
    print(text)
    return lambda function: function


def text_of(function: Any) -> str:
    code = code_of(function)
    return "" if code is None else ast.unparse(code)


def test_a_function_without_a_name_is_told_from_others_in_its_lines() -> None:
    beside = 2
    seen(print, lambda x, dim=1: x.softmax(dim))
    assert text_of(SEEN.pop()[1]) == "lambda x, dim=1: x.softmax(dim)"
    for function, text in zip(
        [lambda x: x, lambda x: x * beside if x else not x, lambda x: [each for each in x]],  # noqa: C416
        ["x", "x * beside if x else not x", "[each for each in x]"],
        strict=True,
    ):
        assert text_of(function) == f"lambda x: {text}"


def test_a_function_that_does_not_stand_whole_in_its_lines_is_unread() -> None:
    # fmt: off
    seen(0,
         lambda x: x
         + 1)
    # fmt: on
    assert code_of(SEEN.pop()[1]) is None


def test_decorators_are_no_code_of_a_function() -> None:
    @noting("made")
    def shifted(x: Any) -> Any:
        return x + 1

    assert text_of(shifted) == "def shifted(x: Any) -> Any:\n    return x + 1"


def kind_of(method: Callable[..., Any]) -> type[nn.Module]:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 2)

        forward = method

    return Own


def test_a_forward_without_a_name_is_read_wherever_it_stands() -> None:
    seen(print, kind_of(lambda self, x, dim=1: self.leave(self.enter(x).softmax(dim))))
    model, x = SEEN.pop()[1]().double(), torch.randn(3, 5, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert grown.enter.out_features == 16
    torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(SettledError, match="dim is -1, for which the model did not grow"):
        grown(x, -1)
