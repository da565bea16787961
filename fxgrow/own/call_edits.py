"""Calls that a forward makes otherwise than its code says, in a module of an edited class."""

from __future__ import annotations

import copy
import functools
import inspect
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._ops import HigherOrderOperator
from torch.fx import _symbolic_trace
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode

from fxgrow import guards
from fxgrow.capture.methods import calling_function, kind_before_growth, kinds_called, modules_called
from fxgrow.capture.operators import operator_of
from fxgrow.errors import FxgrowError
from fxgrow.own.again import keep_for_again
from fxgrow.transforms.graph_edits import put

FORWARD = "forward"


@dataclass(frozen=True)
class CallEdit:
    """What a call that a forward makes becomes.

    target: the function, or the name of the method. index: which of the calls of it; None: each. onward: whether
    each later one, too. change: "guard", "core_input", "multiply" or another number ("literal", "ratio") at `path`.
    value: what the plan says of it. method: in which method, whose calls are counted. within: the methods inside it
    that make the call, and are not edited if they run by themselves. caller: the name of the function whose calls
    alone are counted, if not all are. mode: "eval" or "train", if only that mode changes it. inside, given: as of
    `fxgrow.own.sites.Site`. weight: that which takes up what the input is multiplied by, once that is folded, as
    the module calls it.
    """

    target: Any
    index: int | None
    change: str
    path: tuple[Any, ...]
    value: Any
    method: str = FORWARD
    within: tuple[str, ...] = ()
    caller: str = ""
    mode: str = ""
    inside: str = ""
    weight: str = ""
    given: Any = ...
    onward: bool = False

    def apply(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that the call gets in place of these."""
        if self.change == "core_input":
            place = self.value.get("operand", 0)
            taken = guards.core(args[place], self.value["axis"], self.value["core"])
            return (*args[:place], taken, *args[place + 1 :]), kwargs
        if self.change == "multiply":
            return (guards.multiplied(args[0], self.value), *args[1:]), kwargs
        if self.path[0] == "args":
            return tuple(put(list(args), self.path[1:], self._number(args))), kwargs
        return args, put(dict(kwargs), self.path[1:], self._number(kwargs))

    def _number(self, arguments: Any) -> Any:
        """The number that the call gets; where it is given another one than at growth, that is scaled alike."""
        if self.given is ... or not (self.change == "ratio" or isinstance(self.value, float)):
            return self.value
        try:
            given = functools.reduce(operator.getitem, self.path[1:], arguments)
        except (IndexError, KeyError):  # it is left out
            return self.value
        if given is None or (isinstance(given, (int, float)) and given == self.given):
            return self.value
        if not self.given:
            return given
        numbers = (given, self.value, self.given)
        if all(isinstance(number, int) for number in numbers) and given * self.value % self.given == 0:
            return given * self.value // self.given
        return given * (self.value / self.given)


class Editing(TorchFunctionMode):
    """Lets calls be others while a method of a module runs.

    together: the modes of this run, to which it adds itself.
    """

    def __init__(self, module: nn.Module, edits: Iterable[CallEdit], together: list[Any]) -> None:
        super().__init__()
        self.module, self.owner, self.together = module, module, together
        together.append(self)
        self.edits: dict[Any, dict[tuple[str, str], dict[int | None, list[CallEdit]]]] = {}
        for edit in edits:  # those of one call by its index, those of several together
            by_index = self.edits.setdefault(edit.target, {}).setdefault((edit.caller, edit.inside), {})
            by_index.setdefault(None if edit.onward else edit.index, []).append(edit)
        self.count = {(target, *place): 0 for target, by_place in self.edits.items() for place in by_place}
        self.modules = modules_called()

    def _seeing(self, function: Any) -> Any:
        def seen(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return seen

    def again(self, count: dict[Any, int], owner: Any, together: list[Any]) -> Editing:
        """Another one, for calls that are made again after so many."""
        twin = copy.copy(self)
        twin.count, twin.modules, twin.owner, twin.together = count, modules_called(), owner, together
        together.append(twin)
        return twin

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = func if func in self.edits else operator_of(func, args, kwargs)
        if target not in self.edits:
            if isinstance(func, HigherOrderOperator):  # one call to modes, with all that its functions call
                args = [self._seeing(arg) if callable(arg) else arg for arg in args]
            return func(*args, **kwargs)
        kinds = kinds_called(self.modules)
        for (caller, inside), by_index in self.edits[target].items():
            if not _ends_in(kinds, inside) or (caller and caller != calling_function()):
                continue
            if not torch.compiler.is_compiling():
                keep_for_again(self.together, self.owner)
            index = self.count[target, caller, inside]
            self.count[target, caller, inside] += 1
            several = (edit for edit in by_index.get(None, ()) if (edit.index or 0) <= index)
            for edit in (*by_index.get(index, ()), *several):
                if edit.change == "guard":
                    return guards.in_place_of(edit.value, args, kwargs)
                args, kwargs = edit.apply(args, kwargs)
        return func(*args, **kwargs)


def _ends_in(kinds: str, inside: str) -> bool:
    """Whether these modules are called there, or any around them; none are for the module's own calls."""
    return f"/{kinds}".endswith(f"/{inside}") if inside else not kinds


_traced_by_fx: Callable[[], bool] = getattr(_symbolic_trace, "is_fx_symbolic_tracing", _symbolic_trace.is_fx_tracing)


def refuse_symbolic_trace(module: nn.Module, edits: Iterable[CallEdit]) -> None:
    """Refuse to be traced symbolically where a mode would not see a call: methods and operators of proxies are hidden
    from it, and so is what goes on in layers that a tracer does not enter.
    """
    if not _traced_by_fx() or get_proxy_mode() is not None:
        return
    leaves = [type(part) for part in module.modules() if type(part).__module__.startswith("torch.nn.")]
    called = {name for kind in leaves for method in vars(kind).values() for name in _names_in(method)}
    for edit in edits:
        name = getattr(edit.target, "__name__", edit.target)
        if name is edit.target or edit.target.__module__ == "_operator" or name in called:
            raise FxgrowError(
                f"torch.fx.symbolic_trace does not see the call of {name} that growth changed, and would leave it out",
                where=kind_before_growth(type(module)).__name__,
                remedy='grow the model with form="graph", which can be traced, or use torch.export',
            )


def _names_in(method: Any) -> tuple[str, ...]:
    return method.__code__.co_names if inspect.isfunction(method) else ()
