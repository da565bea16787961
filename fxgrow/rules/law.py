"""What a law is: how an op relates axes, and how it carries what is known of new units.

A law states four things, each a method, and decides nothing: which axes are the same dimension (`relate`), what new
units must be so that old outputs do not change (`needs`), how a wish about new units is passed on to the ops that make
them (`demand`), and what is known of its outputs (`facts`); both follow from its `clauses`. The kernel works out by
itself, independently of these, how a grown node is proved to do what the original's did (`fxgrow.proof.by_law`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from fxgrow.axes.layout import Layout, Leaf, Reason, resolve
from fxgrow.modules.containers import has_fractions
from fxgrow.rules.op import Op, Tensor, Tree, tensors

if TYPE_CHECKING:
    from fxgrow.rules.calls import Call
    from fxgrow.rules.knowledge import Knowledge


Lookup = Callable[..., Any]
"""Looks up an argument by its place and name (and default), as the planner or the kernel sees it."""


class Fact(enum.Enum):
    """What is known of the entries of a tensor at the new units of a dimension."""

    ZERO = "zero"  # all zero
    MEAN = "mean"  # the mean of the old units
    BASE = "base"  # what the dimension's way of growing says: anything, equal pairs, or copies
    IGNORED = "ignored"  # a weight's entries towards old outputs cancel whatever BASE units send


@dataclass(frozen=True)
class Range:
    """Old positions [low, high) of one axis, to which a fact is limited."""

    axis: int
    low: int
    high: int


@dataclass(frozen=True)
class Want:
    """A wish: at the new units of `leaf` (within `where`) a tensor should be `fact`."""

    leaf: Leaf
    fact: Fact
    where: Range | None = None
    axis: int | None = None  # for a parameter: only the slot of this axis

    def at(self, where: Range | None) -> Want:
        return Want(self.leaf, self.fact, where)

    def on(self, axis: int) -> Want:
        return Want(self.leaf, self.fact, self.where, axis)


@dataclass(frozen=True)
class Source:
    """A tensor that has to be `fact` at new units (within `where`) for an output to be what a clause says.

    axis: for a parameter, only the slot of this axis. lands: an axis of it, and that of the output along which its
    positions lie: a clause then holds of a range there if this holds of the same range here.
    """

    tensor: Tensor
    fact: Fact
    axis: int | None = None
    lands: Mapping[int, int] = field(default_factory=dict)
    where: Range | None = None

    def behind(self, where: Range | None) -> Range | None:
        """The range of the tensor that lands on a range of the output; of all of the output, all that counts."""
        axes = [own for own, other in self.lands.items() if where is not None and other == where.axis]
        return Range(axes[0], where.low, where.high) if where is not None and axes else self.where

    def wish(self, want: Want) -> tuple[Tensor, Want] | None:
        """What is wished of it so that an output is what is wanted; None where it cannot be, or nobody can tell."""
        where = self.behind(want.where)
        if want.leaf not in self.tensor.leaves():
            can_be = self.fact is Fact.MEAN
        else:
            can_be = want.where is None or where is not None
        return (self.tensor, Want(want.leaf, self.fact, where, self.axis)) if can_be else None

    def holds(self, know: Knowledge, leaf: Leaf, where: Range | None) -> bool:
        if leaf not in self.tensor.leaves():
            return self.fact is Fact.MEAN
        known, behind = know.ranged(self.tensor, leaf, self.axis), self.behind(where)
        return self.fact in (known.get(None), known.get(behind))

    def ranges(self, know: Knowledge, leaf: Leaf) -> Iterable[Range]:
        """The ranges of the output at which it may hold, if not everywhere."""
        for where in know.ranged(self.tensor, leaf, self.axis):
            if where is not None and where.axis in self.lands:
                yield Range(self.lands[where.axis], where.low, where.high)


def all_of(fact: Fact, *tensors: Tensor | None, lands: Mapping[int, int] = MappingProxyType({})) -> list[Source]:
    """Tensors, as far as they are there, that all have to be `fact`."""
    return [Source(tensor, fact, lands=lands) for tensor in tensors if tensor is not None]


Clause = tuple[Fact, list[Source]]
"""An output is a fact at new units where all of these hold: the planner asks for them, and knows it by them."""


@dataclass(frozen=True)
class Edit:
    """A change to a node that keeps its function while a dimension it reduces over grows."""

    kind: str
    values: dict[str, Any]


def moved_core(op: Op, know: Knowledge, layout: Layout, index: int) -> list[Edit]:
    """The old units, as a guarded op has them among its arguments, once more come between or behind them."""
    arguments = {"path": op.path(index, "core"), "core": resolve(layout), "old": op.argument(index, "core")}
    return [Edit("core", arguments)] if know.growing(layout) else []


class Moves(Protocol):
    """What moves as a model trains, among the new entries of parameters and of all that is computed from them."""

    know: Knowledge

    def zero(self, tensor: Tensor, leaf: Leaf, axis: int | None = None) -> bool:
        """Whether all new entries of a tensor are zero at this step."""

    def has_moved(self, tensor: Tensor, leaf: Leaf, axis: int | None = None) -> bool:
        """Whether a step before this one moved new entries of a tensor."""


@dataclass(frozen=True)
class Terms:
    """An op as a sum of some operands and of one product of others: so far as zeros and ones go, that is all there is.

        x + y        x y        x w + b        gain norm(x) + bias        softmax(q k') v        f(x)

    It is zero where all summands are, and one factor; it is one of its operands where nothing else is left. The
    planner asks how that can be brought about, the kernel whether it is so.

    added, factors: tensors, as the op gives them; factors that are best to silence come first. passed: those of both
    that nothing is done to. tried: what is made of zeros has to be tried out. after: what is applied to it, if any.
    over: a parameter whose norms along all axes but one divide it all, and that axis; none of them may be zero.
    """

    added: Sequence[Any] = ()
    factors: Sequence[Any] = ()
    passed: Sequence[Any] = ()
    tried: bool = False
    after: nn.Module | None = None
    over: tuple[Any, int] | None = None

    def silencing(self) -> list[list[Any]]:
        """What has to be zero together for it all to be zero: alternatives."""
        return [[factor, *self.added] for factor in self.factors] or [[*self.added]]

    def beside(self, kept: Any) -> tuple[list[list[Any]], list[Any]]:
        """For it to be one of those passed: alternatives of what has to be zero together, and what has to be one."""
        added, factors = ([operand for operand in some if operand is not kept] for some in (self.added, self.factors))
        if len(factors) < len(self.factors):
            return [added], factors
        return Terms(added, factors).silencing(), []


def terms(factors: Iterable[Any], added: Iterable[Any] = ()) -> Terms | None:
    """A product plus what is there to be added; None where a factor is not there."""
    factors = list(factors)
    return Terms([operand for operand in added if operand is not None], factors) if None not in factors else None


class Law:
    """Base of all laws; by itself it knows nothing and ties everything down."""

    family = "unknown"
    moves = False  # whether its output is entries of its operands and nothing else
    why_held = "has no rule"
    how_taken = "is taken over it"  # its statistic
    why_loud = ""  # nobody can make it zero

    @property
    def may_show(self) -> bool:
        """Whether its output may be memory of what it is given."""
        return self.family == "shape" or getattr(self, "kind", "") == "linear"

    stretches = False  # whether it makes axes of sizes that it is given, which may follow what they meet

    def of(self, module: nn.Module) -> Law:
        """The law of one module of the class: another where what it holds decides."""
        return self

    def relate(self, op: Op) -> Tree:
        """Tie the axes of operands, parameters and outputs; return the outputs."""
        text = f"{op.name} {self.why_held}"
        op.fix_operands(text)
        return op.constants(op.value, Reason(text, op.place))

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        """Wishes that let this op keep its old outputs, each a list of alternatives, best first."""
        return ()

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> Iterable[Clause]:
        """What makes an output what it may be at the new units of a dimension, best first."""
        return ()

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        """Alternatives, each a list of wishes about operands that together grant `want` of `output`."""
        clauses = self.clauses(op, output, want.leaf)
        wishes = ([source.wish(want) for source in sources] for fact, sources in clauses if fact is want.fact)
        return [[wish for wish in some if wish is not None] for some in wishes if None not in some]

    def facts(self, op: Op, know: Knowledge) -> None:
        """Record what is known of the outputs; report (`know.fail`) what breaks the function."""
        self.check_statistics(op, know)
        for output in tensors(op.output):
            for leaf in know.growing(*output.axes) if output.op is op else ():
                know.learn_all(output, leaf, self.known(op, know, output, leaf))

    def known(self, op: Op, know: Knowledge, output: Tensor, leaf: Leaf) -> dict[Range | None, Fact]:
        """What is known of an output at the new units of a dimension."""
        known: dict[Range | None, Fact] = {}
        for fact, sources in self.clauses(op, output, leaf):
            for where in (None, *(where for source in sources for where in source.ranges(know, leaf))):
                if where not in known and all(source.holds(know, leaf, where) for source in sources):
                    known[where] = fact
        return known

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        """Changes to the node that this op's exactness rests on."""
        return []

    def statistics(self, op: Op) -> Iterable[Layout]:
        """The layouts over which the op takes a statistic that a guard could take over the old units alone."""
        return ()

    def mixed(self, op: Op) -> Iterable[Layout]:
        """The layouts of the output whose new units are made of old ones, too, and are no pairs or copies."""
        return ()

    def check_statistics(self, op: Op, know: Knowledge) -> None:
        for leaf in know.growing(*self.statistics(op)):
            if leaf not in know.guarded and not self.stays(op, know, leaf):
                know.fail(op, leaf, f"{op.name} {self.how_taken}", guardable=True)

    def stays(self, op: Op, know: Knowledge, leaf: Leaf) -> bool:
        """Whether the statistic is what it was although new units are among what it is taken over."""
        return False

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Whether a gradient at the output moves the new entries of an operand: False where zeros stop it for good.

        axis: for a parameter, the axis of its new entries. moves: what is zero, and what has moved, at this step.
        """
        return True

    def ends(self, op: Op, operand: Tensor, axis: int | None) -> bool:
        """Whether the op sums over an axis of a parameter, so that all of the output depends on its new entries."""
        return False

    def terms(self, call: Call | Op) -> Terms | None:
        """What the op adds up and multiplies; None where nobody knows when it is zero."""
        return Terms(call.operands(), tried=True) if self.family in ("pooling", "reduction") else None

    def reads(self, op: Op) -> Iterable[tuple[str, int]]:
        """The (parameter, axis) pairs that read units rather than make them."""
        return ()

    def prove(self, use: Any) -> Any:
        """A proof rule that the law brings along, of a `fxgrow.proof.node_pair.Use`; NotImplemented: it brings none."""
        return NotImplemented

    def operations(self, op: Op, size: Any) -> int:
        """Multiply-adds for one forward pass, given `size(layout)`."""
        return 0


@dataclass(frozen=True)
class Holding(Law):
    """The law of ops beside which nothing can grow, with the reason."""

    why_held: str


class Carrying(Law):
    """Base of laws whose outputs are at new units what some operands all are there, as far as some facts go."""

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        """The operands, and the facts."""
        raise NotImplementedError

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> Iterable[Clause]:
        sources, facts = self.carries(op, leaf)
        return [(fact, all_of(fact, *sources)) for fact in Fact if fact in facts]

    def facts(self, op: Op, know: Knowledge) -> None:
        self.check_statistics(op, know)
        values = op.value if isinstance(op.value, tuple) else (op.value,)
        for output, value in zip(tensors(op.output), values, strict=True):
            for leaf in know.growing(*output.axes) if has_fractions(value) else ():  # where something is, else
                know.learn_all(output, leaf, self.known(op, know, output, leaf))
