"""The passes: a plan carried out on a graph, step by step, with a check after each.

`tag(widen(deepen(model, plan), plan, named_tensors(model)), plan)` is what `fxgrow.grow(model, ..., form="graph")`
gives, to the bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fxgrow.transforms.depth import add_blocks
from fxgrow.transforms.readouts import add_readouts
from fxgrow.transforms.tagging import tagged
from fxgrow.transforms.tensors import check_shape
from fxgrow.transforms.width import widened
from torch import Tensor, fx, nn

from fxgrow.capture import Captured, GrownGraphModule, assemble, recapture, skeleton, spelled_out
from fxgrow.capture.contexts import STATE
from fxgrow.capture.inputs import Inputs, inputs_after, recalled
from fxgrow.capture.shapes import propagate
from fxgrow.carried import ATTRIBUTE
from fxgrow.errors import OTHER_MODEL, CaptureError, PlanError, first_line
from fxgrow.history import Step, before_growth, drawn_by, history_of
from fxgrow.modules.containers import flat_tensors
from fxgrow.modules.tensors import named_tensors, tensors_named
from fxgrow.planning.plan import Plan
from fxgrow.rules.knowledge import GRADMAX


def deepen(gm: nn.Module, plan: Plan) -> GrownGraphModule:
    """A graph with the new blocks and readouts of a plan, as wide as before; its tensors have no values yet.

    Parameters
    ----------
    gm: a model, whose graph is recorded as it was for the plan, or a graph module that fxgrow made. It is not touched.

    Raises
    ------
    PlanError: the plan was made for another model, or no graph can hold it. CaptureError: the model does not take the
        inputs of the plan.
    """
    with _naming("deepen"):
        _check_plan(plan)
        if plan.parts:
            raise PlanError(
                "the plan grows a model in parts, and a pass takes one graph",
                remedy="pass each part with its own plan, out of plan.parts",
            )
        if plan.init == GRADMAX:
            raise PlanError("a loss chooses the new units of the plan, and no pass does", remedy="use plan.apply")
        captured = deepened(gm, plan)
        refuse_lost(captured)
        sizes = _sizes_out(captured.graphs)
        result = assemble(captured.model, captured.graphs, form=captured.form)
        _check(result, captured.inputs, sizes)
    return _remembering(gm, result)


def widen(gm: GrownGraphModule, plan: Plan, tensors: Mapping[str, Tensor], seed: int = 0) -> GrownGraphModule:
    """A graph as wide as a plan says, with tensors of its own.

    Parameters
    ----------
    gm: what `deepen` gave. It is not touched.
    tensors: those of the model that grows, tied ones under each of their names (`named_tensors`). They are only read.
    seed: of the new entries, as in `fxgrow.grow`.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    with _naming("widen"):
        _check_plan(plan)
        if not isinstance(gm, GrownGraphModule):
            raise PlanError("it is no graph of fxgrow's", where=type(gm).__name__, remedy="deepen it first")
        history = history_of(gm)
        seeded = drawn_by(seed, history.stage + 1 if history is not None else 1)
        captured = Captured(gm, spelled_out(gm), recalled(plan.inputs), gm._form)
        if any("value" not in node.meta for graph in captured.graphs.values() for node in graph.nodes):
            raise PlanError("it is not known what its nodes give", where=type(gm).__name__, remedy="deepen it first")
        check_made_for(captured, plan)
        result = widened(captured, plan, tensors, seeded)
        _check_sizes(result, plan)
        _check(result, inputs_after(plan), _sizes_out(gm.graphs()) if plan.classes is None else None)
    return _remembering(gm, result)


def tag(gm: GrownGraphModule, plan: Plan, seed: int = 0) -> GrownGraphModule:
    """A graph that knows that it grew by a plan, and when each of its elements was born.

    Parameters
    ----------
    gm: what `widen` gave. It is tagged itself.
    seed: with which it was widened.

    Raises
    ------
    PlanError: the graph did not grow by this plan.
    """
    with _naming("tag"):
        _check_sizes(gm, plan)
        return tagged(gm, Step(replace(plan, form="graph", courses=()), seed), history_of(gm))


def _check_plan(plan: object) -> None:
    if not isinstance(plan, Plan):
        raise PlanError(f"{type(plan).__name__} is no plan", remedy="pass what fxgrow.plan returned")


def deepened(model: nn.Module, plan: Plan, captured: Captured | None = None) -> Captured:
    """A model captured as it was when a plan was made for it, with the new blocks and readouts of the plan put in.

    captured: the model, if it has been captured; the blocks are put into this.

    Raises
    ------
    PlanError: the plan was made for another model. CaptureError: the model does not take the plan's inputs.
    """
    captured = captured if captured is not None else recapture(model, recalled(plan.inputs))
    _check_hooks(captured, plan)
    if plan.depth is not None:
        add_blocks(captured, plan.depth)
    add_readouts(captured, plan.readouts)
    check_made_for(captured, plan)
    return captured


def _check_hooks(captured: Captured, plan: Plan) -> None:
    """Refuse a model that lacks a hook of the one that a plan was made for, and computes otherwise for it."""
    for path, name in plan.hooks:
        if (path, name) in captured.hooks:
            continue
        if path:
            raise PlanError(
                f"the hook {name}, which computes something, is missing",
                where=path,
                remedy="put it on that module first, as it was when the model grew",
            )
        warnings.warn(
            f"{type(captured.model).__name__} has no hook {name} around the whole, as it had when it grew: put it on "
            "again if it computes something",
            stacklevel=3,
        )


def check_made_for(captured: Captured, plan: Plan) -> None:
    """Raise a PlanError where a captured model does not have what a plan changes, at the sizes that it changes."""
    tensors = tensors_named(captured.model, (growth.name for growth in plan.tensors))
    longer = {name for name, _ in plan.depth.enlarged} if plan.depth is not None else ()
    for growth in plan.tensors:
        if growth.name in longer:
            continue  # it has taken in the channels of new dense layers by now
        check_shape(growth.name, tensors.get(growth.name), growth.old_shape)
    nodes = {(mode, node.name) for mode, graph in captured.graphs.items() for node in graph.nodes}
    for edit in plan.nodes:
        if (edit.mode, edit.node) not in nodes:
            raise PlanError("the plan changes a call that the model does not make", where=edit.node, remedy=OTHER_MODEL)


def refuse_lost(captured: Captured, obstacle: object = None) -> None:
    """Raise a PlanError where a forward does what no graph can keep; `obstacle`: to growth of the model's own class."""
    first = "call the model and grow it then, " if any(note.feature == STATE for note in captured.settled) else ""
    for note in captured.settled:
        if note.lost:
            kept = "makes every call alike, but" if note.feature == STATE else "cannot keep"
            raise PlanError(
                f"a graph {kept} {note.what}{f', and {obstacle}' if obstacle is not None else ''}",
                where=note.where,
                remedy=f"{first}switch it off, or choose widths that the model's own class can hold",
            )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Let every error say in which pass it was."""
    try:
        yield
    except PlanError as error:
        raise PlanError(f"{name}: {error.what}", where=error.where, remedy=error.remedy) from error


def _remembering(gm: nn.Module, result: GrownGraphModule) -> GrownGraphModule:
    """A graph that knows of the growths that the one knows of which it was made."""
    history = before_growth(gm)
    if history is not None:
        setattr(result, ATTRIBUTE, history)
    return result


def _check_sizes(gm: nn.Module, plan: Plan) -> None:
    tensors = named_tensors(gm)
    for growth in plan.tensors:
        remedy = "pass what the pass before gave for this plan"
        check_shape(growth.name, tensors.get(growth.name), growth.new_shape, "promises", remedy)


def _check(gm: GrownGraphModule, inputs: Inputs, sizes: Any) -> None:
    """Run a graph on shapes: the first node that does not run is named, and outputs are of the sizes before, if any."""
    for mode, graph in gm.graphs().items():
        for node in graph.nodes:
            node.meta.pop("value", None)
        try:
            graph.lint()
            propagate(skeleton(gm).train(mode == "train" or (mode == "both" and gm.training)), graph, inputs)
        except (RuntimeError, ValueError, CaptureError) as error:
            bad = next((node.name for node in graph.nodes if "value" not in node.meta), None)
            raise PlanError(f"it left a graph that does not run: {first_line(error)}", where=bad) from error
    sizes_out = _sizes_out(gm.graphs())
    for mode in sizes_out if sizes is not None else ():
        if sizes_out[mode] != sizes[mode]:
            raise PlanError(f"outputs are {sizes_out[mode]}, they were {sizes[mode]}", where="output")


def _sizes_out(graphs: Mapping[str, fx.Graph]) -> dict[str, list[list[int]]]:
    outputs = {mode: next(iter(reversed(graph.nodes))).args[0] for mode, graph in graphs.items()}
    shaped = {mode: fx.node.map_arg(output, lambda node: node.meta["value"]) for mode, output in outputs.items()}
    return {mode: [list(value.shape) for value in flat_tensors(values)] for mode, values in shaped.items()}
