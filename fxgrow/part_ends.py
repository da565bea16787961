"""Finds the part that makes the outputs of a model that grows in parts, and the part that reads its inputs.

Classes or channels can be added only where nothing comes between: the rest of the model is Python that no graph holds,
and its result for a tensor of another shape cannot be known. A run shows which tensors go straight through, and what
reads the others.
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

from fxgrow.capture.inputs import Inputs
from fxgrow.containers import flat_tensors
from fxgrow.errors import PlanError
from fxgrow.planning.plan import Channels
from fxgrow.switching import in_mode

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
