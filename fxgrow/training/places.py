"""The optimizer group of a new parameter: that of the parameter it repeats or replaces, at the rate of its place."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from fxgrow.modules.tensors import within
from fxgrow.training.matching import BY_HAND, NEW, Match
from fxgrow.training.parameters import OF_MEMBERS

_RATES = ("lr", "initial_lr", "lr_scale", "min_lr", "max_lr")


class Places:
    """Where the parameters of a grown model stand in an optimizer that held those from before.

    Attributes
    ----------
    stood: the number of the group of each parameter that the last growth gave and that was replaced or taken out by
        hand since; None where the optimizer did not hold it.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], match: Match, grown: nn.Module) -> None:
        self.groups = groups
        self.match = match
        self.grown = grown
        self.twins = match.twins
        self.ranks = {name: parameter.ndim for name, parameter in grown.named_parameters()}
        self.order = {name: number for number, name in enumerate(self.ranks)}
        self.group_of: dict[str, int] = {}
        self.stood: dict[str, int | None] = {}
        left: dict[str, int] = {}
        for number, group in enumerate(groups):
            for parameter in group["params"]:
                if parameter in match.now:
                    self.group_of[match.now[parameter]] = number
                elif parameter in match.gone:
                    left[match.gone[parameter]] = number
        self.others = dict.fromkeys(
            [*self.group_of, *(name for name in self.ranks if match.why_fresh(name) not in (NEW, BY_HAND))]
        )
        births = match.history.births
        there = {then for name, then in match.growth_names.items() if match.why_fresh(name) != BY_HAND}
        for name in [*left, *(name for name in births if name not in there and name not in left)]:
            self.stood[name] = left[name] if name in left else self._of_new_block(name)
        self.ranks_of_gone = {name: len(births[name].axes) for name in self.stood if name in births}
        self.ranks_of_gone |= {match.gone[p]: p.ndim for group in groups for p in group["params"] if p in match.gone}

    def group_for(self, name: str) -> tuple[int | None, str]:
        """The number of the group for a new parameter, None where another optimizer has its like; what to say of it."""
        if self.match.why_fresh(name) != BY_HAND:
            like = repeated(name, self.twins, self.others)
            like = like if like in self.others else self._closest(name, self.others, self.ranks)
            return self._at_place(name, like), ""
        around = self._replaced(name)
        if around:
            like = self._closest(name, around, self.ranks_of_gone)
            number = self.stood[like]
            if number is not None and self.ranks_of_gone[like] != self.ranks[name] and self.others:
                namesake = self.group_of.get(self._closest(name, self.others, self.ranks))
                if namesake is not None:
                    number = self._with_rates(number, namesake, number)
            return number, f" where {like} stood"
        like = self._closest(name, self.others, self.ranks)
        return self.group_of.get(like), f", and nothing stood in its place; it joins the group of {like}"

    def _of_new_block(self, name: str) -> int | None:
        like = repeated(name, self.twins, self.others)
        return self._at_place(name, like) if like in self.others else None

    def _replaced(self, name: str) -> list[str]:
        """What stood in the smallest part around a parameter in which something was replaced or taken out."""
        around = name
        while around:
            inside = [gone for gone in self.stood if within(gone, around)]
            if inside:
                return inside
            around = around.rpartition(".")[0]
        return []

    def _closest(self, name: str, others: Iterable[str], ranks: Mapping[str, int]) -> str:
        """The parameter most like a new one: of its rank, its last name, nearest in the tree, then in order."""
        path = name.split(".")

        def likeness(candidate: str) -> tuple[bool, bool, int, float]:
            steps = candidate.split(".")
            common = next((k for k, (a, b) in enumerate(zip(path, steps, strict=False)) if a != b), len(path))
            same_tail = [p for p in path if not p.isdigit()] == [p for p in steps if not p.isdigit()]
            away = abs(self.order[name] - self.order.get(candidate, math.inf))
            return ranks[candidate] == self.ranks[name], same_tail, common, -away

        return max(others, key=likeness)

    def _at_place(self, name: str, like: str) -> int | None:
        """The number of the group for a new parameter that repeats `like`; None where no group has that.

        Where rates hang on the place (timm's `layer_decay`), a new block gets those of the block before it,
        which may be another than the one that it repeats: blocks alternate.
        """
        number = self.group_of.get(like)
        if number is None:
            return None
        for other in self._before(name, like):
            candidate = self._with_rates(other, number, None)
            if candidate is not None:
                return int(candidate)
        return number

    def _with_rates(self, rates_of: int, options_of: int, otherwise: int | None) -> int | None:
        """The group with the rates of one group and all else of another."""
        rates = {key: self.groups[rates_of][key] for key in _RATES if key in self.groups[rates_of]}
        wanted = _without(self.groups[options_of], _RATES)
        for candidate in [rates_of, *range(len(self.groups))]:
            own = {key: self.groups[candidate][key] for key in _RATES if key in self.groups[candidate]}
            if own == rates and _without(self.groups[candidate], _RATES) == wanted:
                return int(candidate)
        return otherwise

    def _before(self, name: str, like: str) -> list[int]:
        """The groups of the parameters of the block before a new one, that of the namesake first."""
        new, old = name.split("."), like.split(".")
        parting = next(
            (place for place, (part, before) in enumerate(zip(new, old, strict=False)) if part != before), None
        )
        if parting is None or new[parting + 1 :] != old[parting + 1 :]:
            return []  # the blocks are not in one list
        around = ".".join(new[:parting])
        siblings = list(self.grown.get_submodule(around)._modules)
        for sibling in reversed(siblings[: siblings.index(new[parting])] if new[parting] in siblings else []):
            inside = f"{around}.{sibling}." if around else f"{sibling}."
            groups = {before: number for before, number in self.group_of.items() if before.startswith(inside)}
            if groups:
                namesake = groups.get(inside + ".".join(new[parting + 1 :]))
                return [*([] if namesake is None else [namesake]), *dict.fromkeys(groups.values())]
        return []


def _without(group: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in (*keys, *OF_MEMBERS)}


def repeated(name: str, twins: Mapping[str, str], present: Container[str]) -> str:
    """Follow a new parameter to the one it repeats, and so on, up to one that is present."""
    while name not in present and name in twins:
        name = twins[name]
    return name
