"""Names for the parts of a container after parts were added: by the pattern that the old names follow."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy as copy_of
from typing import Any

import torch
from torch import nn

from fxgrow.capture.inputs import Inputs, fitted
from fxgrow.capture.skeleton import skeleton
from fxgrow.grouping import grouped
from fxgrow.modules.devices import callers_code
from fxgrow.modules.replacing import replaced
from fxgrow.modules.switching import in_mode

Slot = tuple[str, int]
"""The name of a part that was there, and the number of its copy; 0: itself."""

_NUMBERED = re.compile(r"(.*\D|)(\d+)")


def series(names: Iterable[str]) -> dict[str, list[str]]:
    """Names with one prefix that go up by one, from any number on.

    >>> series(["b1", "pool", "b2", "c1", "c3"])
    {'b': ['b1', 'b2']}
    >>> series(["stage2-0", "stage2-1"])
    {'stage2-': ['stage2-0', 'stage2-1']}
    """
    alike = grouped((match[1], name) for name in names if (match := _NUMBERED.fullmatch(name)))
    return {prefix: listed for prefix, listed in alike.items() if listed == [*_counted(prefix, listed[0], len(listed))]}


def _counted(prefix: str, first: str, count: int) -> Iterator[str]:
    start = int(first.removeprefix(prefix))
    return (f"{prefix}{start + k}" for k in range(count))


def names_of_slots(slots: Sequence[Slot], counted: Container[str]) -> dict[Slot, str]:
    """Names of the parts in order: counted ones counted anew, others kept and new ones named after what they repeat.

    counted: the prefixes of names that are counted.

    >>> names_of_slots([("b1", 0), ("b1", 1), ("b2", 0), ("pool", 0)], {"b"})
    {('b1', 0): 'b1', ('b1', 1): 'b2', ('b2', 0): 'b3', ('pool', 0): 'pool'}
    >>> names_of_slots([("b1", 0), ("b1", 1), ("b2", 0)], ())[("b1", 1)]
    'b1_1'
    """
    names: dict[Slot, str] = {}
    for prefix, there in series(name for name, copy in slots if not copy).items():
        if prefix in counted:
            alike = [slot for slot in slots if slot[0] in there]
            names.update(zip(alike, _counted(prefix, there[0], len(alike)), strict=True))
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


def prefixes_counted(model: nn.Module, path: str, inputs: Inputs, longer: Collection[str]) -> set[str]:
    """The prefixes of numbered parts of a container that may have other numbers, of those in series with some names.

    Nothing that runs asks for such a part by its name, or it works the names out and runs one more if there is one.
    """
    parts = model.get_submodule(path)._modules
    of_names = {prefix: names for prefix, names in series(parts).items() if not set(names).isdisjoint(longer)}
    if isinstance(model.get_submodule(path), (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return set(of_names)
    return {
        prefix
        for prefix, names in of_names.items()
        if _renamed_runs(model, path, names, inputs) or _longer_runs(model, path, prefix, names, inputs)
    }


def _renamed_runs(model: nn.Module, path: str, names: Sequence[str], inputs: Inputs) -> bool:
    """Whether parts run in their order whatever they are called."""
    runner: Any = in_mode(skeleton(model), False)
    parts = runner.get_submodule(path)._modules
    called: list[nn.Module] = []
    for name in names:
        parts[name].register_forward_hook(lambda part, *_: called.append(part))
    if not _runs(runner, inputs):
        return False
    in_order = list(called)
    called.clear()
    renamed = {f"{name}_by_any_other_name" if name in names else name: part for name, part in parts.items()}
    parts.clear()
    parts.update(renamed)
    return _runs(runner, inputs) and called == in_order


def _longer_runs(model: nn.Module, path: str, prefix: str, names: Sequence[str], inputs: Inputs) -> bool:
    """Whether one more part runs by the next number, where an attribute that counts them has followed if one does."""
    runner: Any = in_mode(skeleton(model), False)
    parts = runner.get_submodule(path)._modules
    *_, name = _counted(prefix, names[0], len(names) + 1)
    parts[name] = copy_of(parts[names[-1]])
    parts[name]._forward_hooks = OrderedDict()
    called: list[nn.Module] = []
    parts[name].register_forward_hook(lambda part, *_: called.append(part))
    steps = path.split(".")
    owners = dict.fromkeys(".".join(steps[:length]) for length in range(len(steps) + 1))
    modules = [runner.get_submodule(owner) for owner in owners]
    ways: list[AbstractContextManager[None]] = [nullcontext()]
    for owner in modules:
        changes = ((key, recounted(value, names, [*names, name])) for key, value in vars(owner).items())
        ways += [replaced(owner, key, value) for key, value in changes if value is not None]
    for way in ways:
        with way:
            if _runs(runner, inputs) and called:
                return True
    return False


def recounted(value: Any, before: Sequence[str], after: Sequence[str]) -> Any:
    """What an attribute becomes that counts parts, or lists their names or places in order; None: it does neither.

    >>> recounted(2, ["a0", "a1"], ["a0", "a1", "a2"]), recounted(["a0", "a1"], ["a0", "a1"], ["a0", "a1", "a2"])
    (3, ['a0', 'a1', 'a2'])
    """
    if type(value) is int and value == len(before):
        return len(after)
    if type(value) is range and value == range(len(before)):
        return range(len(after))
    if type(value) in (list, tuple) and value:
        ways: tuple[tuple[Sequence[Any], Sequence[Any]], ...] = (
            (before, after),
            (range(len(before)), range(len(after))),
        )
        return next((type(value)(now) for was, now in ways if [*value] == [*was]), None)
    return None


def _runs(runner: Any, inputs: Inputs) -> bool:
    arguments, keywords = fitted(runner, inputs)
    try:
        with callers_code(), torch.device("meta"), torch.no_grad():
            runner(*arguments, **keywords)
    except Exception:  # whatever a forward raises
        return False
    return True
