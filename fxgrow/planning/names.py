"""Names for the parts of a container after parts were added: by the pattern that the old names follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxgrow.capture.inputs import Inputs, fitted
from fxgrow.capture.skeleton import skeleton
from fxgrow.devices import callers_code
from fxgrow.switching import in_mode

Slot = tuple[str, int]
"""The name of a part that was there, and the number of its copy; 0: itself."""

_NUMBERED = re.compile(r"(\D*)(\d+)")


def names_of_slots(slots: Sequence[Slot], renumber: bool) -> dict[Slot, str]:
    """Names of the parts in order: counted ones counted anew, others kept and new ones named after what they repeat.

    Parts are counted where names with one prefix go up by one, from any number on.

    >>> names_of_slots([("b1", 0), ("b1", 1), ("b2", 0), ("pool", 0)], True)
    {('b1', 0): 'b1', ('b1', 1): 'b2', ('b2', 0): 'b3', ('pool', 0): 'pool'}
    >>> names_of_slots([("b1", 0), ("b1", 1), ("b2", 0)], False)[("b1", 1)]
    'b1_1'
    """
    names: dict[Slot, str] = {}
    for prefix in dict.fromkeys(match[1] for name, _ in slots if (match := _NUMBERED.fullmatch(name))):
        alike = [slot for slot in slots if (match := _NUMBERED.fullmatch(slot[0])) and match[1] == prefix]
        there = [name.removeprefix(prefix) for name, copy in alike if not copy]
        start = int(there[0])
        if renumber and there == [str(start + k) for k in range(len(there))]:
            names.update({slot: f"{prefix}{start + k}" for k, slot in enumerate(alike)})
    taken = {name for name, copy in slots if not copy} | set(names.values())
    for name, copy in slots:
        new, further = name, 0
        while copy and new in taken:
            further += 1
            new = f"{name}_{further}"
        if (name, copy) not in names:
            taken.add(new)
            names[name, copy] = new
    return {slot: names[slot] for slot in slots}


def counts_on(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether names go on where those that are there are counted.

    >>> counts_on(["b1", "pool"], ["b1", "b2", "pool"]), counts_on(["b1"], ["b1", "pool"])
    (True, False)
    """
    counted = {match[1] for name in before if (match := _NUMBERED.fullmatch(name))}
    further = [name for name in after if name not in before]
    return set(before) <= set(after) and all((m := _NUMBERED.fullmatch(n)) and m[1] in counted for n in further)


def may_be_renamed(model: nn.Module, path: str, inputs: Inputs) -> bool:
    """Whether the parts of a container can have other names: nothing that runs asks for one by its name."""
    if isinstance(model.get_submodule(path), (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return True
    runner: Any = in_mode(skeleton(model), False)
    parts = runner.get_submodule(path)._modules
    called: list[nn.Module] = []
    for part in parts.values():
        part.register_forward_hook(lambda part, *_: called.append(part))
    if not _runs(runner, inputs):
        return False
    in_order = list(called)
    called.clear()
    renamed = {f"{name}_by_any_other_name": part for name, part in parts.items()}
    parts.clear()
    parts.update(renamed)
    return _runs(runner, inputs) and called == in_order


def _runs(runner: Any, inputs: Inputs) -> bool:
    arguments, keywords = fitted(runner, inputs)
    try:
        with callers_code(), torch.device("meta"), torch.no_grad():
            runner(*arguments, **keywords)
    except Exception:  # whatever a forward raises
        return False
    return True
