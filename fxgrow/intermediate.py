"""The model between an original and a grown one: new blocks and readouts are in, old weights are rescaled.

Nothing is wider yet; the channels of new dense layers count as width, so these layers are not in, but for what they
add to the channels that they are given.

A proof may name any model it likes as the one between, so long as both halves hold: the model between computes what
the original does (`unchanged.py`), and the grown model computes what the model between does (`checker.py`). This one
follows the plan. Its tensors are worked out one at a time, when they are looked at.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow import guards
from fxgrow.capture import Captured, skeleton
from fxgrow.capture.shapes import propagate
from fxgrow.planning.blocks import within_any
from fxgrow.planning.deepening import Deepening, NewTensor
from fxgrow.planning.plan import Plan
from fxgrow.proof.models import Model
from fxgrow.transforms.depth import insert_blocks, started, take_out
from fxgrow.transforms.folding import weights_after
from fxgrow.transforms.graph_edits import edit_graphs
from fxgrow.transforms.readouts import add_readouts
from fxgrow.transforms.width import named_tensors


@dataclass(frozen=True)
class Growth:
    """One growth, as far as a proof needs to know it.

    seed: of its new entries. folded: whether multipliers went into the weights afterwards.
    """

    plan: Plan
    seed: str
    folded: bool = False

    @property
    def deepens(self) -> bool:
        return self.plan.depth is not None and bool(self.plan.depth.blocks)

    @property
    def parts(self) -> tuple[Growth, ...]:
        """The growths of the parts of a model that grows in parts."""
        return tuple(Growth(plan, f"{self.seed}, {path}") for path, plan in self.plan.parts)

    @property
    def only_widens(self) -> bool:
        """Whether the grown model can be put beside the original as it is: no new nodes, no rescaled weights."""
        rescaled = any(r.by and r.factor != 1.0 for r in self.plan.rescalings)
        return not (self.deepens or rescaled or self.folded or self.plan.parts or self.plan.readouts)


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the model between comes from: the original's, or how a new block's starts.

    source: "" for a readout's, which is zero.
    """

    source: str
    start: NewTensor | None = None


@dataclass(frozen=True)
class Between(Model):
    """The model between. `tensors` has shapes only.

    captured: the original, as it was captured. factors: what tensors are multiplied by, beside their origin.
    attributes: of modules that are others than in the original or in what a new block repeats: eps of norms that take
    up a factor, sizes of new layers. rounded: tensors that growth multiplied more than once.
    """

    captured: Captured = field(kw_only=True)
    seed: str = field(kw_only=True)
    depth: Deepening | None = field(kw_only=True)
    origins: Mapping[str, Origin] = field(kw_only=True)
    sources: Mapping[str, Tensor] = field(kw_only=True)
    factors: dict[str, float] = field(kw_only=True, default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(kw_only=True, default_factory=dict)
    rounded_names: set[str] = field(kw_only=True, default_factory=set)

    def path_before(self, path: str) -> str:
        """What a part is called in the original; for one of a new block, its twin there."""
        if self.depth is None or not path:
            return path
        for block in self.depth.blocks:
            for new, twin in block.modules:
                if path == new or path.startswith(f"{new}."):
                    return twin + path.removeprefix(new)
        names = {children.path: dict(children.names) for children in self.depth.children}
        above = ""
        for name in path.split("."):
            before = names.get(above, {}).get(name, name)
            above = f"{above}.{before}" if above else before
        return above

    def part(self, path: str) -> nn.Module:
        before = self.path_before(path)
        for root, place in ((self.module, before), (self.captured.model, before), (self.structure, path)):
            try:
                found = root.get_submodule(place)
            except AttributeError:
                continue
            if path in self.attributes:
                found = copy.copy(found)
                found.__dict__.update(self.attributes[path])
            return found
        raise AttributeError(path)

    def tensor(self, name: str) -> Tensor | None:
        origin = self.origins.get(name)
        if origin is None:
            owner, dot, leaf = name.rpartition(".")
            root = Model(self.graphs, self.module, self.captured.model, self.sources)
            return root.tensor(self.path_before(owner) + dot + leaf)
        if not origin.source:
            return _zeros(self.tensors[name], next(iter(self.sources.values())).device)
        tensor = self.sources[origin.source].detach()
        if origin.start is not None and origin.start.start == "zero":
            tensor = _zeros(self.tensors[name], tensor.device)
        elif origin.start is not None and not origin.start.is_copy:
            tensor = started(tensor, origin.start, self.seed)
        factor = self.factor(name)
        return tensor if factor == 1.0 else tensor * factor

    def factor(self, name: str) -> float:
        return self.factors.get(name, 1.0)

    def rounded(self, name: str) -> bool:
        return name in self.rounded_names

    def is_zero(self, name: str) -> bool:
        """Whether every entry of a tensor is zero."""
        origin = self.origins.get(name)
        if origin is not None and (not origin.source or (origin.start and origin.start.start == "zero")):
            return True
        tensor = self.tensor(name)
        return tensor is not None and not bool(tensor.any())

    def silent_rows(self, name: str) -> Tensor | None:
        """Which entries of the first axis of a tensor are zero, where the plan says that some are."""
        origin = self.origins.get(name)
        if origin is None or origin.start is None or not origin.start.silent:
            return None
        tensor = self.tensor(name)
        assert tensor is not None
        return ~tensor.flatten(1).any(1) if tensor.ndim > 1 else tensor == 0

    def is_one(self, name: str) -> bool:
        """Whether every entry of a tensor is one."""
        tensor = self.tensor(name)
        return tensor is not None and bool((tensor == 1).all())


def _zeros(like: Tensor, device: torch.device) -> Tensor:
    return torch.zeros((), dtype=like.dtype, device=device).expand(like.shape)


def model_between(captured: Captured, original: nn.Module, growth: Growth) -> Between:
    """The model between an original and what one growth made of it.

    `captured` gives away its graphs, not copies of them: the names of new nodes depend on all that were ever there.
    """
    plan, depth = growth.plan, growth.plan.depth if growth.deepens else None
    structure, graphs = captured.model, captured.graphs
    if depth is not None or plan.readouts:
        structure = skeleton(structure)
    layers = insert_blocks(replace(captured, model=structure), depth) if depth is not None else []
    add_readouts(replace(captured, model=structure), plan.readouts)
    sources = named_tensors(original)
    result = Between(
        graphs,
        original,
        structure,
        named_tensors(structure),
        captured=captured,
        seed=growth.seed,
        depth=depth,
        origins={**dict(_origins(sources, depth)), **{r.weight: Origin("") for r in plan.readouts}},
        sources=sources,
    )
    result.attributes.update(_sizes(result, depth) if depth is not None else {})
    _rescale(result, plan)
    edit_graphs(graphs, [edit for edit in plan.nodes if edit.kind == "multiply"])
    for graph in graphs.values():
        for node in graph.nodes:
            if node.target is guards.multiplied and "value" not in node.meta:
                node.meta["value"] = node.args[0].meta["value"]
    if growth.folded:
        _fold(result)
    take_out(layers)
    if any(layer.passed for layer in layers):
        for graph in graphs.values():
            propagate(structure, graph, captured.inputs)
    return result


def _origins(sources: Mapping[str, Tensor], depth: Deepening | None) -> Iterator[tuple[str, Origin]]:
    moved = {old: new for new, old in depth.renamed} if depth is not None else {}
    for name in sources:
        yield moved.get(name, name), Origin(name)
    for new in depth.tensors if depth is not None else ():
        yield new.name, Origin(new.twin, None if new.start == "shared" else new)


def _sizes(between: Between, depth: Deepening) -> dict[str, dict[str, Any]]:
    """Sizes of new layers that read what the last old one gives, and nothing of each other yet."""
    number: Counter[str] = Counter()
    found: dict[str, dict[str, Any]] = {}
    for block in depth.blocks:
        if not any(region.passed for region in block.regions):
            continue
        number[block.run] += 1
        for edit in depth.attributes:
            if within_any(edit.module, tuple(new for new, _ in block.modules)):
                before = getattr(between.part(edit.module), edit.attribute)
                found.setdefault(edit.module, {})[edit.attribute] = _share(before, edit.value, number[block.run])
    return found


def _share(before: Any, after: Any, number: int) -> Any:
    """A size, or several, where the first of a number of equal steps has been taken."""
    if isinstance(before, tuple):
        return tuple(_share(a, b, number) for a, b in zip(before, after, strict=True))
    return before + (after - before) // number


def _rescale(between: Between, plan: Plan) -> None:
    """Multiply old weights, and the statistics of batch norms that take it up."""
    for rescaling in plan.rescalings:
        if not rescaling.by or rescaling.factor == 1.0:
            continue
        factor = rescaling.factor
        _multiply(between, rescaling.name, factor)
        if rescaling.by.startswith("batch norm "):
            path = rescaling.by.removeprefix("batch norm ")
            for bias in _biases_before(between, path):
                _multiply(between, bias, factor)
            _multiply(between, f"{path}.running_mean", factor)
            _multiply(between, f"{path}.running_var", factor**2)
            norm: Any = between.part(path)
            between.attributes.setdefault(path, {})["eps"] = norm.eps * factor**2


def _multiply(between: Between, name: str, factor: float) -> None:
    """Multiply a tensor under each of its names."""
    tensor = between.tensors.get(name)
    for alias, other in between.tensors.items():
        if other is tensor:
            between.factors[alias] = between.factors.get(alias, 1.0) * factor


def _biases_before(between: Between, path: str) -> set[str]:
    """The biases of the layers that a batch norm reads."""
    found = set()
    for node in (n for graph in between.graphs.values() for n in graph.nodes):
        if node.op != "call_module" or node.target != path:
            continue
        layer = node.args[0]
        bias = layer.args[2] if layer.op == "call_function" and len(layer.args) > 2 else layer.kwargs.get("bias")
        name = f"{layer.target}.bias" if layer.op == "call_module" else getattr(bias, "target", "")
        found |= {name} & between.tensors.keys()
    return found


def _fold(between: Between) -> None:
    """Take the multipliers out of the graphs and into the weights after them."""
    factors: dict[str, float] = {}
    for graph in between.graphs.values():
        for node in list(graph.nodes):
            if node.op == "call_function" and node.target is guards.multiplied:
                factors.update(dict.fromkeys(weights_after(node), node.args[1]))
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
    seen: set[int] = set()
    for name, factor in factors.items():
        if id(between.tensors[name]) not in seen:
            seen.add(id(between.tensors[name]))
            _multiply(between, name, factor)
    between.rounded_names.update(alias for alias, tensor in between.tensors.items() if id(tensor) in seen)


def reads_before(between: Between, node: fx.Node) -> str:
    """What a node of the model between calls or reads, by its name in the original."""
    if node.op not in ("call_module", "get_attr"):
        return str(node.target)
    if node.op == "call_module":
        return between.path_before(str(node.target))
    owner, dot, leaf = str(node.target).rpartition(".")
    return between.path_before(owner) + dot + leaf
