"""Lets what the backward pass runs again (gradient checkpointing) make the calls that growth changed, too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from torch.autograd.function import FunctionCtx

from fxgrow.errors import FxgrowError

_ENTERING = (__file__, str(Path(__file__).with_name("edited.py")))


class Again:
    """A function that is to run once more, under the modes that change its calls, as they were when it ran first."""

    def __init__(self, function: Callable[..., Any], modes: Sequence[Any]) -> None:
        self.function, self.modes = function, modes
        self.counts = [dict(mode.count) for mode in modes]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        together: list[Any] = []
        with ExitStack() as stack:
            for mode, count in zip(self.modes, self.counts, strict=True):
                stack.enter_context(mode.again(dict(count), self, together))
            return self.function(*args, **kwargs)

    def runs_under(self, modes: Sequence[Any]) -> bool:
        """Whether it, or what it runs, enters these modes."""
        return self.modes is modes or (isinstance(self.function, Again) and self.function.runs_under(modes))


def keep_for_again(modes: Sequence[Any], owner: Any) -> None:
    """Let what runs now, and the backward pass runs again, run under these modes then; owner: what entered them."""
    for holder, name in list(_kept_for_backward(owner)):
        function = getattr(holder, name)
        if not (isinstance(function, Again) and function.runs_under(modes)):
            setattr(holder, name, Again(function, modes))


def _kept_for_backward(owner: Any) -> Iterator[tuple[Any, str]]:
    """What holds a function for the backward pass, and by what name, from within to without."""
    checkpointing = getattr(sys.modules.get("torch.utils.checkpoint"), "__file__", "")
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename in _ENTERING and frame.f_locals.get("self") is owner:
            return
        if code.co_filename == checkpointing and "gen" in frame.f_locals:
            yield frame.f_locals["gen"].gi_frame.f_locals["new_frame"], "recompute_fn"
        elif code.co_name == "forward" and isinstance(context := frame.f_locals[code.co_varnames[0]], FunctionCtx):
            functions = [name for name, held in vars(context).items() if callable(held)]
            if len(functions) != 1:
                raise FxgrowError(
                    f"{type(context).__name__} runs calls that growth changed, and its backward pass would run others",
                    remedy='put them into a method, or grow the model with form="graph"',
                )
            yield context, functions[0]
        frame = frame.f_back
