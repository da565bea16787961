"""Capture: a model's forward is recorded in eval and in train mode, and what one record settled is found."""

from __future__ import annotations

import copy
import functools
import inspect
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture import contexts
from fxgrow.capture.contexts import Settled
from fxgrow.capture.inputs import Inputs, example_inputs_for, fitted
from fxgrow.capture.modes import GrownGraphModule, copied, merge
from fxgrow.capture.numbers import Attribute, remembering
from fxgrow.capture.outputs import Form, taken_apart
from fxgrow.capture.probing import (
    BATCH,
    DTYPE,
    FEATURES,
    GRADIENTS,
    NUMBER,
    SIZE,
    Difference,
    changed,
    differences,
    other_dtype,
)
from fxgrow.capture.recorder import Recorder, Shapes
from fxgrow.capture.shapes import propagate
from fxgrow.capture.skeleton import skeleton, twin_of
from fxgrow.containers import flat_tensors
from fxgrow.devices import device_of
from fxgrow.errors import CaptureError, FxgrowError, UntraceableError, first_line
from fxgrow.opaque import CustomFunction


@dataclass(frozen=True)
class Captured:
    """A model's structure and graphs.

    model: the skeleton, every tensor on the meta device.
    graphs: {"both": graph} where train and eval agree, else {"eval": graph, "train": graph}; every node has
        `meta["value"]` (its value on the meta device) and `meta["module_path"]` (whose forward made it), and
        `meta["sources"]` where literals come from attributes.
    inputs: the arguments and keyword arguments used, on the meta device.
    form: the class of the output, where the graphs return a plain container in its place.
    settled: what the graphs cannot keep of the forward. alike: what else the forward was recorded with, in words, to
        find that it does the same. recording: what recorded it in eval mode.
    """

    model: nn.Module
    graphs: dict[str, fx.Graph]
    inputs: Inputs
    form: Form | None = None
    settled: tuple[Settled, ...] = ()
    alike: tuple[str, ...] = ()
    recording: Recording | None = field(default=None, repr=False, compare=False)
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
    alike: list[frozenset[str]] = []
    for mode, graph in graphs.items():
        run = "eval" if mode == "both" else mode
        notes, same = _probe(recording, run, graph, inputs)
        settled.extend(notes)
        alike.append(same)
        _free_numbers(recording, run, graph, inputs, settling)
    for path, function in recording.functions.items():
        bare.add_module(path, function)
    held = {str(node.target) for graph in graphs.values() for node in graph.nodes if node.op == "get_attr"}
    for path, constant in recording.constants.items():
        if path in held:
            setattr(bare, path, constant)
    for twin, original in zip(bare.modules(), model.modules(), strict=False):
        twin.training = original.training
    tried = tuple(_OTHER[feature] for feature in FEATURES if all(feature in same for same in alike))
    return Captured(bare, graphs, inputs, records["eval"].form, tuple(dict.fromkeys(settled)), tried, recording)


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
    """Records a model again and again, and keeps what its records share.

    shapes: of what its modules were given and gave in the first record.
    """

    def __init__(self, bare: nn.Module, device: torch.device, memory: dict[Any, Any] | None = None) -> None:
        self.bare = bare
        self.device = device
        self.functions: dict[str, CustomFunction] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.memory: dict[Any, Any] = memory if memory is not None else {}
        self.shapes: Shapes = {}
        self.graph = fx.Graph()
        """What the last run recorded, also where it failed."""

    def record(
        self,
        mode: str,
        inputs: Inputs,
        dtype: Callable[[torch.dtype], torch.dtype] | None = None,
        gradients: bool = True,
    ) -> _Record:
        """A run in a mode; `dtype`: to run in another precision. gradients: whether they are switched on."""
        with torch.set_grad_enabled(gradients):
            return self._record(mode, inputs, dtype)

    def _record(self, mode: str, inputs: Inputs, dtype: Callable[[torch.dtype], torch.dtype] | None) -> _Record:
        arguments = _bound(self.bare, inputs)
        runner = with_sources(twin_of(self.bare, dtype, share=dtype is None)).train(mode == "train")
        recorder = Recorder(runner, self.device, self.functions, self.constants, self.memory)
        self.graph = recorder.graph
        held = _state(runner)
        name = type(self.bare).__name__
        output, form = taken_apart(_run(recorder, arguments, len(inputs[0])))
        assigned = [key for key, value in _state(runner).items() if not _same(value, held.get(key, _NOTHING))]
        recorder.graph.output(recorder.result(output))
        self.shapes = self.shapes or recorder.shapes
        for path, kind, attribute in assigned:
            value = getattr(runner.get_submodule(path), attribute)
            lost = isinstance(value, _PLAIN) or (kind == "buffer" and not _made_of_sizes(recorder.nodes.get(id(value))))
            what = f"what the forward assigns to the {kind} {attribute}"
            recorder.settled.append(Settled(what, path or name, lost))
        if any(kind == "attribute" for _, kind, _ in assigned):
            difference = self._at_the_next_call(recorder, runner, inputs)
            if difference is not None:
                what = f"{difference.what} hangs on what an earlier call left in the model"
                recorder.settled.append(Settled(what, _place(difference, name), feature=contexts.STATE))
        compared = _arguments_behind(recorder.settling)
        recorder.graph.eliminate_dead_code(is_impure)
        return _Record(recorder.graph, form, recorder.settled, compared)

    def shapes_of(self, inputs: Inputs, run: Callable[..., Any]) -> Iterator[list[tuple[int, ...]]]:
        """The shapes of the tensors in each of the things that a run of a copy of the model, in eval mode, gives.

        run: takes the copy and then the inputs; it may fail.
        """
        runner = twin_of(self.bare, share=True).eval()
        recorder = Recorder(runner, self.device, {}, {}, self.memory)
        with torch.no_grad():
            results = recorder.record(_bound(self.bare, inputs), len(inputs[0]), functools.partial(run, runner))
        for result in results:
            yield [tuple(tensor.shape) for tensor in flat_tensors(result)]

    def _at_the_next_call(self, first: Recorder, runner: nn.Module, inputs: Inputs) -> Difference | None:
        """Where the next run of a model that has just been run parts from the first, if it does."""
        again = Recorder(runner, self.device, self.functions, self.constants, self.memory)
        try:
            output, _ = taken_apart(_run(again, _bound(self.bare, inputs), len(inputs[0])))
        except CaptureError:
            return Difference(None, "the course of the forward")
        again.graph.output(again.result(output))
        return next(differences(first.graph, again.graph), None)


_NOTHING = object()


def _state(model: nn.Module) -> dict[tuple[str, str, str], Any]:
    """The buffers and attributes of modules with a forward of their own, by path, kind and name."""
    state: dict[tuple[str, str, str], Any] = {}
    for path, module in model.named_modules():
        state.update({(path, "buffer", name): tensor for name, tensor in module._buffers.items()})
        if not type(module).__module__.startswith("torch.nn."):
            attributes = module.__dict__.items()
            state.update({(path, "attribute", n): _contents(v) for n, v in attributes if n not in _OF_MODULES})
    return state


def _contents(value: Any) -> Any:
    """A list or dictionary as it is now, whatever is put into it later."""
    return tuple(value) if type(value) is list else tuple(value.items()) if type(value) is dict else value


def _same(value: Any, other: Any) -> bool:
    if type(value) is tuple and type(other) is tuple:
        return len(value) == len(other) and all(map(_same, value, other))
    return value is other


_OF_MODULES = frozenset(nn.Module().__dict__)


def _made_of_sizes(node: fx.Node | None) -> bool:
    """Whether a tensor is the same whatever the values of inputs and weights, such as positions that are kept."""
    pending = [node] if node is not None else []
    seen: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node.op in ("placeholder", "get_attr"):
            return False
        sources = {s for s in node.all_input_nodes if isinstance(s.meta["value"], torch.Tensor)} - seen
        pending.extend(sources)
        seen |= sources
    return True


def _place(difference: Difference, name: str) -> str:
    node = difference.node
    return (node.meta.get("module_path") or node.name) if node is not None else name


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


def _probe(recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs) -> tuple[list[Settled], frozenset[str]]:
    """What a graph settled that hangs on the inputs it was recorded with, and the features that make no difference.

    The graph gets guards against inputs that do.
    """
    same: set[str] = set()

    def differing(features: frozenset[str]) -> Difference | None:
        """Where a record on other inputs parts from the graph, if it does; its absence proves nothing by itself."""
        other = changed(inputs, features)
        if other is None:
            return None
        dtype = other_dtype if DTYPE in other.features else None
        try:
            record = recording.record(mode, other.inputs, dtype, GRADIENTS not in other.features)
        except CaptureError:  # the model does not take such inputs either
            return _REFUSED
        difference = next(differences(graph, record.graph), None)
        if difference is None:
            same.update(other.features)
        return difference

    every = frozenset(FEATURES)
    if differing(every) is None:
        return [], frozenset(same)
    rest = every - {SIZE}
    pending = [frozenset({SIZE})] if differing(rest) is None else [frozenset({feature}) for feature in FEATURES]
    notes, guarded = [], []
    for features in pending:
        difference = differing(features)
        if difference is None or difference is _REFUSED:
            continue
        what = f"{difference.what} hangs on the {_MEANING[next(iter(features))]}"
        other = None if features & {DTYPE, GRADIENTS} else changed(inputs, features)
        where = _place(difference, type(recording.bare).__name__)
        taken = other.inputs if other is not None else None
        notes.append(Settled(what, where, feature=next(iter(features)), inputs=taken))
        guarded.append(features)
    for features in guarded:  # only now, since the graph is compared until here
        _guard(graph, features)
    return notes, frozenset(same)


_REFUSED = Difference(None, "it does not run")
_MEANING = {
    BATCH: "number of samples",
    SIZE: "size of the input",
    DTYPE: "precision of the input",
    GRADIENTS: "gradients being on",
}
_OTHER = {
    BATCH: "more samples",
    SIZE: "a larger size",
    DTYPE: "another precision",
    GRADIENTS: "gradients switched off",
}


def _guard(graph: fx.Graph, features: frozenset[str]) -> None:
    """Let a graph refuse what it was not recorded with and what makes a difference."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    tensors = [node for node in inputs if isinstance(node.meta["value"], torch.Tensor) and node.meta["value"].ndim]
    made: list[tuple[Any, tuple[Any, ...]]] = []
    for node in tensors:
        value, name = node.meta["value"], str(node.target)
        if DTYPE in features and value.dtype.is_floating_point:
            made.append((contexts.typed, (node, value.dtype, name)))
        elif features & {BATCH, SIZE}:
            axes = (0,) if BATCH in features else tuple(range(1, value.ndim))
            made.append((contexts.sized, (node, axes, tuple(int(value.shape[axis]) for axis in axes), name)))
    if GRADIENTS in features:
        made.append((contexts.graded, (True,)))
    for target, arguments in made:
        with graph.inserting_after(inputs[-1]):
            graph.call_function(target, arguments).meta.update(value=None, module_path="")


def _run(recorder: Recorder, arguments: dict[str, Any], positional: int) -> Any:
    """What the forward returns; its own errors become errors of capture that say where they arose."""
    try:
        with contexts.without_chance(recorder.root, lambda: recorder.again().record(arguments, positional)):
            return recorder.record(arguments, positional)
    except CaptureError:
        raise
    except FxgrowError as error:
        raise CaptureError(error.what, where=error.where, remedy=error.remedy) from error
    except Exception as error:
        place = getattr(error, "fxgrow_place", type(recorder.root).__name__)
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
        twin = copied(graph)
        for node in twin.nodes:
            node.meta.pop("sources", None)  # a graph reads no attributes
        training = mode == "train" or (mode == "both" and model.training)
        propagate(copy.copy(bare).train(training), twin, inputs)
        graphs[mode] = twin
    for part, original in zip(bare.modules(), model.modules(), strict=False):
        part.training = original.training
    return Captured(bare, graphs, inputs)
