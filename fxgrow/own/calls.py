"""Calls with other values of arguments, on which a forward takes another course: the grown copy takes it as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fxgrow.capture import Captured, skeleton
from fxgrow.capture.arguments import other_values, with_argument
from fxgrow.capture.capturing import recorded
from fxgrow.capture.inputs import Inputs, with_channels
from fxgrow.capture.probing import differences
from fxgrow.capture.recording import Recording
from fxgrow.devices import device_of
from fxgrow.errors import CaptureError, FxgrowError
from fxgrow.own.courses import Replan, growths, parting_on
from fxgrow.own.sites import Site, sites
from fxgrow.planning.plan import Axis, Obstacle, Plan, TensorGrowth


def with_other_calls(
    own: nn.Module, source: nn.Module, captured: Captured, plan: Plan, there: Sequence[Site], replan: Replan
) -> tuple[Plan, bool] | Obstacle:
    """A plan that has what calls with other values of arguments need as well; or what one of them needs otherwise.

    Where an output gets another size, as the features of a wider model do, the call is told and not compared.
    The second value is whether nothing had to be added, so that the grown copy was compared with each course.

    Parameters
    ----------
    own: the grown copy of `source`, with the courses of the plan. there: the calls that change on the captured course.
    """
    before, after = (Recording(skeleton(model), device_of(model)) for model in (source, own))
    courses: list[Plan] = []
    wider: list[str] = []
    more, complete, changed = plan, True, {site.key for site in there}
    known = [course.calls for course in plan.courses]
    for name, value in other_values(source, captured.inputs):
        as_called = with_argument(source, captured.inputs, name)
        inputs = with_argument(source, captured.inputs, name, value)
        call = f"{name}={value!r}"
        try:
            if _makes_the_same_calls(before, as_called, inputs):
                continue
            otherwise = recorded(source, inputs)
        except CaptureError:  # nothing can be said of it, or the model does not take it
            continue
        sizes = _sizes(after, with_channels(inputs, plan.channels))
        if sizes is not None and sizes != _sizes(before, inputs):
            wider.append(call)
            continue
        try:
            other, course = replan(otherwise)
        except FxgrowError as error:
            return Obstacle(f"with {call} it does not grow: {error.what}", type(source).__name__)
        apart = _apart(more, other, course)
        if apart is not None:
            return Obstacle(f"with {call} {apart} would grow otherwise", type(source).__name__)
        longer = _with_more(more, course)
        further = any(not site.aside and site.key not in changed for site in sites(other, course))
        if (call,) not in known and (further or longer is not more):
            complete = False
        else:
            text = parting_on(own, source, plan, other, course)
            if text is not None:
                return Obstacle(f"with {call} the class computes something else: {text}", type(source).__name__)
        more = longer
        courses.append(replace(course, form="module", calls=(call,)))
    sizes = [course for course in plan.courses if not course.calls]
    return replace(more, courses=(*sizes, *courses), calls=tuple(wider)), complete


def _makes_the_same_calls(recording: Recording, inputs: Inputs, others: Inputs) -> bool:
    """Whether a forward makes the same calls on other inputs, flags of these calls aside: they mix no units."""
    for mode in ("eval", "train"):
        first, second = (recording.record(mode, each) for each in (inputs, others))
        if any(difference.what not in _FLAGS for difference in differences(first.graph, second.graph)):
            return False
        if not (first.by_mode or second.by_mode):
            break
    return True


_FLAGS = tuple(f"the number {flag}" for flag in (True, False))


def _sizes(recording: Recording, inputs: Inputs) -> Any:
    """The shapes of what a model gives; None where it does not run."""
    try:
        graph = recording.record("eval", inputs).graph
    except CaptureError:
        return None
    values = (node.meta["value"] for node in graph.output_node().all_input_nodes)
    return [value.shape for value in values if isinstance(value, Tensor)]


def _apart(plan: Plan, other: Captured, course: Plan) -> str | None:
    """What is to grow otherwise on another course, or in a way that cannot be added to the plan."""
    planned, others = growths(plan), growths(course)
    tensors = {growth.name for growth in plan.tensors}
    addable = {growth.name for growth in course.tensors} | {f"{e.module}.{e.attribute}" for e in course.attributes}
    read = {str(node.target) for graph in other.graphs.values() for node in graph.nodes if node.op in _READING}
    for name in planned | others:
        if planned.get(name) == others.get(name):
            continue
        if name in planned and name not in others:
            if name in tensors and (name in read or name.rpartition(".")[0] in read):
                return name
        elif name in planned or name not in addable:
            return name
    return None


_READING = ("get_attr", "call_module")


def _with_more(plan: Plan, course: Plan) -> Plan:
    """A plan with the tensors and attributes that grow on another course only, as units of the plan's own groups."""
    planned = {growth.name: growth for growth in plan.tensors}
    attributes = {(edit.module, edit.attribute) for edit in plan.attributes}
    tensors = [growth for growth in course.tensors if growth.name not in planned]
    edits = [edit for edit in course.attributes if (edit.module, edit.attribute) not in attributes]
    if not tensors and not edits:
        return plan
    names: dict[str, str] = {}
    for growth in course.tensors:
        if growth.name in planned:
            for theirs, mine in zip(growth.axes, planned[growth.name].axes, strict=True):
                names.update({a.group: b.group for a, b in zip(theirs.runs(), mine.runs(), strict=True)})
    used = {group.name for group in plan.groups}
    free = (name for number in range(len(used) + len(course.groups)) if (name := f"d{number}") not in used)
    new = [group for group in course.groups if group.name not in names]
    names.update({group.name: next(free) for group in new})
    totals = replace(
        plan.totals,
        parameters_after=plan.totals.parameters_after + sum(map(_entries, tensors)),
    )
    return replace(
        plan,
        groups=(*plan.groups, *(replace(group, name=names[group.name]) for group in new)),
        tensors=(*plan.tensors, *(replace(g, axes=tuple(_renamed(axis, names) for axis in g.axes)) for g in tensors)),
        attributes=(*plan.attributes, *edits),
        totals=totals,
    )


def _entries(growth: TensorGrowth) -> int:
    """How many entries are new."""
    before = after = 1
    for axis in growth.axes:
        before, after = before * axis.old, after * axis.new
    return after - before


def _renamed(axis: Axis, names: dict[str, str]) -> Axis:
    return replace(
        axis, group=names.get(axis.group, axis.group), parts=tuple(_renamed(part, names) for part in axis.parts)
    )
