"""Calls with other values of arguments, on which a forward takes another course: the grown copy takes it as well."""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.capture import Captured, GrownGraphModule, skeleton
from fxgrow.capture.arguments import ANOTHER, with_argument
from fxgrow.capture.call_guards import in_words
from fxgrow.capture.capturing import recorded
from fxgrow.capture.contexts import GUARDS, STATE
from fxgrow.capture.inputs import Inputs, recalled, with_channels
from fxgrow.capture.own_methods import called_by
from fxgrow.capture.probing import differences, samples_of
from fxgrow.capture.recording import FailedError, Record, Recording
from fxgrow.capture.source_code import Untried
from fxgrow.errors import CaptureError, FxgrowError, UntraceableError
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.devices import device_of, quietly
from fxgrow.modules.libraries import is_installed, is_known
from fxgrow.modules.tensors import named_tensors, tied_names
from fxgrow.own.courses import Replan, for_both, growths, parting_on, with_more
from fxgrow.own.module import own_class
from fxgrow.own.other_calls import OtherCall, Place, adds_up, bare, both, of_flag, other_calls, several_items
from fxgrow.own.reading import read_by
from fxgrow.own.sites import Site, further_sites, sites_of_course
from fxgrow.own.telling import telling_calls
from fxgrow.planning.analysis import hold
from fxgrow.planning.plan import Obstacle, Plan, Refusal
from fxgrow.transforms.width import widened


def with_other_calls(
    own: nn.Module,
    source: nn.Module,
    captured: Captured,
    plan: Plan,
    there: Sequence[Site],
    replan: Replan,
    of_methods: bool = True,
) -> tuple[Plan, bool] | Obstacle:
    """A plan that has what calls with other values of arguments need as well, and refuses what needs it otherwise.

    What the forward leaves in attributes (a loss) is looked at likewise; where it cannot stay, that is the obstacle.
    Where an output gets another size, as the features of a wider model do, the call is told and not compared.
    The second value is whether nothing had to be added or taken back, so that the grown copy was compared with each
    course. What the plan refuses already is not tried again.

    Parameters
    ----------
    own: the grown copy of `source`, with the courses of the plan. there: the calls that change on the captured course.
    of_methods: whether calls of methods that the forward does not call are looked at, too.

    Attributes set by hand are left out where blocks are added, for which another course may take another place.
    """
    looked = _OtherCalls(own, source, captured, plan, there, replan)
    with quietly():
        for call in itertools.chain(
            telling_calls(source, captured, looked.recorded, looked.recorded_as_grown),
            other_calls(source, captured, of_methods, plan, looked.may_be),
        ):
            problem = looked.look_at(call)
            if problem is not None and call.left:
                return Obstacle(problem, type(source).__name__)
        looked.look_at_pairs()
    return looked.planned()


class _OtherCalls:
    """What other calls of a model need that grows by a plan, gathered call by call. For arguments `with_other_calls`.

    more: the plan with what they need besides. allowed: the values, in words, that each argument may have; wrong: why
    another one may not.
    """

    def __init__(
        self, own: nn.Module, source: nn.Module, captured: Captured, plan: Plan, there: Sequence[Site], replan: Replan
    ) -> None:
        self.own, self.source, self.captured, self.plan, self.replan = own, source, captured, plan, replan
        self.there = there
        self.more, self.complete = plan, True
        self.courses: list[Plan] = []
        self.others: list[tuple[Captured, Plan]] = []
        self.wider: list[str] = []
        self.allowed: dict[Place, list[str]] = {}
        self.wrong: dict[Place, str] = {}
        self._not_beside: dict[Place, list[str]] = {}
        self._taking: list[OtherCall] = []
        self._idle: list[OtherCall] = []
        self._known = [course.calls for course in plan.courses if course.calls]
        self._refused = {refusal.place: refusal for refusal in plan.refusals}
        self._read_here = read_by(captured.model, captured.graphs.values())
        self._records: dict[tuple[str, str, str], Record] = {}

    def _as_captured(self, argument: str, mode: str, beside: OtherCall | None = None) -> Record:
        """A record with an argument spelled out, perhaps beside another value of another one."""
        beside = beside or OtherCall("", self.captured.inputs)
        key = argument, mode, beside.text
        if key not in self._records:
            inputs = with_argument(self.source, beside.inputs, argument)
            self._records[key] = self._recording_of(beside).record(mode, inputs)
        return self._records[key]

    def recorded(self, argument: str) -> Record:
        """A record of the model with an argument as a placeholder."""
        return self._as_captured(argument, "eval")

    def recorded_as_grown(self, argument: str, inputs: Inputs | None = None) -> fx.Graph:
        """A graph of the grown copy with an argument as a placeholder; inputs: others than it was captured with."""
        inputs = inputs or with_argument(self.source, self.captured.inputs, argument)
        recording = Recording(skeleton(self.own), device_of(self.own))
        return recording.record("eval", with_channels(inputs, self.plan.channels)).graph

    def _recording_of(self, call: OtherCall) -> Recording:
        if not call.flags and self.captured.recording is not None:
            return self.captured.recording
        called = called_by(self.source, call.method, flags=call.flags)
        return Recording(skeleton(called), device_of(called))

    def may_be(self, call: OtherCall) -> bool:
        """Whether a number is tried that no code names: not where a tensor may be, nor what counts in a library."""
        if in_words(torch.empty(0)) in self.allowed.get(call.place, ()):
            return False
        counts = (call.value > 0 or call.as_it_was[0].startswith("-")) and not is_known(type(self.source))
        return counts or call.as_it_was[0] in _NO_NUMBER or self.is_operand(call.argument)

    def is_operand(self, argument: str) -> bool:
        """Whether what is computed hangs on a number, and not only how often."""
        given: set[fx.Node] = set()
        for node in self.recorded(argument).graph.nodes:
            named = node.op == "placeholder" and node.target == argument
            if named or (node.target is operator.getitem and node.args[0] in given):  # of a tuple
                given.add(node)
        return any(user.target not in GUARDS for node in given for user in {*node.users} - given)

    def look_at(self, call: OtherCall) -> str | None:
        """Take up what a call needs; or what stands in the way of that, for which it is refused."""
        problem = self.problem_of(call)
        if problem is None:
            return None
        self.wrong.setdefault(call.place, why := f"with {call.text} {problem}")
        return why

    def problem_of(self, call: OtherCall) -> str | None:
        """Take up what a call needs; or what stands in the way of that, where it is to be refused."""
        place, said = call.place, in_words(call.value)
        right = self.allowed.setdefault(place, list(call.as_it_was))
        refusal = self._refused.get(place)
        if refusal is not None and said not in refusal.allowed:
            self.wrong.setdefault(place, refusal.why)
            return None
        if (call.argument and said in right) or (holds_tensor(call.value) and place in self.wrong):
            return None  # it was tried; of tensors, the model took another one, by which this is settled
        if callable(call.value):
            self.wrong.setdefault(place, "another function may compute something else with units that grow")
        if isinstance(call.value, Untried):
            if call.value.unless is None or self._does_something_else(call):
                self.wrong.setdefault(place, call.value.why)
            return None
        return self._tried(call)

    def _tried(self, call: OtherCall) -> str | None:
        """Take up what a call needs that nothing is known of yet; or what stands in the way."""
        before, after = (called_by(model, call.method, call.left, call.flags) for model in (self.source, self.own))
        right = self.allowed.setdefault(call.place, [])
        items = call.value if isinstance(call.value, (tuple, list)) else (call.value,)
        counts = any(type(item) in (int, float) for item in items)
        try:
            if call.argument and self._changes_nothing(call, counts):
                right.append(in_words(call.value))
                self._idle += [] if call.together else [call]
                return None
            otherwise = recorded(before, call.inputs)
        except CaptureError as error:
            runs = isinstance(error, UntraceableError) and not isinstance(error, FailedError)
            if not (runs and call.argument) or holds_tensor(call.value) or is_installed(type(self.source)):
                return None  # the model does not take it, or it is no tensor that the argument is meant for
            return f"nothing can be said of its course: {error.what}"
        sizes = _sizes(after, with_channels(call.inputs, self.plan.channels))
        plain = _sizes_given(otherwise.graphs.get("eval") or otherwise.graphs["both"])
        if sizes is not None and sizes != plain:
            if counts:
                return "an output would be of another size"
            samples = samples_of(call.inputs)
            if all(now[:1] == size[:1] for now, size in zip(sizes, plain, strict=False) if size[:1] == (samples,)):
                self.wider.append(call.text)
                right.append(in_words(call.value))
                return None
        _hold_read(otherwise, self._read_here, self.more)
        try:
            other, course = self.replan(otherwise)
        except FxgrowError as error:
            return f"it does not grow: {error.what}"
        problem = _problem(self.more, self._read_here, other, course)
        if call.together and with_more(self.more, course) is not self.more:
            problem = "more would grow than alone"
        if problem is None:
            course = replace(course, form="module", calls=(call.text,), method=call.method)
            course = replace(course, left=call.left, flags=call.flags)
            if call.together:
                problem = self._difference(course, other, before, after)
            else:
                problem = self._taken(course, other, before, after, call.unnamed)
        if problem is None:
            right.append(in_words(call.value))
            counted = type(call.value) in (int, float) and any(call.place == other.place for other in self._taking)
            self._taking += [call] if call.argument and not (call.together or counted) else []
        return problem

    def _does_something_else(self, call: OtherCall) -> bool:
        """Whether the forward computes something else then, what it puts out as it was given aside."""
        graphs: list[fx.Graph] = []
        try:
            for inputs in (self.captured.inputs, call.inputs):
                graphs.append(self._recording_of(call).record("eval", inputs).graph)
                graphs[-1].erase_node(graphs[-1].output_node())
        except CaptureError:
            return True
        return next(differences(bare(graphs[0]), bare(graphs[1])), None) is not None

    def look_at_pairs(self) -> None:
        """Take up pairs of other values, each of which is right alone; or refuse one of them beside the other.

        Several items of one argument are another value of it. Of three values the last is refused beside the second.
        Those that change nothing alone are tried together, and one by one where that changes something. Of several
        numbers one is tried beside others.
        """
        for call in several_items(self.source, self.captured, self._taking, self._idle):
            self.look_at(call)
        pairs, threes = list(itertools.combinations(self._taking, 2)), self._threes()
        for first in (OtherCall("", self.captured.inputs), *self._taking):
            by_place: dict[Place, list[OtherCall]] = {}
            for call in self._idle:
                by_place.setdefault(call.place, []).append(call)
            by_place.pop(first.place, None)
            for several in itertools.zip_longest(*by_place.values()):
                together = [call for call in several if call is not None]
                if not first.text and len(together) == 1:
                    continue  # it was tried alone
                try:
                    alike = self._makes_the_same_calls(functools.reduce(self._both, together, first), first)
                except CaptureError:  # some cannot be given together
                    alike = False
                if not alike:
                    pairs += itertools.combinations(together, 2) if not first.text else ((first, c) for c in together)
                    threes += itertools.combinations((first, *together) if first.text else together, 3)
        pairs = [pair for pair in pairs if pair[0].place != pair[1].place]
        pairs += ((self._both(first, second), third) for first, second, third in threes)
        for number, (first, second) in enumerate(pairs):
            call, said = self._both(first, second), in_words(second.value)
            refusal = self._refused.get(call.place)
            if call.place in self.wrong:
                continue  # two of three
            if refusal is not None and said not in refusal.allowed:
                problem: str | None = refusal.why
            elif number >= _PAIRS:
                problem = "there are too many values to try all of them together"
            else:
                problem = self._tried(call)
                problem = problem and f"with {call.text} {problem}"
            if problem is not None:
                self._not_beside.setdefault(call.place, []).append(said)
                self.wrong.setdefault(call.place, problem)

    def _threes(self) -> list[tuple[OtherCall, OtherCall, OtherCall]]:
        """Three values that may do together what no two of them do."""
        threes = [t for t in itertools.combinations(self._taking, 3) if len({call.place for call in t}) == 3]
        return threes if len(threes) < 2 or not self._add_up() else []

    def _add_up(self) -> bool:
        """Whether all values are right together, and the forward makes the calls then that it makes for each alone."""
        if len({call.place for call in self._taking}) < len(self._taking):
            return False
        together = functools.reduce(self._both, self._taking, OtherCall("", self.captured.inputs))
        calls = [OtherCall("", self.captured.inputs), *self._taking, together]
        try:
            graphs = [self._recording_of(call).record("eval", call.inputs).graph for call in calls]
        except CaptureError:  # some cannot be given together
            return False
        return adds_up(*graphs) and self._tried(together) is None

    def _both(self, first: OtherCall, second: OtherCall) -> OtherCall:
        return both(self.source, first, second)

    def _makes_the_same_calls(self, call: OtherCall, beside: OtherCall | None = None) -> bool:
        """Whether the forward makes the same calls then, flags of these calls aside: they mix no units."""
        again = self._recording_of(call)
        for mode in ("eval", "train"):
            first, second = self._as_captured(call.argument, mode, beside), again.record(mode, call.inputs)
            if not all(of_flag(difference) for difference in differences(bare(first.graph), bare(second.graph))):
                return False
            if not (first.by_mode or second.by_mode):
                break
        return True

    def _changes_nothing(self, call: OtherCall, counts: bool) -> bool:
        """Whether the forward makes the same calls then, and so does the grown copy, which may have more blocks.

        counts: whether there are numbers in the value. Where something is computed from one, they may cut units.
        """
        if (counts and self.is_operand(call.argument)) or not self._makes_the_same_calls(call):
            return False
        if not counts or call.flags:
            return True
        try:
            graph, other = (bare(self.recorded_as_grown(call.argument, inputs)) for inputs in (None, call.inputs))
        except CaptureError:  # the original takes it
            return False
        return next(differences(graph, other), None) is None

    def _taken(self, course: Plan, other: Captured, before: nn.Module, after: nn.Module, unnamed: bool) -> str | None:
        """Take up the plan of another course; or what stands in the way of it.

        before, after: the model and its grown copy, as they are called there. unnamed: as of the call.
        """
        longer = with_more(self.more, course)
        further = further_sites((site for site in sites_of_course(other, course) if not site.aside), self.there)
        if unnamed and not {site.change for site in further}.isdisjoint(site.change for site in self.there):
            return "calls are made more often that growth changes one by one"
        more_grows, kept = bool(further) or longer is not self.more, _is_kept(course.inputs)
        if more_grows and not kept:
            return "more would grow, and a plan keeps no call with such an object"
        if more_grows and course.calls not in self._known:
            others = [*self.others, (other, course)]
            try:
                own = own_class(self.source, longer, self._grown(longer), self.there, self.captured, others=others)
            except FxgrowError as error:
                return error.what
            if isinstance(own, Obstacle):
                return own.what
            self.own, self.complete = own, False
        elif (problem := self._difference(course, other, before, after)) is not None:
            return problem
        self.more = longer
        if kept and not (course.flags and any(note.feature == STATE for note in other.settled)):
            self.courses.append(course)
            self.others.append((other, course))
        return None

    def _difference(self, course: Plan, other: Captured, before: nn.Module, after: nn.Module) -> str | None:
        text = parting_on(after, before, self.plan, other, course)
        return None if text is None else f"the class computes something else: {text}"

    def _grown(self, growth: Plan) -> GrownGraphModule:
        read_out = {readout.weight: self.captured.model.get_parameter(readout.weight) for readout in growth.readouts}
        return widened(self.captured, growth, {**named_tensors(skeleton(self.source)), **read_out}, "")

    def planned(self) -> tuple[Plan, bool]:
        """The plan with all that was taken up, and whether the grown copy has it already."""
        sizes_only = [course for course in self.plan.courses if not course.calls]
        refusals = []
        for place, why in self.wrong.items():
            left_out = {in_words(ANOTHER), *self._not_beside.get(place, ())}
            right = tuple(said for said in self.allowed[place[:2]] if said not in left_out)
            refusals.append(Refusal(place[1], right, why, place[0], *place[2:]))
        courses = (*sizes_only, *self.courses)
        planned = replace(self.more, courses=courses, calls=tuple(self.wider), refusals=tuple(refusals))
        return planned, self.complete and {*self._known} <= {course.calls for course in self.courses}


_NO_NUMBER = (in_words(None), in_words(inspect.Parameter.empty))
"""Values of arguments in words, in place of which any number may be given."""

_PAIRS = 64
"""How many pairs of values are tried; others are refused."""


def _is_kept(described: Any) -> bool:
    """Whether a plan keeps described inputs, so that they can be recalled."""
    try:
        recalled(described)
    except CaptureError:
        return False
    return True


def _sizes(model: nn.Module, inputs: Inputs) -> list[torch.Size] | None:
    """The shapes of what a model gives; None where it does not run."""
    try:
        graph = Recording(skeleton(model), device_of(model)).record("eval", inputs).graph
    except CaptureError:
        return None
    return _sizes_given(graph)


def _sizes_given(graph: fx.Graph) -> list[torch.Size]:
    values = (node.meta["value"] for node in graph.output_node().all_input_nodes)
    return [value.shape for value in values if isinstance(value, Tensor)]


def _problem(plan: Plan, read_here: set[str], other: Captured, course: Plan) -> str | None:
    """That something is to grow otherwise on another course, or in a way that cannot be added to the plan.

    read_here: the tensors and layers that the captured course reads.
    """
    planned, others = growths(plan), growths(course)
    tensors = {growth.name for growth in plan.tensors}
    addable = {growth.name for growth in course.tensors} | {f"{e.module}.{e.attribute}" for e in course.attributes}
    addable |= {f"{rescaling.name} rescaled" for rescaling in course.rescalings if rescaling.name not in tensors}
    read_out = {readout.weight for growth in (plan, course) for readout in growth.readouts}
    read_there = read_by(other.model, other.graphs.values())
    for moved in {*(plan.depth.renamed if plan.depth else ())} - {*(course.depth.renamed if course.depth else ())}:
        if not read_there.isdisjoint((moved[1], moved[1].rpartition(".")[0])):
            return f"{moved[1]} would be {moved[0]}, of another block"
    for name in planned | others:
        if planned.get(name) == others.get(name) or for_both(planned.get(name), others.get(name)) is not None:
            continue
        tensor = name.removesuffix(" rescaled")
        places = tensor, tensor.rpartition(".")[0]
        if name in read_out and name in others:
            return "its outputs would be read out otherwise"
        if name in planned and name not in others:
            if tensor in tensors and not read_there.isdisjoint(places):
                return f"{name} would grow otherwise"
        elif name in planned or name not in addable or not read_here.isdisjoint(places):
            return f"{name} would grow otherwise"
    return None


def _hold_read(other: Captured, read_here: set[str], plan: Plan) -> None:
    """Let tensors, and axes of them, stay on another course that the captured one reads and does not grow.

    Where blocks are added, their names are not those of the other course.
    """
    tied = tied_names(other.model)
    grown = {name: growth for growth in plan.tensors for name in tied.get(growth.name, [growth.name])}
    for name, tensor in named_tensors(other.model).items() if plan.depth is None else ():
        if not read_here.isdisjoint((name, name.rpartition(".")[0])):
            sizes = grown[name].new_shape if name in grown else tensor.shape
            same = [axis for axis, (size, new) in enumerate(zip(tensor.shape, sizes, strict=True)) if new == size]
            if same or name not in grown:
                hold(tensor, "it stays where the forward takes its other course", same)
