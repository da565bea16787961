"""Puts a growth into the model's own class, where that can hold every course of the forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from fxgrow.capture import Captured, GrownGraphModule
from fxgrow.capture.capturing import recorded
from fxgrow.capture.inputs import fitted, recalled
from fxgrow.capture.own_methods import called_by
from fxgrow.own import own_class, sites
from fxgrow.own.reading import read_by
from fxgrow.own.sites import Site
from fxgrow.planning.plan import Obstacle, Plan
from fxgrow.transforms.passes import deepened

Widen = Callable[[Plan], tuple[GrownGraphModule, Plan]]
"""Makes a grown graph by a plan, and gives the plan too, to which a batch may have added."""

Courses = Callable[[nn.Module, Plan, Sequence[Site]], tuple[Plan, bool] | Obstacle]
"""Looks at every other course of a grown copy, from its plan and the calls that change on the captured one.

The plan with these courses comes back, and whether the copy has all that they need.
"""


def grown_in_class(
    model: nn.Module,
    source: nn.Module,
    captured: Captured,
    planned: Plan,
    widen: Widen,
    courses: Courses | None = None,
) -> tuple[nn.Module | Obstacle, Plan, GrownGraphModule]:
    """A model grown in its own class, or what stands in the way; the plan for all courses; the graph of one of them.

    Parameters
    ----------
    source: holds the tensors, those of `model` or of its skeleton.
    courses: None where the plan has them already.
    """
    complete = False
    while not complete:
        changed = sites(captured, planned)
        graph, planned = widen(planned)
        own = own_class(source, planned, graph, changed, captured, others=list(other_courses(model, planned)))
        if isinstance(own, Obstacle) or courses is None:
            break
        taken = courses(own, planned, changed)
        if isinstance(taken, Obstacle):
            return taken, planned, graph
        planned, complete = taken
    return own, planned, graph


def other_courses(model: nn.Module, plan: Plan) -> Iterator[tuple[Captured, Plan]]:
    """The courses that a plan has for other values of arguments, captured as they were when it was made."""
    for course in plan.courses:
        if course.calls:
            yield without_guards(called_by(model, *course.way), course), course


def read_elsewhere(model: nn.Module, plan: Plan) -> set[str]:
    """The tensors and layers that the courses of a plan read, those for inputs of other sizes among them."""
    captured = (without_guards(called_by(model, *course.way), course) for course in plan.courses)
    return set[str]().union(*(read_by(other.model, other.graphs.values()) for other in captured))


def without_guards(model: nn.Module, plan: Plan) -> Captured:
    """A model as it was planned for growth in its own class: this asks itself what guards in a graph refuse."""
    return deepened(model, plan, recorded(model, fitted(model, recalled(plan.inputs))))
