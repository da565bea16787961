"""In which group of an optimizer a parameter of a new block goes: as what it repeats, at the rate of its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

_RATES = ("lr", "initial_lr", "lr_scale", "min_lr", "max_lr")
_OF_MEMBERS = ("params", "param_names")


def group_at_place(
    name: str, like: str, grown: nn.Module, groups: Sequence[Mapping[str, Any]], group_of: Mapping[str, int]
) -> int | None:
    """The number of the group for a new parameter that repeats `like`; None where no group has that.

    Where rates hang on the place (timm's `layer_decay`), a new block gets those of the block before it,
    which may be another than the one that it repeats: blocks alternate.

    Parameters
    ----------
    group_of: the number of the group of each parameter that was there.
    """
    number = group_of.get(like)
    if number is None:
        return None
    before = _before(name, like, grown, group_of)
    wanted = _without(groups[number], _RATES)
    for other in before:
        rates = {key: groups[other][key] for key in _RATES if key in groups[other]}
        for candidate in [other, *range(len(groups))]:
            there = {key: groups[candidate][key] for key in _RATES if key in groups[candidate]}
            if there == rates and _without(groups[candidate], _RATES) == wanted:
                return int(candidate)
    return number


def _without(group: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in (*keys, *_OF_MEMBERS)}


def _before(name: str, like: str, grown: nn.Module, group_of: Mapping[str, int]) -> list[int]:
    """The groups of the parameters of the block before a new one, that of the namesake first."""
    new, old = name.split("."), like.split(".")
    parting = next((place for place, (part, before) in enumerate(zip(new, old, strict=False)) if part != before), None)
    if parting is None or new[parting + 1 :] != old[parting + 1 :]:
        return []  # the blocks are not in one list
    around = ".".join(new[:parting])
    siblings = list(grown.get_submodule(around)._modules)
    for sibling in reversed(siblings[: siblings.index(new[parting])] if new[parting] in siblings else []):
        inside = f"{around}.{sibling}." if around else f"{sibling}."
        held = {before: number for before, number in group_of.items() if before.startswith(inside)}
        if held:
            namesake = held.get(inside + ".".join(new[parting + 1 :]))
            return [*([] if namesake is None else [namesake]), *dict.fromkeys(held.values())]
    return []
