"""What is known of new units, tensor by tensor, while a plan is being made."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from fxgrow.axes.layout import Layout, Leaf, leaves
from fxgrow.rules.law import Fact, Range, Want
from fxgrow.rules.op import Op, Tensor, tensors


class Way(enum.Enum):
    """How the new units of a dimension stay invisible where nothing else is asked of them."""

    ZERO = "zero"  # drawn at random, and consumers give them zero weights
    MIRROR = "mirror"  # equal pairs, which consumers read with opposite weights
    REPLICATE = "replicate"  # copies of old units, whose consumers share the weight


GRADMAX = "gradmax"
INITS = {**{way.value: way for way in Way}, GRADMAX: Way.ZERO}
"""How new units stay invisible, by the name of how they start. "gradmax": what makes them is chosen by a loss."""


@dataclass(frozen=True)
class Failure:
    """A place where the old outputs would change."""

    op: Op
    leaf: Leaf
    text: str
    guardable: bool


Slot = tuple[str, int, Leaf]
"""A parameter's axis, at the new units of one leaf."""

Fills = dict[Slot, dict[Range | None, Fact]]
"""What new entries of parameters are asked to be."""


@dataclass
class Knowledge:
    """Facts about tensors, and fills of parameter slots, under a choice of new sizes.

    guarded: leaves over which statistics are taken of old units alone. silenced: leaves whose units are to be zero.
    multiplied: leaves that products sum over whose factors are all data. turned: those where the last factor is zero.
    overwritten: buffers that start at zero at new units, and that the forward writes something else to.
    """

    growth: dict[Leaf, int]
    ways: dict[Leaf, Way]
    guarded: set[Leaf]
    silenced: set[Leaf] = field(default_factory=set)
    turned: set[Leaf] = field(default_factory=set)
    multiplied: set[Leaf] = field(default_factory=set)
    fills: Fills = field(default_factory=dict)
    contracted: set[Slot] = field(default_factory=set)
    produced: set[Slot] = field(default_factory=set)
    read: set[Leaf] = field(default_factory=set)
    roles: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    zero_by_default: set[str] = field(default_factory=set)
    overwritten: set[tuple[str, Leaf]] = field(default_factory=set)
    scales: dict[str, dict[Op, float]] = field(default_factory=dict)
    _growing: dict[tuple[Layout, ...], tuple[Leaf, ...]] = field(default_factory=dict)
    _facts: dict[tuple[Tensor, Leaf], dict[Range | None, Fact]] = field(default_factory=dict)

    def growing(self, *axes: Layout) -> list[Leaf]:
        """The growing leaves of some axes, each once, in order."""
        if axes not in self._growing:
            grows = dict.fromkeys(leaf for axis in axes for leaf in leaves(axis) if leaf in self.growth)
            self._growing[axes] = tuple(grows)
        return list(self._growing[axes])

    def fact(self, tensor: Tensor, leaf: Leaf, axis: int | None = None) -> Fact:
        """What is known of all new entries of a tensor along a leaf."""
        return self.ranged(tensor, leaf, axis).get(None, Fact.BASE)

    def ranged(self, tensor: Tensor, leaf: Leaf, axis: int | None = None) -> dict[Range | None, Fact]:
        """What is known along a leaf, with facts limited to ranges of some axis.

        `axis` tells the slots of a parameter apart where the leaf occurs on several of its axes.
        """
        if tensor.parameter is None:
            return self._facts.get((tensor, leaf), {})
        known: dict[Range | None, Fact] = {}
        for place in self.places(tensor, leaf, axis):
            known.update(self.fills.get((tensor.parameter, place, leaf), {}))
        starts_zero = tensor.parameter in self.zero_by_default and self.ways[leaf] is not Way.REPLICATE
        if None not in known and starts_zero and (tensor.parameter, leaf) not in self.overwritten:
            known[None] = Fact.ZERO
        return known

    def is_silent(self, tensor: Tensor, leaf: Leaf) -> bool:
        """Whether a tensor is a piece of a parameter that passes nothing on along any axis that a leaf is on."""
        while tensor.parameter is None and tensor.op is not None and tensor.op.law.family == "shape":
            tensor = tensor.op.operands()[0]
        slots = self.places(tensor, leaf, None) if tensor.parameter is not None else []
        return bool(slots) and all(self.fact(tensor, leaf, axis) in (Fact.ZERO, Fact.IGNORED) for axis in slots)

    @staticmethod
    def places(tensor: Tensor, leaf: Leaf, axis: int | None) -> list[int]:
        """The axes of a tensor that a leaf is on, or the one axis that is given."""
        if axis is not None:
            return [axis]
        return [place for place in range(tensor.rank) if leaf in leaves(tensor.axes[place])]

    def learn(self, tensor: Tensor, leaf: Leaf, fact: Fact, where: Range | None = None) -> None:
        if fact is not Fact.BASE:
            self._facts.setdefault((tensor, leaf), {})[where] = fact

    def learn_all(self, tensor: Tensor, leaf: Leaf, facts: dict[Range | None, Fact]) -> None:
        self._facts[tensor, leaf] = {where: fact for where, fact in facts.items() if fact is not Fact.BASE}

    def forget(self) -> None:
        """Drop all facts about tensors; the fills of parameters stay."""
        self._facts.clear()
        self.scales.clear()
        self.failures.clear()

    def scale(self, op: Op, parameter: str, factor: float) -> None:
        """An op's exactness rests on the old entries of a parameter being multiplied by `factor`."""
        self.scales.setdefault(parameter, {})[op] = factor

    def fail(self, op: Op, leaf: Leaf, text: str, guardable: bool = False) -> None:
        self.failures.append(Failure(op, leaf, text, guardable))

    def ask(self, tensor: Tensor, want: Want) -> bool:
        """Try to have a wish granted by whoever makes the tensor; all or nothing."""
        return self.ask_for_one([(tensor, want)])

    def ask_for_one(self, wishes: Iterable[tuple[Tensor, Want]]) -> bool:
        """Try to have one of some wishes granted: one that takes nothing new, or else the first that can be."""
        grants: list[Fills] = []
        for tensor, want in wishes:
            granted: Fills = {}
            if _outcome(self._grant(tensor, want, granted, {})):
                if all(fills.items() <= self.fills.get(slot, {}).items() for slot, fills in granted.items()):
                    return True
                grants.append(granted)
        for slot, fills in grants[0].items() if grants else ():
            self.fills.setdefault(slot, {}).update(fills)
        return bool(grants)

    def check_overwritten(self, op: Op, parameter: Tensor, leaf: Leaf, fact: Fact) -> None:
        """What new entries of a parameter were asked to be they are still once `op` has written `fact` to them."""
        assert parameter.parameter is not None
        if fact is not Fact.ZERO and parameter.parameter in self.zero_by_default:
            self.overwritten.add((parameter.parameter, leaf))
        for axis in self.places(parameter, leaf, None):
            for where, asked in list(self.fills.get((parameter.parameter, axis, leaf), {}).items()):
                if asked in (fact, Fact.BASE) or (asked is Fact.IGNORED and fact is Fact.ZERO):
                    continue
                if asked is not Fact.IGNORED or not self.ask(parameter, Want(leaf, Fact.ZERO, where, axis)):
                    self.fail(op, leaf, f"{op.name} writes over the entries that keep new units from changing anything")

    def check_cancelling(self, ops: Iterable[Op]) -> None:
        """Entries that cancel for who sums over them are no pairs or copies to anybody else."""
        uses = ((op, t, leaf) for op in ops for t in op.operands() for leaf in self.growing(*t.axes))
        for op, tensor, leaf in uses:
            way, seen = self.ways[leaf], self.ranged(tensor, leaf).values()
            if way is Way.ZERO or Fact.IGNORED not in seen or op.law.family == "contraction":
                continue
            made = [t for t in tensors(op.output) if leaf in t.leaves()]
            lost = not all({Fact.IGNORED, Fact.ZERO} & {*self.ranged(t, leaf).values()} for t in made)
            shared_out = way is Way.REPLICATE and (not made or leaf in self.growing(*op.law.statistics(op)))
            if lost or shared_out:  # copies share old entries out as well
                self.fail(op, leaf, f"{op.name} is given a weight that reads it elsewhere")

    def check_mixed(self, ops: Iterable[Op]) -> None:
        """What is made of old units as well is read as pairs or copies by nobody, unless it is made zero before."""
        mixed: set[tuple[Tensor, Leaf]] = set()
        for op in ops:
            made = list(tensors(op.output))
            mixed.update((tensor, leaf) for leaf in self.growing(*op.law.mixed(op)) for tensor in made)
            for operand in op.operands() if mixed else ():
                for leaf in self.growing(*operand.axes):
                    if (operand, leaf) not in mixed or self.ways[leaf] is Way.ZERO:
                        continue
                    kept = [tensor for tensor in made if leaf in tensor.leaves()]
                    if not kept or any(op.law.ends(op, operand, axis) for axis in self.places(operand, leaf, None)):
                        self.fail(op, leaf, f"{op.name} reads units that are made of old ones, too")
                    mixed.update((tensor, leaf) for tensor in kept if self.fact(tensor, leaf) is not Fact.ZERO)

    def is_read(self, op: Op, weight: Tensor, leaf: Leaf, sent: Fact) -> None:
        """A weight `[outputs, inputs]` reads new inputs, of which `sent` is known: it has to pass nothing on."""
        self.read.add(leaf)
        self.contracted.add((str(weight.parameter), 1, leaf))
        if sent is Fact.ZERO or self.fact(weight, leaf, 1) in (Fact.ZERO, Fact.IGNORED):
            return
        zero = sent is Fact.MEAN and self.ways[leaf] is Way.REPLICATE
        if not self.ask(weight, Want(leaf, Fact.ZERO if zero else Fact.IGNORED, None, 1)):
            self.fail(op, leaf, f"{op.name} reads it")

    def is_made(self, weight: Tensor) -> None:
        """A weight `[outputs, inputs]` makes new outputs."""
        self.produced.update((str(weight.parameter), 0, leaf) for leaf in self.growing(weight.axes[0]))

    def _grant(self, tensor: Tensor, want: Want, granted: Fills, asked: dict[tuple[Tensor, Want], bool]) -> _Steps:
        """asked: what has been asked, and whether it was granted; what is still being asked counts as granted."""
        if (tensor, want) not in asked:
            asked[tensor, want] = True
            asked[tensor, want] = yield self._granted(tensor, want, granted, asked)
        return asked[tensor, want]

    def _granted(self, tensor: Tensor, want: Want, granted: Fills, asked: dict[tuple[Tensor, Want], bool]) -> _Steps:
        if want.leaf not in tensor.leaves():
            return want.fact is Fact.MEAN
        if tensor.parameter is not None:
            return self._grant_parameter(tensor, want, granted)
        if tensor.op is None:
            return False
        for alternative in tensor.op.law.demand(tensor.op, tensor, want):
            attempt, before = {slot: dict(fills) for slot, fills in granted.items()}, len(asked)
            for operand, wish in alternative:
                if not (yield self._grant(operand, wish, attempt, asked)):
                    break
            else:
                granted.update(attempt)
                return True
            for abandoned in [key for key in itertools.islice(reversed(asked), len(asked) - before) if asked[key]]:
                del asked[abandoned]  # what it was granted is not
        return False

    def _grant_parameter(self, tensor: Tensor, want: Want, granted: Fills) -> bool:
        assert tensor.parameter is not None
        places = self.places(tensor, want.leaf, want.axis)
        if want.where is not None and places != [want.where.axis]:
            return False
        for axis in places:
            slot = (tensor.parameter, axis, want.leaf)
            fact, makes = want.fact, slot in self.produced or len(places) > 1
            if fact is Fact.IGNORED and makes and self.ways[want.leaf] is not Way.ZERO:
                fact = Fact.ZERO  # the same entries also make units, which must stay pairs or copies
            fills = {**self.fills.get(slot, {}), **granted.get(slot, {})}
            for where, held in fills.items():
                if held is fact or not overlapping(where, want.where):
                    continue
                if held is Fact.ZERO and fact is Fact.IGNORED:
                    fact = Fact.ZERO
                elif not (held is Fact.IGNORED and fact is Fact.ZERO):
                    return False
            granted.setdefault(slot, {})[want.where] = fact
        return True


_Steps = Generator["_Steps", Any, bool]
"""What yields the steps whose outcomes it needs, and ends with its own."""


def _outcome(steps: _Steps) -> bool:
    """What nested steps end with: chains of residual sums are longer than Python lets calls be nested."""
    under_way, outcome = [steps], None
    while under_way:
        try:
            under_way.append(under_way[-1].send(outcome))
            outcome = None
        except StopIteration as end:
            under_way.pop()
            outcome = end.value
    return bool(outcome)


def overlapping(a: Range | None, b: Range | None) -> bool:
    """Whether two ranges (None: everywhere) share positions; ranges of different axes always may."""
    return a is None or b is None or a.axis != b.axis or (a.low < b.high and b.low < a.high)
