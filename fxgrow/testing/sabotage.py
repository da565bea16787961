"""Injects faults into grown models, to check that no fault that changes outputs leaves them PROVED.

`python -m benchmarks.sabotage` runs it over the architectures of the tests: see docs/how-to/check-a-growth.md.
"""

from __future__ import annotations

import copy
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxgrow import guards
from fxgrow.capture import GrownGraphModule, recapture
from fxgrow.capture.inputs import recalled, with_channels
from fxgrow.growth.certifying import Comparison
from fxgrow.growth.intermediate import GrowthStep
from fxgrow.growth.replay import as_graph
from fxgrow.guarded_norms import PLAIN
from fxgrow.history import drawn_by, known_history
from fxgrow.measure.verification import random_inputs, relative_error
from fxgrow.modules.containers import flat_tensors, of_kind
from fxgrow.modules.devices import device_of, random_state_kept
from fxgrow.modules.switching import in_mode
from fxgrow.noise import WithoutNoise
from fxgrow.rules.calls import targets

CHANGED = 1e-9
"""Relative error from which on outputs of models in float64 count as changed."""

Undo = Callable[[], object]


@dataclass(frozen=True)
class Fault:
    """One change to a grown model: of what kind, where, and how to take it back."""

    kind: str
    where: str
    undo: Undo


@dataclass
class Tally:
    """How faults fared: found, harmless (outputs did not change), or missed."""

    found: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)
    missed: list[Fault] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.found.total() + self.harmless.total() + len(self.missed)

    def add(self, other: Tally) -> None:
        self.found.update(other.found)
        self.harmless.update(other.harmless)
        self.missed.extend(other.missed)


def sabotaged(original: nn.Module, module: nn.Module, count: int, seed: int = 0) -> Tally:
    """Inject `count` faults, one at a time, and certify each time; the models are left as they were.

    Faults are put into the graph of a module of its own class, over its tensors and parts.
    """
    history = known_history(module)
    step = history.steps[-1]
    captured = recapture(original, recalled(step.plan.inputs))
    grown = as_graph(module, original, step.plan, step.folded, captured)
    growth = GrowthStep(step.plan, drawn_by(step.seed, history.stage), step.folded)
    comparison = Comparison(captured, original, [growth])
    inputs = random_inputs(captured.inputs, seed + 1, device_of(original))
    wanted = [_outputs(original, inputs, training) for training in (False, True)]
    tally = Tally()
    for fault in faults(grown, count, seed):
        try:
            if not comparison.proves(grown):
                tally.found[fault.kind] += 1
            elif _changes(grown, with_channels(inputs, step.plan.channels), wanted):
                tally.missed.append(fault)
            else:
                tally.harmless[fault.kind] += 1
        finally:
            fault.undo()
    return tally


def _outputs(model: nn.Module, inputs: Any, training: bool) -> list[Tensor]:
    twin = in_mode(copy.deepcopy(model), training)
    args, kwargs = inputs
    with torch.no_grad(), WithoutNoise(), random_state_kept(device_of(twin), seed=0):
        return list(flat_tensors(twin(*args, **kwargs)))


def _changes(grown: nn.Module, inputs: Any, wanted: list[list[Tensor]]) -> bool:
    for training, before in zip((False, True), wanted, strict=True):
        try:
            after = _outputs(grown, inputs, training)
        except Exception:  # what corrupted code raises can be anything
            return True
        if len(after) != len(before):
            return True
        if any(relative_error(a, b) > CHANGED for a, b in zip(after, before, strict=True)):
            return True
    return False


def faults(grown: GrownGraphModule, count: int, seed: int) -> Iterator[Fault]:
    """Faults of every kind in turn, drawn at random; each must be undone before the next is asked for."""
    rng = random.Random(seed)
    kinds = list(_KINDS)
    yielded = tries = 0
    while yielded < count and tries < 50 * count:
        kind = kinds[tries % len(kinds)]
        tries += 1
        fault = _KINDS[kind](grown, rng)
        if fault is not None:
            yielded += 1
            yield Fault(kind, *fault)


Made = tuple[str, Undo] | None


def _tensors(grown: nn.Module) -> list[tuple[str, Tensor]]:
    tensors = [*grown.named_parameters(), *grown.named_buffers()]
    return [(name, t) for name, t in tensors if t.dtype.is_floating_point and t.numel()]


def _entry(
    grown: GrownGraphModule, rng: random.Random, wanted: Callable[[str, float], bool] = lambda n, v: True
) -> Made:
    """Another value for one entry of one tensor."""
    name, tensor = rng.choice(_tensors(grown))
    flat = tensor.detach().view(-1)
    for _ in range(20):
        place = rng.randrange(len(flat))
        before = flat[place].item()
        if wanted(name, before):
            flat[place] = before + rng.choice((-1, 1)) * max(0.05, abs(before)) * rng.uniform(0.1, 1)
            return f"{name}[{place}]", partial(flat.__setitem__, place, before)
    return None


def _two_rows(grown: GrownGraphModule, rng: random.Random) -> Made:
    """Two positions of an axis exchanged."""
    name, tensor = rng.choice(_tensors(grown))
    axis = rng.randrange(max(1, tensor.ndim))
    if not tensor.ndim or tensor.shape[axis] < 2:
        return None
    data = tensor.detach()
    order = list(range(tensor.shape[axis]))
    a, b = rng.sample(order, 2)
    order[a], order[b] = b, a
    before = data.clone()
    data.copy_(before.index_select(axis, torch.tensor(order)))
    return f"{name}: {a} and {b} of axis {axis}", lambda: data.copy_(before)


def _untied(grown: GrownGraphModule, rng: random.Random) -> Made:
    """A name of a shared tensor gets a tensor of its own; of one that is not shared, another's values."""
    name, tensor = rng.choice(_tensors(grown))
    path, _, leaf = name.rpartition(".")
    owner = grown.get_submodule(path)
    store = owner._parameters if leaf in owner._parameters else owner._buffers
    changed = tensor.detach().clone()
    changed.view(-1)[rng.randrange(changed.numel())] += 0.5
    store[leaf] = nn.Parameter(changed) if isinstance(tensor, nn.Parameter) else changed  # type: ignore[assignment]

    def undo() -> None:
        store[leaf] = tensor  # type: ignore[assignment]

    return f"{name} replaced", undo


_IGNORED = ("training", "call_super_init", "dump_patches", "T_destination", "momentum")


def _attribute(grown: GrownGraphModule, rng: random.Random) -> Made:
    """A number or flag among the attributes of a module."""
    called = targets(grown.graphs().values(), "call_module")
    path = rng.choice(sorted(called)) if called else ""
    if not path:
        return None
    module = grown.get_submodule(path)
    names = [
        k
        for k, v in module.__dict__.items()
        if not k.startswith("_") and k not in _IGNORED and isinstance(v, (bool, int, float, tuple, str))
    ]
    if not names:
        return None
    name = rng.choice(sorted(names))
    before = module.__dict__[name]
    after = _another(before, rng)
    if after is None:
        return None
    module.__dict__[name] = after
    return f"{path}.{name}: {before} -> {after}", lambda: module.__dict__.__setitem__(name, before)


def _another(value: Any, rng: random.Random) -> Any:
    """Another value of the kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 2))
    if isinstance(value, float):
        return value * rng.choice((0.5, 1.1, 2.0)) if value else 0.1
    if isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
        place = rng.randrange(len(value))
        return tuple(v + (k == place) for k, v in enumerate(value))
    return None


def _nodes(grown: GrownGraphModule, rng: random.Random) -> list[fx.Node]:
    graphs = list(grown.graphs().values())
    return list(rng.choice(graphs).nodes)


def _restoring(node: fx.Node) -> Undo:
    target, args, kwargs = node.target, node.args, node.kwargs

    def undo() -> None:
        node.target, node.args, node.kwargs = target, args, kwargs

    return undo


def _literal(grown: GrownGraphModule, rng: random.Random) -> Made:
    """A number written in the graph: a size, a scale, an axis, a range of old units."""
    nodes = [n for n in _nodes(grown, rng) if n.op.startswith("call") and _numbers(n)]
    if not nodes:
        return None
    node = rng.choice(nodes)
    place = rng.randrange(len(_numbers(node)))
    undo = _restoring(node)
    count = -1

    def replaced(value: Any) -> Any:
        nonlocal count
        if isinstance(value, (int, float)):
            count += 1
            return _another(value, rng) if count == place else value
        return value

    node.args, node.kwargs = (fx.node.map_aggregate(args, replaced) for args in (node.args, dict(node.kwargs)))  # type: ignore[assignment]
    return f"{node.name}: a number", undo


def _numbers(node: fx.Node) -> list[float]:
    return list(of_kind((node.args, node.kwargs), (int, float)))


def _edge(grown: GrownGraphModule, rng: random.Random) -> Made:
    """An operand exchanged for another tensor that is there by then."""
    nodes = _nodes(grown, rng)
    chosen = [k for k, n in enumerate(nodes) if n.all_input_nodes and k > 2]
    if not chosen:
        return None
    index = rng.choice(chosen)
    node = nodes[index]
    undo = _restoring(node)
    before = rng.choice(node.all_input_nodes)
    near = nodes[max(0, index - 12) : index]
    others = [n for n in near if n is not before and n.op != "get_attr"]
    if not others:
        return None
    after = rng.choice(others)
    node.replace_input_with(before, after)
    return f"{node.name}: {before} -> {after}", undo


def _skipped(grown: GrownGraphModule, rng: random.Random) -> Made:
    """An op left out: what reads it reads its operand."""
    nodes = [n for n in _nodes(grown, rng) if n.all_input_nodes and n.users]
    if not nodes:
        return None
    node = rng.choice(nodes)
    source = node.all_input_nodes[0]
    users = [(user, _restoring(user)) for user in node.users]
    for user, _ in users:
        user.replace_input_with(node, source)
    return f"{node.name} left out", lambda: [undo() for _, undo in users]


_Retarget = Callable[[tuple[Any, ...]], tuple[Any, tuple[Any, ...]]]

_GUARDS: dict[Any, _Retarget] = {
    guards.layer_norm: lambda a: (F.layer_norm, a[:5]),
    guards.rms_norm: lambda a: (F.rms_norm, a[:4]),
    guards.group_norm: lambda a: (F.group_norm, a[:5]),
    guards.normalize: lambda a: (F.normalize, a[:4]),
    guards.core: lambda a: (torch.clone, a[:1]),
}


def _guard(grown: GrownGraphModule, rng: random.Random) -> Made:
    """A guard dropped: the native op in its place."""
    norms = [(path, part) for path, part in grown.named_modules() if type(part) in PLAIN]
    count = sum(node.target in _GUARDS for node in _nodes(grown, rng))
    if rng.randrange(count + len(norms) or 1) >= len(norms):
        return _retargeted(grown, rng, _GUARDS, "dropped")
    path, norm = rng.choice(norms)
    guarded, norm.__class__ = type(norm), PLAIN[type(norm)]
    return f"{path} dropped", lambda: setattr(norm, "__class__", guarded)


def _retargeted(grown: GrownGraphModule, rng: random.Random, others: dict[Any, _Retarget], said: str) -> Made:
    """One node, of those whose target is in a table, calls what the table gives for its arguments."""
    nodes = [n for n in _nodes(grown, rng) if n.target in others]
    if not nodes:
        return None
    node = rng.choice(nodes)
    undo = _restoring(node)
    node.target, node.args = others[node.target](node.args)
    return f"{node.name} {said}", undo


_SWAPS: dict[Any, Any] = {
    F.relu: F.gelu,
    F.gelu: F.relu,
    F.silu: F.gelu,
    F.softmax: F.log_softmax,
    torch.tanh: torch.sin,
    torch.sigmoid: torch.tanh,
    torch.relu: torch.abs,
    operator.add: operator.sub,
    operator.iadd: operator.isub,
    operator.sub: operator.add,
    operator.mul: operator.add,
    operator.imul: operator.iadd,
    operator.truediv: operator.mul,
    torch.add: torch.sub,
    torch.matmul: torch.add,
    torch.cat: torch.stack,
    "softmax": "log_softmax",
    "mean": "sum",
    "sum": "mean",
    "transpose": "swapaxes",
    "sigmoid": "tanh",
}


def _function(grown: GrownGraphModule, rng: random.Random) -> Made:
    """Another function."""
    return _retargeted(grown, rng, {old: partial(_with, new) for old, new in _SWAPS.items()}, "calls another function")


def _with(target: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    return target, args


_ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.Identity, nn.Sigmoid)


def _activation(grown: GrownGraphModule, rng: random.Random) -> Made:
    """Another activation module, or another module of the same class called."""
    called = [n for n in _nodes(grown, rng) if n.op == "call_module"]
    if not called:
        return None
    node = rng.choice(called)
    path = str(node.target)
    module = grown.get_submodule(path)
    owner, _, leaf = path.rpartition(".")
    if not list(module.parameters()) and not list(module.buffers()) and not hasattr(module, "train_value"):
        parent = grown.get_submodule(owner)
        kind = rng.choice([k for k in _ACTIVATIONS if not isinstance(module, k)])
        parent._modules[leaf] = kind().train(module.training)
        return f"{path}: {kind.__name__}", lambda: parent._modules.__setitem__(leaf, module)
    others = [n for n in called if type(grown.get_submodule(str(n.target))) is type(module) and n.target != node.target]
    if not others:
        return None
    undo = _restoring(node)
    node.target = rng.choice(others).target
    return f"{node.name} calls {node.target}", undo


_KINDS: dict[str, Callable[[GrownGraphModule, random.Random], Made]] = {
    "an entry": _entry,
    "an entry that is zero": partial(_entry, wanted=lambda name, value: value == 0),
    "a bias or statistic": partial(_entry, wanted=lambda name, value: "running" in name or name.endswith("bias")),
    "two units exchanged": _two_rows,
    "a tensor replaced": _untied,
    "a module attribute": _attribute,
    "a literal": _literal,
    "an edge": _edge,
    "an op left out": _skipped,
    "a guard dropped": _guard,
    "another function": _function,
    "another module": _activation,
}
