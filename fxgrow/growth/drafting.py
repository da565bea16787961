"""Turns what a user asks for into a plan: captures the model, deepens it if asked to, and plans its widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from fxgrow.amounts import Amounts
from fxgrow.axes.layout import Reason
from fxgrow.capture import Captured, GrownGraphModule, capture, recapture, skeleton
from fxgrow.capture.inputs import Inputs, with_channels
from fxgrow.capture.states import given_back
from fxgrow.errors import CaptureError, PlanError, UntraceableError
from fxgrow.garbage import collection_paused
from fxgrow.growth.around_parts import Passage
from fxgrow.growth.parts import Parts, find_parts, no_part_grows, passage_through
from fxgrow.growth.wish import Wish, check, grows, parameterization_for, sizes_asked
from fxgrow.history import history_of
from fxgrow.modules.tensors import named_tensors, parameter_count, within
from fxgrow.own import own_class, sites
from fxgrow.own.courses import Replan
from fxgrow.own.target import check_alike
from fxgrow.planning.analysis import GIVEN_BACK, HELD, Analysis, analyse, hold, roles_of
from fxgrow.planning.blocks import Found
from fxgrow.planning.composition import joined
from fxgrow.planning.depth import check_keys, plan_depth
from fxgrow.planning.ends import End, open_ends, sizes_between
from fxgrow.planning.heads import let_tables_grow
from fxgrow.planning.input_channels import InputChannels
from fxgrow.planning.plan import Obstacle, Plan
from fxgrow.planning.planner import make_plan
from fxgrow.planning.readouts import find_readouts
from fxgrow.planning.sizes import Sizes, flops_after, parameters_after
from fxgrow.planning.targets import distances
from fxgrow.planning.toward import deeper_containers, depth_toward
from fxgrow.steps import timed
from fxgrow.tensor_hooks import why_hooked
from fxgrow.transforms.depth import add_blocks
from fxgrow.transforms.readouts import add_readouts, drop_readouts
from fxgrow.transforms.width import widened


@collection_paused()
def planned_in_form(
    model: nn.Module, wish: Wish, example_inputs: Any, keep: bool = False
) -> tuple[Captured | Parts, Plan, Wish]:
    """As `_planned`; what the own class cannot hold is held in the wish where no graph is to come back, or can.

    New blocks that it cannot hold among the others come last. A run that it cannot lengthen at all is held, if it was
    not asked for by name and another run gains blocks.
    """
    as_asked = None
    while True:
        captured, planned = _planned(model, wish, lambda: capture(model, example_inputs), example_inputs, keep)
        if as_asked is not None and not (planned.depth and planned.depth.blocks):
            return as_asked
        if wish.like is not None or isinstance(captured, Parts) or not grows(planned):
            return captured, planned, wish
        no_graph = wish.form == "module" or any(note.lost for note in captured.settled)
        if wish.form == "graph" or not (no_graph or _may_be_too_long(model, planned)):
            return captured, planned, wish
        bare, changed = skeleton(model), sites(captured, planned)
        graph = widened(captured, planned, named_tensors(bare), "")
        own = own_class(bare, planned, graph, changed, captured)
        if not isinstance(own, Obstacle):
            return captured, planned, wish
        if not no_graph and as_asked is None:
            as_asked = captured, planned, wish
        why = f"{type(model).__name__} cannot hold its growth: {own.what}"
        run = _run_with(planned, graph, own)
        reasons = wish.held.get(own.node, ())
        runs = planned.depth.runs if planned.depth is not None else ()
        late = (r.path for r in runs if 1 < r.before < r.after and run in (None, r.path))
        if more := dict.fromkeys((path for path in late if path not in wish.late_runs), own.what):
            wish = replace(wish, late_runs={**wish.late_runs, **more})
        elif run is not None and (no_graph or not isinstance(wish.depth, Mapping)):
            wish = replace(wish, held_runs={**wish.held_runs, run: why})
        elif no_graph and own.node and len(reasons) < 2:
            wish = replace(wish, held={**wish.held, own.node: (*reasons, Reason(why))})
        else:
            return as_asked or (captured, planned, wish)


def _may_be_too_long(model: nn.Module, planned: Plan) -> bool:
    """Whether a run gains blocks, and is not all of Sequentials that run them."""
    if planned.depth is None:
        return False
    containers = (model.get_submodule(old.rpartition(".")[0]) for b in planned.depth.blocks for _, old in b.modules)
    return any(getattr(type(part), "forward", None) is not nn.Sequential.forward for part in containers)


def _run_with(planned: Plan, graph: GrownGraphModule, obstacle: Obstacle) -> str | None:
    """The run of blocks in one of whose new blocks an obstacle is, or else the last that has any before it."""
    blocks = planned.depth.blocks if planned.depth is not None else ()
    for each in graph.graphs().values():
        latest: str | None = None
        for node in each.nodes:
            place = str(node.target if node.op == "call_module" else node.meta.get("module_path", ""))
            runs = (block.run for block in blocks if any(within(place, new) for new, _ in block.modules))
            latest = next(runs, latest)
            if node.name == obstacle.node:
                return latest
    return None


def replanning(model: nn.Module, wish: Wish) -> Replan:
    def replan(again: Inputs | Captured) -> tuple[Captured, Plan]:
        captured, planned = _planned(
            model, wish, lambda: again if isinstance(again, Captured) else recapture(model, again)
        )
        assert isinstance(captured, Captured)
        return captured, planned

    return replan


def replanning_parts(model: nn.Module, wish: Wish) -> Callable[[str], Replan]:
    """What plans parts once more, by their paths."""
    widths, depths = sizes_asked(wish.width), Amounts.parse(wish.depth) if wish.depth is not None else None

    def of_part(path: str) -> Replan:
        def replan(again: Inputs | Captured) -> tuple[Captured, Plan]:
            assert isinstance(widths, Amounts)  # no model grows in parts to given sizes
            part = again if isinstance(again, Captured) else recapture(model.get_submodule(path), again)
            chosen = parameterization_for(model, wish.parameterization)
            return part, _part_planner(widths, depths, wish, chosen, None)(path, part)

        return replan

    return of_part


def _planned(
    model: nn.Module,
    wish: Wish,
    captured_anew: Callable[[], Captured],
    example_inputs: Any = None,
    keep: bool = False,
) -> tuple[Captured | Parts, Plan]:
    """A captured model, deepened where that was asked for, and the plan for it.

    example_inputs: to look for parts, where it cannot be captured as a whole. keep: what it was before it was deepened,
    for a proof.
    """
    check(wish)
    widths = sizes_asked(wish.width)
    depths = Amounts.parse(wish.depth) if wish.depth is not None else None
    chosen = parameterization_for(model, wish.parameterization)
    captured: Captured | Parts
    try:
        with timed("capturing"):
            captured = captured_anew()
    except UntraceableError as error:
        if isinstance(widths, Sizes) or wish.like is not None:
            raise
        captured = find_parts(model, example_inputs, error)
    for path, part in captured.captured.items() if isinstance(captured, Parts) else (("", captured),):
        _hold_hooked(model.get_submodule(path), part)
    if isinstance(widths, Amounts):
        widths.check_all_used([name for name, _ in model.named_modules() if name])
    name = model_name(model)
    if isinstance(captured, Parts):
        assert isinstance(widths, Amounts)  # sizes were refused above
        ends = wish.classes is not None or wish.in_chans is not None
        way = passage_through(model, captured) if ends else None
        planned = captured.plan(name, wish.init, chosen, _part_planner(widths, depths, wish, chosen, way), way)
        if depths is not None:
            runs = planned.depth.runs if planned.depth is not None else ()
            check_keys(depths, runs, [path for staying in planned.held for path in staying.where], model)
        if not grows(planned) and captured.why is not None:
            raise no_part_grows(captured.why, captured.reached)
        return captured, planned
    if keep and (depths is not None or wish.like is not None):
        captured = replace(captured, before=captured.kept())
    with timed("planning"):
        if wish.like is not None:
            return captured, _toward(captured, name, wish.like, wish, chosen)
        if depths is None:
            return captured, _widened(captured, name, widths, wish, chosen)
        return captured, _deepened(captured, depths, wish, lambda: _widened(captured, name, widths, wish, chosen))


def _hold_hooked(model: nn.Module, captured: Captured) -> None:
    """Let tensors stay whose hooks may count on their shapes."""
    twins = named_tensors(captured.model)
    for name, tensor in named_tensors(model).items():
        if name in twins and (why := why_hooked(tensor)) is not None:
            hold(twins[name], why)


def _part_planner(
    widths: Amounts, depths: Amounts | None, wish: Wish, parameterization: str, way: Passage | None
) -> Callable[[str, Captured], Plan]:
    """What plans one part of a model that is grown in parts; the ends of the model may be ends of a part."""
    head = way.head() if way is not None and wish.classes is not None else None
    first = way.first() if way is not None and wish.in_chans is not None else None

    def planned(path: str, part: Captured) -> Plan:
        wider, name = replace(widths, prefix=f"{path}."), type(part.model).__name__
        classes, channels = wish.classes if path == head else None, wish.in_chans if path == first else None

        def plan() -> Plan:
            analysis, ends = open_ends(part, classes, wish.class_init, channels)
            return make_plan(part, name, wider, wish.init, wish.round_to, parameterization, analysis, ends)

        return plan() if depths is None else _deepened(part, replace(depths, prefix=f"{path}."), wish, plan)

    return planned


def _toward(captured: Captured, name: str, target: nn.Module, wish: Wish, parameterization: str) -> Plan:
    """The plan that leads to the sizes of a target, dimension by dimension."""
    further = deeper_containers(captured.model, target)

    def widened() -> Plan:
        check_alike(captured.model, target)
        let_tables_grow(node for graph in captured.graphs.values() for node in graph.nodes)
        analysis, ends = open_ends(captured, wish.classes, wish.class_init, wish.in_chans)
        channels = next((end.channels for end in ends if isinstance(end, InputChannels)), None)
        try:
            aim = recapture(target, with_channels(captured.inputs, channels))
        except CaptureError as error:
            raise PlanError(
                f"the target cannot be captured on the inputs of the model: {error.what}",
                where=error.where or type(target).__name__,
                remedy="build the target for inputs of the same shapes, or pass in_chans= if it reads more channels",
            ) from error
        ways = distances(analysis, analyse(aim.model, aim.graphs), ("model", "target"))
        sizes = sizes_between(ends, [way for way in ways if way.leaf not in analysis.unread])  # these follow later
        return make_plan(captured, name, sizes, wish.init, wish.round_to, parameterization, analysis, ends)

    if not further:
        return widened()
    model = captured.model
    return _deepened(captured, lambda repeats: depth_toward(repeats, further, model, target), wish, widened)


def _deepened(
    captured: Captured, depths: Amounts | Callable[[Found], Amounts], wish: Wish, widened: Callable[[], Plan]
) -> Plan:
    """The plan for depth and then, by `widened`, for width; new blocks are put into `captured`."""
    analysis = analyse(captured.model, captured.graphs)
    parameters = parameter_count(captured.model)
    roles, late = roles_of(analysis), wish.late_runs
    deepening, staying, reading = plan_depth(captured, depths, wish.depth_init, roles, wish.held_runs, late)
    operations = flops_after(analysis, {})
    add_blocks(captured, deepening)
    planned = widened()
    planned = replace(planned, tensors=joined(reading, planned.tensors))
    staying += planned.held if wish.width is not None else ()
    totals = replace(planned.totals, parameters_before=parameters, flops_before=operations)
    return replace(planned, depth=deepening, held=staying, totals=totals)


def _widened(captured: Captured, name: str, widths: Amounts | Sizes, wish: Wish, parameterization: str) -> Plan:
    """The plan for widths, with readouts where outputs are streams that are to grow; they are put into `captured`."""

    asks_for_more = (wish.classes, wish.in_chans) != (None, None)

    def planned(analysis: Analysis | None = None) -> Plan:
        ends: Sequence[End] = ()
        if analysis is None or asks_for_more:
            analysis, ends = open_ends(captured, wish.classes, wish.class_init, wish.in_chans)
        return make_plan(captured, name, widths, wish.init, wish.round_to, parameterization, analysis, ends)

    for graph in captured.graphs.values():
        for node in graph.nodes:
            if node.name in wish.held:
                node.meta[HELD] = wish.held[node.name]
    before = analyse(captured.model, captured.graphs)
    readouts = find_readouts(before) if wish.width is not None and isinstance(widths, Amounts) else ()
    if readouts and (state := given_back(captured)):
        for graph in captured.graphs.values():
            graph.output_node().meta[GIVEN_BACK] = state
        before = analyse(captured.model, captured.graphs)
        readouts = find_readouts(before)
    if not readouts:
        return planned(before)
    parameters, operations = parameters_after(before, {}), flops_after(before, {})
    add_readouts(captured, readouts)
    plan = planned()
    growing = {tensor.name for tensor in plan.tensors}
    idle = [readout for readout in readouts if readout.weight not in growing]
    if idle:
        drop_readouts(captured, idle)
        plan = planned()
    totals = replace(plan.totals, parameters_before=parameters, flops_before=operations)
    return replace(plan, totals=totals, readouts=tuple(readout for readout in readouts if readout not in idle))


def model_name(model: nn.Module) -> str:
    """The class name of a model, as users know it."""
    history = history_of(model)
    return history.steps[-1].plan.model if history is not None else type(model).__name__
