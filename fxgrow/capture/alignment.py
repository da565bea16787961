"""Proof by capture: a module is recorded again, and its record is compared with the graph that it should compute.

Operations on tensors have to be the same, operand by operand; numbers have to be equal, however they were computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.capture.contexts import GUARDS, STATEMENTS, graded
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.modes import GrownGraphModule, copied
from fxgrow.capture.norms import spelled_out
from fxgrow.capture.probing import BATCH, SIZE, changed
from fxgrow.capture.recording import Recording, is_impure
from fxgrow.capture.shapes import OnShapes, default_of, propagate
from fxgrow.capture.skeleton import skeleton
from fxgrow.errors import CaptureError
from fxgrow.modules.containers import flat_tensors, holds_tensor
from fxgrow.modules.devices import device_of
from fxgrow.opaque import ByMode, CustomFunction
from fxgrow.rules.calls import name_of


@dataclass(frozen=True)
class Parting:
    """Where a module does something else than its graph, in words; node: the first of the graph that it does not do.

    numbers: where numbers of the graph are others, by mode, node and path, if the module does the same but for these;
    what each is (None: the graph computes it), and what the module has in its place; of both modes, where these have
    graphs of their own.
    """

    what: str
    node: str = ""
    numbers: tuple[tuple[str, str, tuple[Any, ...], Any, Any], ...] = ()

    def __str__(self) -> str:
        return self.what


def parting(
    module: nn.Module,
    graphs: GrownGraphModule,
    inputs: Inputs,
    recording: Recording | None = None,
    sizes: bool = True,
    spelled: Mapping[str, fx.Graph] | None = None,
) -> Parting | None:
    """Where a module does something else than a graph module of the same tensors; None where it does not.

    Both modes are compared on the inputs, eval mode also on more samples of a larger size, if the module takes them. A
    comparison is left out where the module asked for nothing that the mode or the size could change.

    recording: of the module, if one is at hand. sizes: whether other sizes of the inputs are compared. spelled: the
    graphs spelled out, if they are at hand.
    """
    recording = recording if recording is not None else Recording(skeleton(module), device_of(module))
    bare = skeleton(graphs)
    spelled = spelled if spelled is not None else spelled_out(graphs)
    larger = [
        varied.inputs for features in ({BATCH, SIZE}, {BATCH}) if (varied := changed(inputs, frozenset(features)))
    ]
    moded = _is_moded(graphs)
    by_size = _is_sized(_of_mode(spelled, "eval"))
    first: Parting | None = None
    for mode, tried in (("eval", [inputs]), ("train", [inputs]), ("eval", larger)):
        if (mode == "train" and not moded) or (tried is larger and not (sizes and by_size)):
            continue  # the record would be the same
        if first is not None and (tried is larger or not first.numbers or "train" not in graphs.graphs()):
            break
        for example in tried:
            try:
                record = recording.record(mode, example)
            except CaptureError as error:
                if example is inputs and first is None:
                    reached = _parting(recording.graph, recording, graphs, bare, spelled, mode)
                    return Parting(str(error), reached.node if reached is not None else "")
                continue
            if tried is not larger:
                moded, by_size = moded or record.by_mode, by_size or record.by_size
            try:
                different = _parting(record.graph, recording, graphs, bare, spelled, mode)
            except CaptureError:  # the graph does not hold for this size, or knows that it takes another course
                if example is inputs and first is None:
                    raise
                continue
            if different is not None and tried is larger:
                return different
            if different is not None:
                first = different if first is None else replace(first, numbers=(*first.numbers, *different.numbers))
            break
    return first


def _is_moded(graphs: GrownGraphModule) -> bool:
    """Whether a graph module computes something else in train mode, its layers aside."""
    return "both" not in graphs.graphs() or any(isinstance(part, ByMode) for part in graphs.modules())


def _is_sized(graph: fx.Graph) -> bool:
    """Whether a graph computes with numbers, which may be sizes."""
    calls = (node for node in graph.nodes if node.op in ("call_function", "call_method"))
    return any(node.target not in STATEMENTS and not holds_tensor(node.meta.get("value")) for node in calls)


def with_values(graphs: Mapping[str, fx.Graph], bare: nn.Module, mode: str, inputs: Inputs) -> fx.Graph:
    """The graph of a mode, with the values that it gives on these inputs; bare: what they run in, without data."""
    graph = copied(_of_mode(graphs, mode))
    propagate(bare.train(mode == "train"), graph, inputs)
    return graph


def _of_mode(graphs: Mapping[str, fx.Graph], mode: str) -> fx.Graph:
    return graphs[mode if mode in graphs else "both"]


def _parting(
    record: fx.Graph,
    recording: Recording,
    graphs: GrownGraphModule,
    bare: nn.Module,
    spelled: Mapping[str, fx.Graph],
    mode: str,
) -> Parting | None:
    expected, own = _of_mode(spelled, mode), recording.bare
    saved = {name for named in (own.named_parameters, own.named_buffers) for name, _ in named(remove_duplicate=False)}
    first = _Steps(own, saved, recording.constants, recording.functions)
    recorded = first.of(record)
    second = _ExpectedSteps(graphs, bare.train(mode == "train"), expected, first)
    steps = second.of(expected)
    own_steps, expected_steps = list(recorded.values()), list(steps.values())
    if own_steps == expected_steps or (_acting(recorded) == _acting(steps) and own_steps[-1] == expected_steps[-1]):
        return None
    done = set(own_steps)
    node = next((node for node, step in steps.items() if step not in done), None)
    if node is None:
        return Parting("it computes more than the graph does, or in another order")
    name = name_of(node)
    place = node.meta.get("module_path") or ("" if node.op == "call_module" else node.name)
    numbers = tuple(
        (mode if mode in graphs.graphs() else "both", node.name, path, value, own)
        for node, path, value, own in _other_numbers(list(recorded), list(steps), second)
    )
    return Parting(f"{name} at {place}" if place else name, node.name, numbers)


def _other_numbers(
    recorded: list[fx.Node], expected: list[fx.Node], steps: _Steps
) -> Iterator[tuple[fx.Node, tuple[Any, ...], int | float | None, int | float]]:
    """Numbers of a graph in place of which a record of the same calls has others: what literals are, and the others.

    steps: of the graph.
    """
    if [(node.op, name_of(node)) for node in recorded] != [(node.op, name_of(node)) for node in expected]:
        return

    def within(node: fx.Node, own: Any, wanted: Any, path: tuple[Any, ...]) -> Iterator[Any]:
        if isinstance(wanted, (tuple, list)) and isinstance(own, (tuple, list)) and len(own) == len(wanted):
            for place, pair in enumerate(zip(own, wanted, strict=True)):
                yield from within(node, *pair, (*path, place))
            return
        own = own.meta["value"] if isinstance(own, fx.Node) else own
        value = steps.value_of(wanted) if isinstance(wanted, fx.Node) else wanted
        if all(isinstance(number, (int, float)) for number in (own, value)) and own != value and value is not True:
            yield node, path, None if value is not wanted else wanted, own

    for own, node in zip(recorded, expected, strict=True):
        yield from within(node, own.args, node.args, ("args",))
        for name in node.kwargs.keys() & own.kwargs.keys():
            yield from within(node, own.kwargs[name], node.kwargs[name], ("kwargs", name))


def _acting(steps: dict[fx.Node, int]) -> list[int]:
    return [step for node, step in steps.items() if is_impure(node) and node.op not in ("placeholder", "output")]


class _Steps:
    """What each node that gives or writes tensors does, as a number that is the same for nodes that do the same."""

    def __init__(
        self,
        root: nn.Module,
        saved: set[str],
        constants: Mapping[str, Tensor] = MappingProxyType({}),
        functions: Mapping[str, CustomFunction] = MappingProxyType({}),
    ) -> None:
        self.root = root
        self.saved = saved
        self.constants = constants
        self.functions = functions
        self.known: dict[Any, int] = {}
        self.values: list[Any] = []
        self.made: dict[fx.Node, int] = {}
        self.names: dict[int, str] = {}
        self.paths = {id(part): path for path, part in root.named_modules()}  # the first of each part
        for named in (root.named_parameters, root.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                if name in saved:
                    self.names.setdefault(id(tensor), name)

    def of(self, graph: fx.Graph) -> dict[fx.Node, int]:
        """The steps of a graph, in order."""
        for node in graph.nodes:
            if node.target in GUARDS:
                if node.target is not graded:  # nothing is worked out with gradients
                    self.value_of(node)  # it may refuse
                continue
            key = (node.op, self._target(node), self._written(node.args), self._written(dict(node.kwargs)))
            if key not in self.known:
                if not self._counts(node):
                    continue
                self.known[key] = len(self.known)
                self.values.append(None if node.op == "output" else self.value_of(node))
            self.made[node] = self.known[key]
        return self.made

    def value_of(self, node: fx.Node) -> Any:
        """What a node gives on the meta device."""
        return node.meta["value"]

    def _counts(self, node: fx.Node) -> bool:
        if node.op == "output" or (node.op != "call_module" and is_impure(node)):
            return True
        return next(flat_tensors(self.value_of(node)), None) is not None  # else it is a number, by mode perhaps

    def _written(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return ("made", self.made[value]) if value in self.made else ("number", _number(self.value_of(value)))
        if isinstance(value, (tuple, list)):
            return tuple(map(self._written, value))
        if isinstance(value, dict):
            return tuple((key, self._written(item)) for key, item in value.items())
        if isinstance(value, slice):
            return "slice", *map(self._written, (value.start, value.stop, value.step))
        return "number", _number(value)

    def _target(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            value = self.constants.get(str(node.target))
            value = value if value is not None else _attribute(self.root, str(node.target))
            return self.names.get(id(value)) or (_digest(value) if isinstance(value, Tensor) else repr(value))
        if node.op == "call_module":
            part = self.functions.get(str(node.target)) or self.root.get_submodule(str(node.target))
            return part.function if isinstance(part, CustomFunction) else self.paths.get(id(part), str(node.target))
        return node.target


class _ExpectedSteps(_Steps):
    """The steps that a module should take: what they give is looked up in its record, else worked out.

    bare: the skeleton of the graph module, in the mode of the graph.
    """

    def __init__(self, graphs: GrownGraphModule, bare: nn.Module, expected: fx.Graph, recorded: _Steps) -> None:
        super().__init__(graphs, recorded.saved)
        self.known, self.values = recorded.known, recorded.values
        self.worked_out: dict[fx.Node, Any] = {}
        self.interpreter = OnShapes(bare, expected)

    def value_of(self, node: fx.Node) -> Any:
        if node in self.made:
            return self.values[self.made[node]]
        if node.op == "placeholder":
            return default_of(node)
        if node not in self.worked_out:
            self.interpreter.env.update({source: self.value_of(source) for source in node.all_input_nodes})
            with torch.device("meta"), torch.no_grad():
                self.worked_out[node] = self.interpreter.run_node(node)
        return self.worked_out[node]


def _number(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_number, value))
    if isinstance(value, torch.device):
        return "device"
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return type(value).__name__, value


def _digest(value: Tensor) -> Any:
    if value.is_meta:
        return tuple(value.shape)
    stored: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(stored).hexdigest()


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)
