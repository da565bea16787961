"""How one tensor grows, axis by axis: a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Axis:
    """How one axis of a tensor grows.

    Attributes
    ----------
    kind: "keep" (a run that stays), "grow" (a run with new units at its end), "product" or "join" of parts.
    old, new: sizes before and after.
    group: the growth group of a growing run.
    fill: what its new entries are: "draw" (free), "zero", "mean" (the mean of the old ones), "silence" (zero towards
        old outputs, free towards new ones), "pair" (equal pairs), "opposite" (pairs of opposite sign towards old
        outputs), "copy" (copies of old units), "share" (old weights, shared out unevenly between the copies).
    parts: the factors of a product, the parts of a join.
    """

    kind: str
    old: int
    new: int
    group: str = ""
    fill: str = ""
    parts: tuple[Axis, ...] = ()

    def runs(self) -> Iterator[Axis]:
        """The growing runs, in order."""
        if self.kind == "grow":
            yield self
        for part in self.parts:
            yield from part.runs()

    def regrouped(self, name: Callable[[str], str]) -> Axis:
        """The same with other names of groups, where there are any."""
        group = name(self.group) if self.group else ""
        return replace(self, group=group, parts=tuple(part.regrouped(name) for part in self.parts))


@dataclass(frozen=True)
class Calibration:
    """A factor for the weights of drawn units: those at the positions `start` to `stop` of an axis."""

    axis: int
    start: int
    stop: int
    factor: float


@dataclass(frozen=True)
class TensorGrowth:
    """How one parameter or buffer grows.

    Attributes
    ----------
    draw: what free entries are: "normal" (at the scale of the old ones), "level" (the mean of the old ones), "zeros",
        "alike" (normal, with mean and deviation of the old ones), "factor" (alike, and ones where the old are zero).
    scale: multiplies the old entries.
    spread: how large normally drawn entries are beside the old ones before growth; None: by fan-in.
    calibrations: factors for the weights of drawn units, worked out on a batch of data.
    """

    name: str
    axes: tuple[Axis, ...]
    draw: str
    scale: float = 1.0
    spread: float | None = None
    calibrations: tuple[Calibration, ...] = ()

    def regrouped(self, name: Callable[[str], str]) -> TensorGrowth:
        """The same with other names of groups."""
        return replace(self, axes=tuple(axis.regrouped(name) for axis in self.axes))

    @property
    def old_shape(self) -> tuple[int, ...]:
        """The shape before growth."""
        return tuple(axis.old for axis in self.axes)

    @property
    def new_shape(self) -> tuple[int, ...]:
        """The shape after growth."""
        return tuple(axis.new for axis in self.axes)
