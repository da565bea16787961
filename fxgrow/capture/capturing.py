"""Capture: a model's forward is recorded in eval and in train mode, and what one record settled is found."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture import contexts
from fxgrow.capture.contexts import Settled
from fxgrow.capture.inputs import Inputs, example_inputs_for, fitted
from fxgrow.capture.modes import GrownGraphModule, merge
from fxgrow.capture.numbers import Attribute, remembering
from fxgrow.capture.opaque import CustomFunction
from fxgrow.capture.outputs import Form, taken_apart
from fxgrow.capture.probing import (
    BATCH,
    DTYPE,
    FEATURES,
    NUMBER,
    SIZE,
    Difference,
    changed,
    differences,
    other_dtype,
)
from fxgrow.capture.recorder import Recorder
from fxgrow.capture.shapes import propagate
from fxgrow.capture.skeleton import skeleton
from fxgrow.devices import device_of
from fxgrow.errors import CaptureError, FxgrowError, UntraceableError, first_line


@dataclass(frozen=True)
class Captured:
    """A model's structure and graphs.

    model: the skeleton, every tensor on the meta device.
    graphs: {"both": graph} where train and eval agree, else {"eval": graph, "train": graph}; every node has
        `meta["value"]` (its value on the meta device) and `meta["module_path"]` (whose forward made it), and
        `meta["sources"]` where literals come from attributes.
    inputs: the arguments and keyword arguments used, on the meta device.
    form: the class of the output, where the graphs return a plain container in its place.
    settled: what the graphs cannot keep of the forward.
    """

    model: nn.Module
    graphs: dict[str, fx.Graph]
    inputs: Inputs
    form: Form | None = None
    settled: tuple[Settled, ...] = ()
    tier: int = 1


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
    recording = Recording(bare, device_of(model))
    records = {mode: recording.record(mode, inputs) for mode in ("eval", "train")}
    graphs = merge(bare, {mode: record.graph for mode, record in records.items()})
    settled = [note for record in records.values() for note in record.settled]
    settling = {name for record in records.values() for name in record.numbers}
    for mode, graph in graphs.items():
        run = "eval" if mode == "both" else mode
        settled.extend(_probe(recording, run, graph, inputs))
        _free_numbers(recording, run, graph, inputs, settling)
    for path, function in recording.functions.items():
        bare.add_module(path, function)
    held = {str(node.target) for graph in graphs.values() for node in graph.nodes if node.op == "get_attr"}
    for path, constant in recording.constants.items():
        if path in held:
            setattr(bare, path, constant)
    for twin, original in zip(bare.modules(), model.modules(), strict=False):
        twin.training = original.training
    return Captured(bare, graphs, inputs, records["eval"].form, tuple(dict.fromkeys(settled)))


@dataclass(frozen=True)
class _Record:
    """One run of a forward: its graph, the class of its output, what the graph cannot keep.

    numbers: the names of arguments that are numbers which the forward compares.
    """

    graph: fx.Graph
    form: Form | None
    settled: list[Settled]
    numbers: set[str]


class Recording:
    """Records a model again and again, and keeps what its records share."""

    def __init__(self, bare: nn.Module, device: torch.device) -> None:
        self.bare = bare
        self.device = device
        self.functions: dict[str, CustomFunction] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.memory: dict[Any, Any] = {}
        self.graph = fx.Graph()
        """What the last run recorded, also where it failed."""

    def record(self, mode: str, inputs: Inputs, dtype: Callable[[torch.dtype], torch.dtype] | None = None) -> _Record:
        """A run in a mode; `dtype`: to run in another precision."""
        arguments = _bound(self.bare, inputs)
        runner = with_sources(skeleton(self.bare, dtype)).train(mode == "train")
        recorder = Recorder(runner, self.device, self.functions, self.constants, self.memory)
        self.graph = recorder.graph
        held = {(path, name): t for path, m in runner.named_modules() for name, t in m._buffers.items()}
        output, form = taken_apart(_run(recorder, arguments, len(inputs[0]), type(self.bare).__name__))
        for path, module in runner.named_modules():
            for name, tensor in module._buffers.items():
                if tensor is not held.get((path, name)):
                    what = f"what the forward assigns to the buffer {name}"
                    recorder.settled.append(Settled(what, path or type(self.bare).__name__, lost=True))
        recorder.graph.output(recorder.result(output))
        compared = _arguments_behind(recorder.settling)
        recorder.graph.eliminate_dead_code(is_impure)
        return _Record(recorder.graph, form, recorder.settled, compared)


def _arguments_behind(nodes: set[fx.Node]) -> set[str]:
    """The names of the arguments that numbers were computed from."""
    names, pending, seen = set(), list(nodes), set(nodes)
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            names.add(str(node.target))
        pending.extend(source for source in node.all_input_nodes if source not in seen)
        seen.update(node.all_input_nodes)
    return names


def _free_numbers(recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs, settling: set[str]) -> None:
    """Let arguments be any number, where the forward only computes with them."""
    guards = [
        node
        for node in graph.nodes
        if node.target is contexts.settled
        and type(node.args[1]) in (int, float)
        and node.args[0].op == "placeholder"
        and str(node.args[0].target) not in settling
    ]
    if not guards:
        return
    arguments = {**_defaults(recording.bare), **_bound(recording.bare, inputs)}
    numbers = {key: value for key, value in arguments.items() if not key.startswith("*")}
    other = changed(((), numbers), frozenset({NUMBER}))
    try:
        assert other is not None
        record = recording.record(mode, ((), other.inputs[1]))
    except CaptureError:
        return
    if next(differences(graph, record.graph), None) is None:
        for node in guards:
            graph.erase_node(node)


def _defaults(model: nn.Module) -> dict[str, Any]:
    empty = inspect.Parameter.empty
    parameters = inspect.signature(model.forward).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not empty}


def _probe(recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs) -> list[Settled]:
    """What a graph settled that hangs on the inputs it was recorded with; it gets guards against other ones."""

    def differing(features: frozenset[str]) -> Difference | None:
        """Where a record on other inputs parts from the graph, if it does; its absence proves nothing by itself."""
        other = changed(inputs, features)
        if other is None:
            return None
        dtype = other_dtype if DTYPE in other.features else None
        try:
            record = recording.record(mode, other.inputs, dtype)
        except CaptureError:  # the model does not take such inputs either
            return _REFUSED
        return next(differences(graph, record.graph), None)

    every = frozenset(FEATURES)
    if differing(every) is None:
        return []
    rest = every - {SIZE}
    pending = [frozenset({SIZE})] if differing(rest) is None else [frozenset({feature}) for feature in FEATURES]
    notes = []
    for features in pending:
        difference = differing(features)
        if difference is None or difference is _REFUSED:
            continue
        node = difference.node
        where = (node.meta.get("module_path") or node.name) if node is not None else type(recording.bare).__name__
        notes.append(Settled(f"{difference.what} hangs on the {_MEANING[next(iter(features))]}", where))
        _guard(graph, features)
    return notes


_REFUSED = Difference(None, "it does not run")
_MEANING = {BATCH: "number of samples", SIZE: "size of the input", DTYPE: "precision of the input"}


def _guard(graph: fx.Graph, features: frozenset[str]) -> None:
    """Let a graph refuse inputs of another number of samples, or of another size, than it was recorded with."""
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        value = node.meta["value"]
        if not isinstance(value, torch.Tensor) or not value.ndim or DTYPE in features:
            continue
        axes = (0,) if BATCH in features else tuple(range(1, value.ndim))
        sizes = tuple(int(value.shape[axis]) for axis in axes)
        with graph.inserting_after(node):
            guard = graph.call_function(contexts.sized, (node, axes, sizes, str(node.target)))
        guard.meta.update(value=None, module_path="")


def _run(recorder: Recorder, arguments: dict[str, Any], positional: int, name: str) -> Any:
    """What the forward returns; its own errors become errors of capture that say where they arose."""
    try:
        with contexts.without_chance(name, lambda: recorder.again().record(arguments, positional)):
            return recorder.record(arguments, positional)
    except CaptureError:
        raise
    except FxgrowError as error:
        raise CaptureError(error.what, where=error.where, remedy=error.remedy) from error
    except Exception as error:
        place = getattr(error, "fxgrow_place", name)
        raise UntraceableError(
            f"the forward cannot be captured: {first_line(error)}",
            where=place,
            remedy="rewrite control flow that depends on the values of tensors, or grow the parts around it",
        ) from error


def with_sources(model: nn.Module) -> nn.Module:
    """A model whose attributes remember, as numbers, where they stand; it is changed in place."""
    memo: dict[int, Any] = {}
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            if not name.startswith("_"):
                module.__dict__[name] = _sourced(value, Attribute(path, (name,)), memo)
    return model


_PLAIN = (int, float)


def _sourced(value: Any, source: Attribute, memo: dict[int, Any]) -> Any:
    if type(value) in _PLAIN:
        return remembering(value, source=source)
    if type(value) in (list, dict) and id(value) in memo:
        return memo[id(value)]
    if type(value) in (list, tuple, dict) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        made = {key: _sourced(item, replace(source, keys=(*source.keys, Item(key))), memo) for key, item in items}
        memo[id(value)] = made if isinstance(value, dict) else type(value)(made.values())
        return memo[id(value)]
    if _is_settings(value):
        if id(value) not in memo:
            memo[id(value)] = twin = copy.copy(value)
            for name, item in vars(value).items():
                twin.__dict__[name] = _sourced(item, replace(source, keys=(*source.keys, name)), memo)
        return memo[id(value)]
    return value


@dataclass(frozen=True)
class Item:
    """A key of a list or dictionary, beside names of attributes."""

    key: Any

    def __repr__(self) -> str:
        return repr(self.key)


def _is_settings(value: Any) -> bool:
    """Whether an object is a record of settings, such as a model's config."""
    if isinstance(value, (nn.Module, torch.Tensor, type)) or callable(value) or not hasattr(value, "__dict__"):
        return False
    return is_dataclass(value) or type(value).__name__.lower().endswith(("config", "cfg", "args", "namespace"))


_WRITING = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)


def is_impure(node: fx.Node) -> bool:
    """Nodes that matter although nothing reads them: inputs, contexts, in-place writes, modules."""
    in_place = str(node.target).endswith("_") or node.target in _WRITING
    acting = node.target in contexts.STATEMENTS
    return node.op in ("placeholder", "output", "call_module") or acting or in_place


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
    return Captured(bare, graphs, inputs)
