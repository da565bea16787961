"""The planner: from layouts and amounts to a plan whose growth keeps the function.

It proposes sizes, propagates what is known of new units through every op, and where an op reports that old
outputs would change it takes the next best way: a guard, another way of staying invisible, or holding the
dimension with the reason. What it returns has been checked by the laws from end to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from torch import fx, nn

from fxgrow.amounts import Amounts
from fxgrow.axes.layout import Leaf, Reason, leaves
from fxgrow.capture import Captured
from fxgrow.planning.analysis import Analysis, analyse, factors_of, roles_of, why_unread
from fxgrow.planning.ends import End
from fxgrow.planning.entries import Entries
from fxgrow.planning.learning import Movement
from fxgrow.planning.numbers import Loose, number_edits
from fxgrow.planning.parameterization import parameterized
from fxgrow.planning.plan import Plan
from fxgrow.planning.sizes import Sizes
from fxgrow.planning.sizing import Sizing, choose_sizes
from fxgrow.rules.knowledge import INITS, Failure, Knowledge, Way
from fxgrow.rules.law import Fact
from fxgrow.rules.op import Op

_PASSES = 12


def make_plan(
    captured: Captured,
    name: str,
    amounts: Amounts | Sizes,
    init: str,
    round_to: int,
    parameterization: str = "standard",
    analysis: Analysis | None = None,
    ends: Sequence[End] = (),
) -> Plan:
    """Plan the growth of a captured model.

    Parameters
    ----------
    analysis: of its graphs as they are, where there is one already. ends: outputs and inputs that are to grow.
    """
    analysis = analysis or analyse(captured.model, captured.graphs)
    planner = Planner(analysis, amounts, init, round_to, ends)
    planner.settle()
    for end in ends:
        end.check_met(planner.sizing.growth)
    if isinstance(amounts, Sizes):
        amounts.check_met(analysis, planner.sizing.growth)
    plan = parameterized(
        planner.entries().plan(name, captured, init), analysis, planner.sizing.growth, parameterization
    )
    for end in ends:
        plan = end.noted(plan, captured.model)
    return plan


class Planner:
    """Sizes and knowledge, revised until no law objects."""

    def __init__(
        self,
        analysis: Analysis,
        amounts: Amounts | Sizes,
        init: str,
        round_to: int,
        ends: Sequence[End] = (),
    ) -> None:
        self.ends = ends
        self.at_ends = {leaf for end in ends for leaf in end.leaves}
        self.analysis = analysis
        self.amounts = amounts
        self.way = INITS[init]
        self.round_to = round_to
        self.guarded: set[Leaf] = set()
        self.downgraded: set[Leaf] = set()
        self.paired: set[Leaf] = set()
        self.silenced: set[Leaf] = set()
        self.turned: set[Leaf] = set()
        self.why_still: dict[Leaf, Reason] = {}
        self.roles = roles_of(analysis)
        tables = {
            n
            for n in analysis.parameters
            if n not in self.roles and not isinstance(analysis.learnable[n], nn.Parameter)
        }
        analysis.unifier.reluctant.extend(axis for n in tables for axis in analysis.parameters[n].axes)
        self.factors = factors_of(analysis)
        self.silent = {n for n, role in self.roles.items() if role in ("bias", "mean")} | (tables - self.factors)

    # -- settling on sizes and ways ----------------------------------------------------------------------

    def settle(self) -> None:
        """Revise until every law agrees that old outputs stay."""
        staying: set[fx.Node] = set()
        while True:
            self.sizing = self._choose_sizes()
            self.know = self._propagate()
            if self._revise():
                continue
            try:
                self.numbers = list(number_edits(self.analysis, self.sizing.growth, staying))
            except Loose as loose:
                reason = Reason("a number computed from it is used where no rule says how", loose.place)
                if not (loose.let or loose.leaves):
                    raise
                staying |= set(loose.let)
                if not loose.let:
                    self._fix(loose.leaves, reason)
                continue
            return

    def _choose_sizes(self) -> Sizing:
        analysis, asked, pairs = self.analysis, self.amounts, self.way is Way.MIRROR
        sizing = (
            asked.sizing(analysis) if isinstance(asked, Sizes) else choose_sizes(analysis, asked, self.round_to, pairs)
        )
        for end in self.ends:
            end.put_into(sizing)
        return sizing

    def _propagate(self) -> Knowledge:
        growth = self.sizing.growth
        ways = {leaf: self._way_of(leaf) for leaf in growth}
        silenced = self.silenced & growth.keys()
        know = Knowledge(growth, ways, self.guarded, silenced, self.turned, zero_by_default=self.silent)
        for end in self.ends:
            end.ask(know)
        for op in self.analysis.ops:
            for alternatives in op.law.needs(op, know):
                know.ask_for_one(alternatives)
        for _ in range(_PASSES):
            before, overwritten = {slot: dict(fills) for slot, fills in know.fills.items()}, len(know.overwritten)
            know.forget()
            for op in self.analysis.ops:
                op.law.facts(op, know)
            if before == know.fills and overwritten == len(know.overwritten):
                break
        know.check_cancelling(self.analysis.ops)
        know.check_mixed(self.analysis.ops)
        return know

    def _way_of(self, leaf: Leaf) -> Way:
        wanted = Way.MIRROR if leaf in self.paired else self.way
        if leaf in self.downgraded or leaf in self.at_ends or (wanted is Way.MIRROR and not self._makes_pairs(leaf)):
            return Way.ZERO
        return wanted

    def _makes_pairs(self, leaf: Leaf) -> bool:
        return (self.sizing.growth[leaf] - leaf.size) % 2 == 0

    def _revise(self) -> bool:
        """Give way where a law objects; True if anything changed."""
        failures = [*self.know.failures, *self._unfaithful_scales()]
        for leaf, failure in {failure.leaf: failure for failure in reversed(failures)}.items():
            if failure.guardable and leaf not in self.guarded:
                self.guarded.add(leaf)
            elif self.know.ways[leaf] is not Way.ZERO and leaf not in self.downgraded:
                self.downgraded.add(leaf)
            else:
                self._fix([leaf], Reason(failure.text, failure.op.place))
        if failures or self._mixed_copies():
            return True
        unread = [leaf for leaf in self.sizing.growth if leaf not in self.know.read and leaf not in self.at_ends]
        norms = (self._guardable - self.guarded).intersection(unread)  # what they ask for may be why
        self.guarded |= norms
        for leaf in unread if not norms else ():
            self._fix([leaf], why_unread(self.analysis, leaf, leaf in self.guarded))
        return bool(unread) or self._let_learn()

    def _let_learn(self) -> bool:
        """Give way where new units would never learn: guards, other zeros, pairs, silence; True if anything changed."""
        by_leaf = {still.leaf: still for still in Movement(self.analysis, self.know).still()}
        for leaf, still in by_leaf.items():
            reason = self.why_still.setdefault(leaf, Reason(still.text, still.op.place))
            tried = leaf in self.paired or leaf in self.silenced
            if leaf in self._guardable - self.guarded:
                self.guarded.add(leaf)
            elif leaf in self.know.multiplied - self.turned:
                self.turned.add(leaf)
            elif not tried and self._way_of(leaf) is Way.ZERO and self._makes_pairs(leaf):
                self.paired.add(leaf)
            elif leaf not in self.silenced:
                self.paired.discard(leaf)
                self.silenced.add(leaf)
            else:
                self._fix([leaf], reason)
        return bool(by_leaf)

    @cached_property
    def _guardable(self) -> set[Leaf]:
        """The leaves over which an op takes a statistic that could be that of the old units alone."""
        return {leaf for op in self.analysis.ops for layout in op.law.statistics(op) for leaf in leaves(layout)}

    def _mixed_copies(self) -> bool:
        """Copies are copies everywhere or nowhere: a dimension that is silenced in one place is not replicated."""
        mixed = {
            leaf
            for (_, _, leaf), fills in self.know.fills.items()
            if self.know.ways[leaf] is Way.REPLICATE and set(fills.values()) & {Fact.ZERO, Fact.MEAN}
        }
        self.downgraded |= mixed
        return bool(mixed)

    def _unfaithful_scales(self) -> Iterable[Failure]:
        """Gains that a closed form rescales but that some other op reads as they are."""
        for parameter, factors in self.know.scales.items():
            if self._users.get(parameter) != set(factors) or len(set(factors.values())) > 1:
                op = next(iter(factors))
                for leaf in self.know.growing(op.data["gain"].axes[-1]):
                    yield Failure(op, leaf, "its gain is used elsewhere", guardable=True)

    @cached_property
    def _users(self) -> dict[str, set[Op]]:
        """The ops that each parameter or buffer is given to."""
        users: dict[str, set[Op]] = {name: set() for name in self.analysis.parameters}
        for op in self.analysis.ops:
            for tensor in (*op.operands(), *op.module_parameters()):
                if tensor.parameter is not None:
                    users[tensor.parameter].add(op)
        return users

    @staticmethod
    def _fix(fixed: Iterable[Leaf], reason: Reason) -> None:
        for leaf in fixed:
            if leaf.reason is None:
                leaf.reason = reason

    def entries(self) -> Entries:
        """What a plan of the settled growth says."""
        return Entries(self.analysis, self.sizing, self.know, self.numbers, self.roles, self.factors, self.silent)
