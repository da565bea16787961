"""Capture in tiers: symbolic first, then with control flow on shapes resolved."""

from __future__ import annotations

import copy
import inspect
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx._symbolic_trace import _assert_is_none

from fxgrow.capture.inputs import Inputs, example_inputs_for, fitted
from fxgrow.capture.modes import GrownGraphModule, merge
from fxgrow.capture.opaque import CustomFunction
from fxgrow.capture.shapes import propagate
from fxgrow.capture.skeleton import skeleton
from fxgrow.capture.tracer import IN_TENSOR_OPERATIONS, UNTRACEABLE, StaysWhole, Tracer
from fxgrow.errors import CaptureError, UntraceableError, first_line
from fxgrow.rules import registry


@dataclass(frozen=True)
class Captured:
    """A model's structure and graphs.

    model: the skeleton, every tensor on the meta device.
    graphs: {"both": graph} where train and eval agree, else {"eval": graph, "train": graph}; every node has
        `meta["value"]` (its value on the meta device) and `meta["module_path"]` (whose forward made it).
    tier: 1 symbolic, 2 with control flow on shapes resolved.
    inputs: the arguments and keyword arguments used, on the meta device.
    """

    model: nn.Module
    graphs: dict[str, fx.Graph]
    tier: int
    inputs: Inputs


def capture(model: nn.Module, example_inputs: Any = None) -> Captured:
    """Capture a model in train and in eval mode; the model is not touched.

    Raises
    ------
    CaptureError: the model cannot be captured, or does not take these inputs.
    """
    bare = skeleton(model)
    return _captured(model, bare, example_inputs_for(model, example_inputs))


def recapture(model: nn.Module, inputs: Inputs) -> Captured:
    """Capture a model on inputs that an earlier capture recorded."""
    return _captured(model, skeleton(model), fitted(model, inputs))


def _captured(model: nn.Module, bare: nn.Module, inputs: Inputs) -> Captured:
    if isinstance(model, GrownGraphModule):
        return _recaptured(bare, model, inputs)
    values = _bound(bare, inputs)
    tier = 1
    try:
        graphs = _both_modes(bare, values, shape_aware=False)
    except UNTRACEABLE:
        tier = 2
        try:
            graphs = _both_modes(bare, values, shape_aware=True)
        except UNTRACEABLE as error:
            place = getattr(error, "fxgrow_place", type(model).__name__)
            if "__array" in str(error):
                raise UntraceableError(
                    "the forward cannot be captured: "
                    "numpy needs the values of a tensor, which no graph over shapes can have",
                    where=place,
                    remedy=IN_TENSOR_OPERATIONS,
                ) from error
            raise UntraceableError(
                f"the forward cannot be captured: {first_line(error)}",
                where=place,
                remedy="rewrite control flow that depends on the values of tensors, or grow the parts around it",
            ) from error
    bare.train(model.training)
    for twin, original in zip(bare.modules(), model.modules(), strict=False):
        twin.training = original.training
    return Captured(bare, merge(bare, graphs), tier, inputs)


def _both_modes(bare: nn.Module, values: dict[str, Any], shape_aware: bool) -> dict[str, fx.Graph]:
    absent = _absent(bare, values)
    graphs = {}
    functions: dict[str, CustomFunction] = {}
    constants: dict[str, torch.Tensor] = {}
    whole: frozenset[Any] = frozenset()
    for mode in ("eval", "train"):
        bare.train(mode == "train")
        graph = None
        while graph is None:
            try:
                tracer = Tracer(values, registry.has_rule, whole, shape_aware, functions, constants)
                graph = tracer.trace(bare, dict.fromkeys(absent))
            except StaysWhole as stop:
                whole |= {stop.kind}
        graph.eliminate_dead_code(_is_impure)
        graph._tracer_cls = None  # generated code is read back by plain means
        graphs[mode] = graph
    for path, function in functions.items():
        bare.add_module(path, function)
    for path, constant in constants.items():
        setattr(bare, path, constant)
    return graphs


_WRITING = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)


def _is_impure(node: fx.Node) -> bool:
    """Nodes that matter although nothing reads them: inputs, assertions, in-place writes, modules."""
    in_place = str(node.target).endswith("_") or node.target in _WRITING
    asserts = node.target in (torch._assert, _assert_is_none)
    return node.op in ("placeholder", "output", "call_module") or asserts or in_place


def _absent(bare: nn.Module, values: dict[str, Any]) -> list[str]:
    """Arguments that are not given and default to None: forwards ask for them by `is None`, which settles it."""
    parameters = inspect.signature(bare.forward).parameters.values()
    return [p.name for p in parameters if p.default is None and values.get(p.name) is None]


def _bound(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Inputs by parameter name of the model's forward."""
    args, kwargs = inputs
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"the model's forward does not take these inputs: {error}",
            where=type(model).__name__,
            remedy="pass example_inputs as the model is called",
        ) from None
    values: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        stars = 1 if kind is inspect.Parameter.VAR_POSITIONAL else 2 if kind is inspect.Parameter.VAR_KEYWORD else 0
        values["*" * stars + name] = value
    return values


def _recaptured(bare: nn.Module, model: GrownGraphModule, inputs: Inputs) -> Captured:
    """Reuse the graphs of a module that fxgrow made; only the values are worked out again."""
    graphs = {}
    for mode, graph in model.graphs().items():
        twin = fx.Graph()
        renamed: dict[fx.Node, fx.Node] = {}
        twin.output(twin.graph_copy(graph, renamed))
        for old, new in renamed.items():
            new.name = old.name
            new.meta = {"module_path": old.meta.get("module_path", "")}
        training = mode == "train" or (mode == "both" and model.training)
        propagate(copy.copy(bare).train(training), twin, inputs)
        graphs[mode] = twin
    for part, original in zip(bare.modules(), model.modules(), strict=False):
        part.training = original.training
    return Captured(bare, graphs, 1, inputs)
