"""Courses that a forward takes on other inputs, of another size perhaps: the grown module still takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import nn

from fxgrow.capture import Captured, skeleton
from fxgrow.capture.alignment import Parting, parting
from fxgrow.capture.capturing import recorded
from fxgrow.capture.contexts import STATE, Settled
from fxgrow.capture.inputs import Inputs, with_channels
from fxgrow.capture.own_methods import called_by
from fxgrow.capture.probing import AS_CAPTURED, AUTOCAST, COURSE, DTYPE, GRADIENTS, Circumstances, changed
from fxgrow.capture.questions import LAID_OUT, NEEDING
from fxgrow.capture.recording import Recording
from fxgrow.capture.settling import turning
from fxgrow.errors import CaptureError, FxgrowError, PlanError
from fxgrow.modules.devices import device_of
from fxgrow.modules.tensors import named_tensors, prefixes
from fxgrow.own.call_edits import FORWARD
from fxgrow.own.reading import read_by
from fxgrow.planning.plan import Axis, Held, Obstacle, Plan, TensorGrowth
from fxgrow.transforms.width import widened

Replan = Callable[[Inputs | Captured], tuple[Captured, Plan]]
"""Captures, if that is still to be done, and plans once more, on other inputs."""


class NotPlanned(PlanError):
    """A plan that was made before has no such course."""


def courses(own: nn.Module, source: nn.Module, captured: Captured, plan: Plan, replan: Replan) -> Any:
    """A plan for each other course that was seen, all of one growth; or the obstacle, where they do not agree.

    own: the grown copy of `source`, which takes every course as its graph would.
    """
    plans: list[Plan] = []
    note = next((note for note in captured.settled if note.feature == STATE), None)
    if note is not None and (text := _parting_at_the_next_call(own, source, captured, plan, replan)) is not None:
        return Obstacle(f"at the next call the class computes something else: {text}", note.where)
    planned = growths(plan)
    of_calls = {name for course in plan.courses if course.calls for name in growths(course)}
    for note in captured.settled:
        inputs, under = _taken_on(note, captured.inputs)
        if inputs is None:
            continue
        try:
            other, course = replan(inputs if under is None else recorded(source, inputs, under))
        except FxgrowError as error:
            if isinstance(error, NotPlanned) and under is not None:  # it was looked at when it was planned
                continue
            return Obstacle(f"{note.what}, and there it does not grow: {error.what}", note.where)
        others = growths(course)
        differing = (name for name in planned | others if planned.get(name) != others.get(name))
        read = read_by(other.model, other.graphs.values())
        there = (n for n in differing if n in others or not (n in of_calls or read.isdisjoint(prefixes(n))))
        name = next(there, None)
        if name is not None:
            return Obstacle(f"{note.what}, and there {name} would grow otherwise", note.where)
        text = parting_on(own, source, plan, other, course, under or AS_CAPTURED)
        if text is not None:
            return Obstacle(f"{note.what}, and there the class computes something else: {text}", note.where)
        if under is None:
            plans.append(replace(course, form="module"))
    if plans and (text := _parting_by_units(own, source, captured, plan, replan)) is not None:
        return Obstacle(f"the course hangs on a number of units: {text}", type(source).__name__)
    return tuple(plans)


def _taken_on(note: Settled, captured_on: Inputs) -> tuple[Inputs | None, Circumstances | None]:
    """The inputs of another course, and its circumstances where a plan cannot tell it by its inputs.

    Other numbers in a graph are no other course.
    """
    if note.inputs is not None:
        return note.inputs, AS_CAPTURED if note.feature in (LAID_OUT, NEEDING) else None
    if note.feature not in (DTYPE, GRADIENTS, AUTOCAST) or not note.what.startswith(COURSE):
        return None, None
    features = frozenset({note.feature})
    varied = changed(captured_on, features)
    return captured_on if varied is None else varied.inputs, Circumstances.with_other(features)


def _parting_by_units(
    own: nn.Module, source: nn.Module, captured: Captured, plan: Plan, replan: Replan
) -> Parting | None:
    """Where the grown copy takes another course than its original, since a size is compared with grown units."""
    inputs = with_channels(captured.inputs, plan.channels)
    record = Recording(skeleton(own), device_of(own)).record("eval", inputs)
    for comparison in sorted(c for c in record.comparisons if c.with_units):
        if (turned := turning(comparison, captured.inputs)) is not None:
            with suppress(FxgrowError):  # the model does not take such inputs
                other, course = replan(turned[-1])
                if (text := parting_on(own, source, plan, other, course)) is not None:
                    return text
    return None


def parting_on(
    own: nn.Module, source: nn.Module, plan: Plan, other: Captured, course: Plan, under: Circumstances = AS_CAPTURED
) -> Parting | None:
    """Where the grown copy of a module does something else than the graph of another course of its forward.

    Other sizes are left out where the forward takes courses of their own for them.
    """
    graph = widened(other, course, named_tensors(skeleton(source)), "")
    by_size = any(not course.calls for course in plan.courses)
    recording = Recording(skeleton(own), device_of(own), under=under)
    try:
        return parting(own, graph, with_channels(other.inputs, plan.channels), recording, sizes=not by_size)
    except CaptureError as error:  # a graph of sizes that the forward works out by itself
        return Parting(error.what)


def _parting_at_the_next_call(
    own: nn.Module, source: nn.Module, captured: Captured, plan: Plan, replan: Replan
) -> Parting | None:
    """Where the grown copy does something else than the graph of a call that follows another one."""
    before, after = (called_by(model, FORWARD, after=1) for model in (source, own))
    try:
        other, course = replan(recorded(before, captured.inputs))
    except FxgrowError:  # nothing can be said of it
        return None
    if growths(plan) == growths(course):
        return parting_on(after, before, plan, other, course)
    try:
        recorded(after, with_channels(captured.inputs, plan.channels))
    except CaptureError as error:
        return Parting(error.what)
    return None


def growths(plan: Plan) -> dict[str, Any]:
    """What a plan does to the tensors and attributes of a module, whatever its groups and nodes are called."""
    result: dict[str, Any] = {
        growth.name: replace(growth.regrouped(lambda group: ""), calibrations=()) for growth in plan.tensors
    }
    result |= {f"{edit.module}.{edit.attribute}": edit.value for edit in plan.attributes}
    result |= {f"{rescaling.name} rescaled": rescaling.factor for rescaling in plan.rescalings if rescaling.by}
    if plan.depth is not None:
        result |= {run.path: run for run in plan.depth.runs} | dict(plan.depth.renamed)
    return result


def for_both(planned: Any, other: Any) -> TensorGrowth | None:
    """The growth of a tensor that serves both courses; None where they need it otherwise.

    What one course leaves free, or equal in pairs, may be what the other needs: as planned, or the mean of the old
    entries, which can learn wherever entries that are drawn can.
    """
    if not (isinstance(planned, TensorGrowth) and isinstance(other, TensorGrowth)):
        return None
    axes = _axes_for_both(planned.axes, other.axes)
    alike = replace(planned, axes=(), calibrations=()) == replace(other, axes=(), calibrations=())
    return replace(planned, axes=axes) if alike and axes is not None else None


def _axes_for_both(planned: tuple[Axis, ...], other: tuple[Axis, ...]) -> tuple[Axis, ...] | None:
    if len(planned) != len(other):
        return None
    axes: list[Axis] = []
    for mine, theirs in zip(planned, other, strict=True):
        parts = _axes_for_both(mine.parts, theirs.parts)
        fill = _fill_for_both(mine.fill, theirs.fill)
        if parts is None or fill is None or (mine.kind, mine.old, mine.new) != (theirs.kind, theirs.old, theirs.new):
            return None
        axes.append(replace(mine, fill=fill, parts=parts))
    return tuple(axes)


def _fill_for_both(mine: str, theirs: str) -> str | None:
    if mine == theirs or theirs == "draw" or (mine, theirs) == ("mean", "pair"):
        return mine
    return "mean" if theirs == "mean" and mine in ("draw", "pair") else None


def with_more(plan: Plan, course: Plan) -> Plan:
    """A plan with the tensors and attributes that grow on another course only, as units of the plan's own groups."""
    others = {growth.name: growth for growth in course.tensors}
    shared = tuple(for_both(growth, others.get(growth.name)) or growth for growth in plan.tensors)
    if shared != plan.tensors:
        plan = replace(plan, tensors=shared)
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
    rescaled = tuple(each for each in course.rescalings if each.name in {growth.name for growth in tensors})
    entries = sum(math.prod(growth.new_shape) - math.prod(growth.old_shape) for growth in tensors)
    totals = replace(plan.totals, parameters_after=plan.totals.parameters_after + entries)
    return replace(
        plan,
        groups=(*plan.groups, *(replace(group, name=names[group.name]) for group in new)),
        held=still_held(plan.held, tensors),
        tensors=(*plan.tensors, *(growth.regrouped(lambda group: names.get(group, group)) for growth in tensors)),
        attributes=(*plan.attributes, *edits),
        rescalings=(*plan.rescalings, *rescaled),
        totals=totals,
    )


def still_held(held: Iterable[Held], tensors: Iterable[TensorGrowth]) -> tuple[Held, ...]:
    """What stays without the axes of tensors that grow after all."""
    grown = {f"{growth.name}[{number}]" for growth in tensors for number, a in enumerate(growth.axes) if any(a.runs())}
    rest = (replace(each, where=tuple(place for place in each.where if place not in grown)) for each in held)
    return tuple(each for each in rest if each.where)
