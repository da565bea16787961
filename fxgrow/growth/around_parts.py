"""Watches what a model that grows in parts does around them: what it uses of modules from outside, and its ends.

A module of which something is used while it does not run cannot grow by itself. Classes or channels can be added only
where nothing comes between: the rest of the model is Python that no graph holds, and its result for a tensor of another
shape cannot be known. A run shows which tensors go straight through, and what reads the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from fxgrow.capture.inputs import Inputs
from fxgrow.errors import PlanError
from fxgrow.grouping import grouped
from fxgrow.modules.containers import flat_tensors, of_kind
from fxgrow.modules.switching import in_mode
from fxgrow.modules.tensors import named_tensors
from fxgrow.planning.plan import Channels

_ASIDE = {"device", "dtype", "is_cuda", "is_meta", "layout", "requires_grad", "grad", "is_leaf", "ndim"}
_ASIDE |= {"is_floating_point", "is_complex", "dim", "ndimension", "requires_grad_"}
_ASIDE |= {"new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"}
"""What growth leaves as it is in a tensor."""


class Reach(TorchFunctionMode):
    """Watches a run of a model.

    reached: paths of modules of which something was used while they did not run, and what.

    >>> class Reaching(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.part = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    ...     def forward(self, x):
    ...         return self.part(x) * self.part[0].bias.sum()
    >>> model = Reaching()
    >>> with Reach(model) as watch:
    ...     y = model(torch.ones(1, 2))
    >>> watch.reached["part"]
    '0.bias is used outside of it'
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.reached: dict[str, str] = {}
        self._running: list[str] = []
        self._made: Any = WeakIdKeyDictionary()
        modules = dict(model.named_modules(remove_duplicate=False))
        named = (*named_tensors(model).items(), *modules.items())
        self._names: dict[int, list[str]] = grouped((id(held), name) for name, held in named)
        for module in model.modules():
            module.register_forward_pre_hook(lambda module, _: self._begins(module), prepend=True)
            module.register_forward_hook(lambda _, __, output: self._ends(output), always_call=True)

    def _begins(self, module: nn.Module) -> None:
        self._running.append(self._use(module, "is called"))

    def _ends(self, output: Any) -> None:
        self._running.pop()
        for tensor in of_kind(output, Tensor):
            self._made[tensor] = tuple(self._running)

    def _use(self, held: nn.Module | Tensor, how: str) -> str:
        """Something that modules have is used; returns its name in the one that runs, if several have it."""

        def running(name: str) -> int:
            return max((len(path) for path in self._running if path and name.startswith(f"{path}.")), default=0)

        name = owner = max(self._names[id(held)], key=running)
        while "." in owner:
            owner = owner.rpartition(".")[0]
            if owner not in self._running:
                self.reached.setdefault(owner, f"{name.removeprefix(owner + '.')} {how} outside of it")
        return name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        name = getattr(func.__self__, "__name__", "") if name == "__get__" else name
        if name in _ASIDE:
            return func(*args, **(kwargs or {}))
        given = list(of_kind((args, kwargs), Tensor))
        for tensor in given:
            if id(tensor) in self._names:
                self._use(tensor, "is used")
            for path in self._made.get(tensor, ()):
                if path not in self._running:
                    self.reached.setdefault(path, "a tensor that it keeps is used outside of it")
        result = func(*args, **(kwargs or {}))
        for tensor in of_kind(result, Tensor):
            is_given = any(tensor is operand for operand in given)  # as by `contiguous` of what is contiguous
            if id(tensor) not in self._names and tensor not in self._made and not is_given:
                self._made[tensor] = tuple(self._running)
        return result


Argument = tuple[int | str, int]
"""An argument, by position or name, and which of the tensors in it."""


@dataclass
class Passage:
    """What becomes of the tensors that go into a model and of those that its parts give, outside of the parts.

    read: the first function that is given one, and where, by "" or the part. fed: parts that are given inputs of the
    model themselves, with the arguments that these are of the part and of the model. straight: parts whose tensors
    the model puts out.
    """

    read: dict[str, str] = field(default_factory=dict)
    fed: dict[str, dict[Argument, Argument]] = field(default_factory=dict)
    handed_on: set[str] = field(default_factory=set)
    straight: list[str] = field(default_factory=list)

    def head(self) -> str:
        """The part whose outputs are those of the model.

        Raises
        ------
        PlanError: there is none, or there are several.
        """
        free = [path for path in self.straight if path not in self.read and path not in self.handed_on]
        if len(free) == 1:
            return free[0]
        if free:
            text = f"{' and '.join(free)} make outputs of the model, each by itself"
            raise PlanError(
                text,
                where="the model grows in parts",
                remedy="grow the parts one by one: model.head = fxgrow.grow(...)",
            )
        readers = [f"{path}, which {by} reads" for path, by in self.read.items() if path and path not in self.handed_on]
        raise PlanError(
            "classes= needs a part whose outputs the model puts out as they are; it makes its outputs of those of "
            + ("; ".join(readers) or "no part"),
            where="code between the parts, which no graph holds",
            remedy="put a last layer with more outputs there by hand, before or after growing",
        )

    def first(self) -> str:
        """The part that reads the inputs of the model.

        Raises
        ------
        PlanError: there is none, or there are several, or something else reads them first.
        """
        if len(self.fed) == 1 and "" not in self.read:
            return next(iter(self.fed))
        text = f"{self.read['']} reads them first" if "" in self.read else f"{len(self.fed)} parts are given them"
        raise PlanError(
            f"in_chans= needs one part that is given the inputs of the model as they are; {text}",
            where="code between the parts, which no graph holds",
            remedy="grow the part that reads them by itself, as in model.backbone = fxgrow.grow(model.backbone, "
            'in_chans="+1", example_inputs=...), and let the code before it take more channels',
        )

    def of_model(self, path: str, channels: Channels) -> Channels:
        """The channels of a part's arguments as those of the model's."""
        names = self.fed[path]
        places = tuple((*names[argument, number], axis) for argument, number, axis in channels.places)
        return Channels(channels.old, channels.new, places)


def passage(twin: nn.Module, inputs: Inputs, parts: Iterable[str]) -> Passage:
    """What a run of a model in eval mode shows; hooks stay on `twin`, which is of no further use."""
    seen, alive = Passage(), [inputs]
    origin = {id(tensor): place for place, tensor in _numbered(inputs)}
    of_part: dict[int, str] = dict.fromkeys(origin, "")
    inside: list[str] = []

    class Between(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not inside and func.__name__ != "__get__":  # to look up a dtype or a batch size is to do nothing with it
                for tensor in flat_tensors((args, kwargs or {})):
                    if id(tensor) in of_part:
                        seen.read.setdefault(of_part[id(tensor)], _said(func))
            return func(*args, **(kwargs or {}))

    def enter(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            for place, tensor in _numbered((args, kwargs)):
                if id(tensor) in origin and not inside:
                    seen.fed.setdefault(path, {})[place] = origin[id(tensor)]
                elif id(tensor) in of_part:
                    seen.handed_on.add(of_part[id(tensor)])
            inside.append(path)

        return hook

    def leave(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            inside.pop()
            alive.append(output)  # a name that is given twice is not one
            of_part.update((id(tensor), path) for tensor in flat_tensors(output) if id(tensor) not in origin)

        return hook

    for path in parts:
        twin.get_submodule(path).register_forward_pre_hook(enter(path), with_kwargs=True)
        twin.get_submodule(path).register_forward_hook(leave(path))
    with torch.no_grad(), Between():
        output = in_mode(twin, False)(*inputs[0], **inputs[1])
    seen.straight = list(dict.fromkeys(of_part[id(t)] for t in flat_tensors(output) if of_part.get(id(t))))
    return seen


def _numbered(inputs: Inputs) -> Iterable[tuple[Argument, Tensor]]:
    named: list[tuple[int | str, Any]] = [*enumerate(inputs[0]), *inputs[1].items()]
    for name, value in named:
        for number, tensor in enumerate(flat_tensors(value)):
            yield (name, number), tensor


def _said(function: Any) -> str:
    """What a function is called, and the line that calls it."""
    frame = sys._getframe(2)
    while frame.f_back is not None and {"torch", "fxgrow"} & set(Path(frame.f_code.co_filename).parts[-4:-1]):
        frame = frame.f_back
    return (
        f"{function.__name__} in {frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})"
    )
