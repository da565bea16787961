"""Repeats a growth from its plan: the same seed gives the same bytes; without weights, the structure alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from torch import nn

from fxgrow.capture import Captured, GrownGraphModule, recapture, skeleton
from fxgrow.capture.alignment import parting
from fxgrow.capture.inputs import inputs_after, recalled
from fxgrow.capture.interception import HOOKED_WHOLE
from fxgrow.errors import CaptureError, PlanError
from fxgrow.growth.parts import Parts, captured_again, widen_parts
from fxgrow.growth.placing import grown_in_class, read_elsewhere, without_guards
from fxgrow.guarded_norms import by_graph
from fxgrow.modules.tensors import named_tensors, place, tensors_named
from fxgrow.opaque import without_hooks
from fxgrow.own.configs import follow_configs
from fxgrow.own.edited import Edited, Multiplied
from fxgrow.own.folding import fold_module
from fxgrow.own.refusing import with_refusals
from fxgrow.planning.plan import Obstacle, Plan
from fxgrow.rules.calls import targets
from fxgrow.transforms.folding import fold_multipliers
from fxgrow.transforms.passes import deepened
from fxgrow.transforms.width import widened

_REMEDY = "apply a plan to the model it was made for, or to one built alike"


@contextmanager
def hooks_as_for(plan: Plan) -> Iterator[None]:
    """Let layers that hooks run around be recorded as they were for a plan."""
    before = HOOKED_WHOLE.set(plan.hooked_whole)
    try:
        yield
    finally:
        HOOKED_WHOLE.reset(before)


def grown_again(
    model: nn.Module, plan: Plan, source: nn.Module, seed: str, folded: bool, captured: Captured | Parts | None = None
) -> nn.Module:
    """What a growth made of a model.

    Parameters
    ----------
    source: holds the tensors, those of `model` or of its skeleton; never written to.
    seed: of the new entries. folded: whether multipliers went into the weights afterwards.
    captured: what `prepared` gave, if it is at hand.

    Raises
    ------
    PlanError: the plan was made for another model. CaptureError: the model does not take the plan's inputs.
    """
    with hooks_as_for(plan):
        return _grown_again(model, plan, source, seed, folded, captured)


def _grown_again(
    model: nn.Module, plan: Plan, source: nn.Module, seed: str, folded: bool, captured: Captured | Parts | None
) -> nn.Module:
    if captured is None:
        by_size = any(not course.calls for course in plan.courses)  # its graph refuses inputs of another size
        as_planned = by_size or plan.parts or plan.form != "module"
        captured = prepared(model, plan) if as_planned else without_guards(model, plan)
    if isinstance(captured, Parts):
        result = widen_parts(captured, plan, source, seed)[0]
        return fold_module(result) if folded else result
    structure = captured

    def widen(plan: Plan) -> tuple[GrownGraphModule, Plan]:
        return widened(structure, plan, named_tensors(source), seed), plan

    if plan.form == "module":
        own, _, grown = grown_in_class(model, source, structure, plan, widen)
        if isinstance(own, Obstacle):
            raise PlanError(own.what, where=own.where, remedy=_REMEDY)
        follow_configs(source, own, grown, inputs_after(plan), plan, seed, partial(read_elsewhere, model, plan))
        with_refusals(own, plan.refusals)
        return fold_module(own) if folded else own
    grown, _ = widen(plan)
    return fold_multipliers(grown) if folded else grown


def prepared(model: nn.Module, plan: Plan) -> Captured | Parts:
    """A model captured as it was when a plan was made for it, with the new blocks and readouts of the plan put in.

    Raises
    ------
    PlanError: the plan was made for another model. CaptureError: the model does not take the plan's inputs.
    """
    if not plan.parts:
        return deepened(model, plan)
    parts = captured_again(model, plan)
    for path, part in plan.parts:
        deepened(model.get_submodule(path), part, parts.captured[path])
    return parts


def captured_before(original: nn.Module, plan: Plan) -> Mapping[str, Captured]:
    """A model captured as it was when a plan was made for it: by the path of each part, or "" for all of it."""
    with hooks_as_for(plan):
        if plan.parts:
            return captured_again(original, plan).captured
        return {"": recapture(original, recalled(plan.inputs))}


def as_graph(
    grown: nn.Module, original: nn.Module, plan: Plan, folded: bool = False, captured: Captured | None = None
) -> GrownGraphModule:
    """The graph that a growth gave, over the tensors of a module that grew in its own class.

    folded: whether multipliers went into the weights afterwards. captured: the original, as it was captured for the
    plan; it is not changed. None: it is captured here.

    Raises
    ------
    FxgrowError: the module computes something else than the graph, or the plan was made for another model.
    """
    if isinstance(grown, GrownGraphModule):
        return grown
    prepared_for = deepened(original, plan, captured.kept()) if captured is not None else None
    graph = grown_again(original, replace(plan, form="graph"), skeleton(original), "", folded, prepared_for)
    assert isinstance(graph, GrownGraphModule)
    graph.train(grown.training)
    for name, tensor in tensors_named(grown, named_tensors(graph)).items():
        place(graph, name, tensor)
    parts = dict(grown.named_modules())
    for path in targets(graph.graphs().values(), "call_module") & parts.keys():
        owner, _, name = path.rpartition(".")
        if not by_graph(graph.get_submodule(path)) and not isinstance(parts[path], (Edited, Multiplied)):
            graph.get_submodule(owner)._modules[name] = without_hooks(parts[path])
        else:
            graph.get_submodule(path).train(parts[path].training)
    with hooks_as_for(plan):
        different = parting(grown, graph, inputs_after(plan))
    if different is not None:
        raise CaptureError(
            f"the module computes something else than its graph: {different}", remedy="certify it as it was grown"
        )
    return graph
