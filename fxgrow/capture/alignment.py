"""Proof by capture: a module is recorded again, and its record is compared with the graph that it should compute.

Operations on tensors have to be the same, operand by operand; numbers have to be equal, however they were computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.capture.capturing import Recording, is_impure
from fxgrow.capture.contexts import settled, sized
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.modes import GrownGraphModule
from fxgrow.capture.opaque import CustomFunction
from fxgrow.capture.probing import BATCH, SIZE, changed
from fxgrow.capture.shapes import propagate
from fxgrow.capture.skeleton import skeleton
from fxgrow.containers import flat_tensors
from fxgrow.devices import device_of
from fxgrow.errors import CaptureError, SettledError


@dataclass(frozen=True)
class Parting:
    """Where a module does something else than its graph, in words; node: the first of the graph that it does not do."""

    what: str
    node: str = ""

    def __str__(self) -> str:
        return self.what


def parting(module: nn.Module, graphs: GrownGraphModule, inputs: Inputs) -> Parting | None:
    """Where a module does something else than a graph module of the same tensors; None where it does not.

    Both modes are compared on the inputs, and eval mode on more samples of a larger size, if the module takes them.
    """
    recording = Recording(skeleton(module), device_of(module))
    bare = skeleton(graphs)
    larger = [other.inputs for features in ({BATCH, SIZE}, {BATCH}) if (other := changed(inputs, frozenset(features)))]
    for mode, tried in (("eval", [inputs]), ("train", [inputs]), ("eval", larger)):
        for given in tried:
            try:
                record = recording.record(mode, given)
            except CaptureError as error:
                if given is inputs:
                    reached = _parting(recording.graph, recording, with_values(graphs, bare, mode, given), graphs)
                    return Parting(str(error), reached.node if reached is not None else "")
                continue
            try:
                expected = with_values(graphs, bare, mode, given)
            except SettledError:  # the graph knows that another size takes another course
                continue
            different = _parting(record.graph, recording, expected, graphs)
            if different is not None:
                return different
            break
    return None


def with_values(graphs: GrownGraphModule, bare: nn.Module, mode: str, inputs: Inputs) -> fx.Graph:
    """The graph of a mode, with the values that it gives on these inputs."""
    made = fx.Graph()
    renamed: dict[fx.Node, fx.Node] = {}
    by_mode = graphs.graphs()
    made.output(made.graph_copy(by_mode.get(mode, by_mode.get("both")), renamed))  # type: ignore[arg-type]
    for old, new in renamed.items():
        new.name = old.name
        new.meta = {"module_path": old.meta.get("module_path", "")}
    propagate(bare.train(mode == "train"), made, inputs)
    return made


def _parting(record: fx.Graph, recording: Recording, expected: fx.Graph, root: nn.Module) -> Parting | None:
    known: dict[Any, int] = {}
    bare = recording.bare
    saved = {name for named in (bare.named_parameters, bare.named_buffers) for name, _ in named(remove_duplicate=False)}
    mine = dict(_steps(record, bare, saved, recording.constants, recording.functions, known))
    steps = list(_steps(expected, root, saved, {}, {}, known))
    theirs = [step for _, step in steps]
    if list(mine.values()) == theirs or (_acting(mine) == _acting(dict(steps)) and _last(mine) == theirs[-1]):
        return None
    there = set(mine.values())
    node = next((node for node, step in steps if step not in there), None)
    if node is None:
        return Parting("it computes more than the graph does, or in another order")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    place = node.meta.get("module_path") or ("" if node.op == "call_module" else node.name)
    return Parting(f"{name} at {place}" if place else str(name), node.name)


def _acting(steps: dict[fx.Node, int]) -> list[int]:
    return [step for node, step in steps.items() if is_impure(node) and node.op not in ("placeholder", "output")]


def _last(steps: dict[fx.Node, int]) -> int:
    return list(steps.values())[-1]


def _steps(
    graph: fx.Graph,
    root: nn.Module,
    saved: set[str],
    constants: dict[str, Tensor],
    functions: dict[str, CustomFunction],
    known: dict[Any, int],
) -> Iterator[tuple[fx.Node, int]]:
    """What each node that gives or writes tensors does, as a number that is the same for nodes that do the same."""
    made: dict[fx.Node, int] = {}
    names: dict[int, str] = {}
    for named in (root.named_parameters, root.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            if name in saved:
                names.setdefault(id(tensor), name)

    def written(value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value in made:
                return "made", made[value]
            return "number", _number(value.meta["value"])
        if isinstance(value, (tuple, list)):
            return tuple(map(written, value))
        if isinstance(value, dict):
            return tuple((key, written(item)) for key, item in value.items())
        if isinstance(value, slice):
            return "slice", written(value.start), written(value.stop), written(value.step)
        return "number", _number(value)

    def target(node: fx.Node) -> Any:
        if node.op == "get_attr":
            held = constants.get(str(node.target))
            held = held if held is not None else _attribute(root, str(node.target))
            return names.get(id(held)) or (_digest(held) if isinstance(held, Tensor) else repr(held))
        if node.op == "call_module":
            part = functions.get(str(node.target)) or root.get_submodule(str(node.target))
            return part.function if isinstance(part, CustomFunction) else str(node.target)
        return node.target

    for node in graph.nodes:
        if node.target in (settled, sized):
            continue  # a graph refuses what it has not been recorded with
        value = node.meta.get("value")
        if node.op == "output" or next(flat_tensors(value), None) is not None or is_impure(node):
            if node.op == "call_module" and next(flat_tensors(value), None) is None:
                continue  # a number by mode
            key = (node.op, target(node), written(node.args), written(dict(node.kwargs)))
            made[node] = known.setdefault(key, len(known))
            yield node, made[node]


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
