"""Builds the intermediate model of a growth from its plan: new blocks and readouts are in, old weights are rescaled.

Nothing is wider yet. The channels of new dense layers count as width, so of these layers only the branch that adds to
their input is in. `fxgrow.proof.intermediate` has what a proof does with the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from fxgrow import guards
from fxgrow.capture import Captured, skeleton
from fxgrow.capture.contexts import STATEMENTS
from fxgrow.capture.shapes import propagate
from fxgrow.history import drawn_in_part
from fxgrow.modules.tensors import dotted, named_tensors, within, within_any
from fxgrow.planning.deepening import Deepening
from fxgrow.planning.plan import Plan
from fxgrow.proof.intermediate import Intermediate, Origin
from fxgrow.transforms.depth import insert_blocks, started, take_out
from fxgrow.transforms.folding import taken_out
from fxgrow.transforms.graph_edits import edit_graphs
from fxgrow.transforms.readouts import add_readouts


@dataclass(frozen=True)
class GrowthStep:
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
    def parts(self) -> tuple[GrowthStep, ...]:
        """The growths of the parts of a model that grows in parts."""
        return tuple(GrowthStep(plan, drawn_in_part(self.seed, path), self.folded) for path, plan in self.plan.parts)

    @property
    def only_widens(self) -> bool:
        """Whether the grown model can be put beside the original as it is: no new nodes, no rescaled weights."""
        rescaled = any(r.by and r.factor != 1.0 for r in self.plan.rescalings)
        return not (self.deepens or rescaled or self.folded or self.plan.parts or self.plan.readouts)


def intermediate_model(captured: Captured, original: nn.Module, growth: GrowthStep) -> Intermediate:
    """The intermediate model between an original and what one growth made of it.

    `captured` gives away its graphs, not copies of them: the names of new nodes depend on all that were ever there.
    """
    plan, depth = growth.plan, growth.plan.depth if growth.deepens else None
    structure, graphs = captured.model, captured.graphs
    if depth is not None or plan.readouts:
        structure = skeleton(structure)
    layers = insert_blocks(replace(captured, model=structure), depth) if depth is not None else []
    add_readouts(replace(captured, model=structure), plan.readouts)
    sources = named_tensors(original)
    result = Intermediate(
        graphs,
        original,
        structure,
        named_tensors(structure),
        library=captured.model,
        before=partial(_path_before, depth) if depth is not None else str,
        origins={**dict(_origins(sources, depth, growth.seed)), **{r.weight: Origin("") for r in plan.readouts}},
        sources=sources,
        statements=STATEMENTS,
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


def _path_before(depth: Deepening, path: str) -> str:
    """What a part is called in the original; for one of a new block, its twin there."""
    if not path:
        return path
    for block in depth.blocks:
        for new, twin in block.modules:
            if within(path, new):
                return twin + path.removeprefix(new)
    names = {children.path: dict(children.names) for children in depth.children}
    above = ""
    for name in path.split("."):
        before = names.get(above, {}).get(name, name)
        above = dotted(above, before)
    return above


def _origins(sources: Mapping[str, Tensor], depth: Deepening | None, seed: str) -> Iterator[tuple[str, Origin]]:
    moved = depth.new_names if depth is not None else {}
    for name in sources:
        yield moved.get(name, name), Origin(name)
    for new in depth.tensors if depth is not None else ():
        if new.start == "zero":
            yield new.name, Origin("")
        elif new.start == "shared" or new.is_copy:
            yield new.name, Origin(new.twin)
        else:
            yield new.name, Origin(new.twin, partial(started, tensor=new, seed=seed), bool(new.silent))


def _sizes(model: Intermediate, depth: Deepening) -> dict[str, dict[str, Any]]:
    """Sizes of new layers that read what the last old one gives, and nothing of each other yet."""
    number: Counter[str] = Counter()
    sizes: dict[str, dict[str, Any]] = {}
    for block in depth.blocks:
        if not any(region.passed for region in block.regions):
            continue
        number[block.run] += 1
        for edit in depth.attributes:
            if within_any(edit.module, tuple(new for new, _ in block.modules)):
                before = getattr(model.part(edit.module), edit.attribute)
                sizes.setdefault(edit.module, {})[edit.attribute] = _share(before, edit.value, number[block.run])
    return sizes


def _share(before: Any, after: Any, number: int) -> Any:
    """A size, or several, where the first of a number of equal steps has been taken."""
    if isinstance(before, tuple):
        return tuple(_share(a, b, number) for a, b in zip(before, after, strict=True))
    return before + (after - before) // number


def _rescale(model: Intermediate, plan: Plan) -> None:
    """Multiply old weights, and the statistics of batch norms that take it up."""
    for rescaling in plan.rescalings:
        if not rescaling.by or rescaling.factor == 1.0:
            continue
        factor = rescaling.factor
        _multiply(model, rescaling.name, factor)
        if rescaling.by.startswith("batch norm "):
            path = rescaling.by.removeprefix("batch norm ")
            for bias in _biases_before(model, path):
                _multiply(model, bias, factor)
            _multiply(model, f"{path}.running_mean", factor)
            _multiply(model, f"{path}.running_var", factor**2)
            norm: Any = model.part(path)
            model.attributes.setdefault(path, {})["eps"] = norm.eps * factor**2


def _multiply(model: Intermediate, name: str, factor: float) -> None:
    """Multiply a tensor under each of its names."""
    tensor = model.tensors.get(name)
    for alias, tied in model.tensors.items():
        if tied is tensor:
            model.factors[alias] = model.factors.get(alias, 1.0) * factor


def _biases_before(model: Intermediate, path: str) -> set[str]:
    """The biases of the layers that a batch norm reads."""
    biases = set()
    for node in (n for graph in model.graphs.values() for n in graph.nodes):
        if node.op != "call_module" or node.target != path:
            continue
        layer = node.args[0]
        bias = layer.args[2] if layer.op == "call_function" and len(layer.args) > 2 else layer.kwargs.get("bias")
        name = f"{layer.target}.bias" if layer.op == "call_module" else getattr(bias, "target", "")
        biases |= {name} & model.tensors.keys()
    return biases


def _fold(model: Intermediate) -> None:
    """Take the multipliers out of the graphs and into the weights after them."""
    seen: set[int] = set()
    for name, factor in taken_out(model.graphs, model.part).items():
        if id(model.tensors[name]) not in seen:
            seen.add(id(model.tensors[name]))
            _multiply(model, name, factor)
    model.rounded_names.update(alias for alias, tensor in model.tensors.items() if id(tensor) in seen)
