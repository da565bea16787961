"""Parameterizations: how old weights are rescaled at growth and how large new ones are, layer by layer.

| | input | hidden | output |
| --- | --- | --- | --- |
| which of its axes grow | those it makes | both | those it reads |
| old weights x, variance transfer | 1 | sqrt(C/C') | C/C' |
| new weights, of the old ones' size | 1 | sqrt(C/C') | C/C' |

for a layer that read C units and now reads C'. The function stays: a batch norm after the layer takes the factor into
its statistics and its eps; elsewhere the layer's input is multiplied by the inverse factor (docs/explanation/
variance-transfer.md derives the table).

"rms" keeps the scale of activations and *not* the function: the weights that read new units are drawn, not zero, and
the whole weight, old entries and new, is multiplied by sqrt(C/C').
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import fx, nn

from fxgrow.axes.layout import leaves
from fxgrow.errors import AmountError
from fxgrow.planning.analysis import Analysis
from fxgrow.planning.plan import UNBALANCED, AttributeEdit, Axis, NodeEdit, Plan, Rescaling, TensorGrowth
from fxgrow.planning.sizing import size_after
from fxgrow.rules.contraction import Contraction
from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.op import Op, Tensor
from fxgrow.rules.registry import kind_of

if TYPE_CHECKING:
    from fxgrow.axes.layout import Leaf

PARAMETERIZATIONS = ("standard", "mup", "variance-transfer", "rms")


HEARD = "nothing: what reads it is drawn"
"""How the units of a group stay invisible under "rms"."""


def parameterized(plan: Plan, analysis: Analysis, growth: Mapping[Leaf, int], parameterization: str) -> Plan:
    """The plan under a parameterization: sizes of new weights and, for some, rescaled old ones.

    Raises
    ------
    AmountError: "rms" is asked for with pairs or copies, which are there to keep the function.
    """
    if parameterization == "standard":
        return plan
    if parameterization == "rms" and plan.init != "zero":
        raise AmountError(
            f"parameterization='rms' does not keep the function, and init={plan.init!r} is there to keep it",
            remedy="use init='zero', of which what reads new units is drawn then",
        )
    changes = Changes({tensor.name: tensor for tensor in plan.tensors}, {op.node: op for op in analysis.ops})
    uses = _uses(analysis)
    for name, ops in uses.items():
        weight = analysis.parameters[name]
        layer = _layer(name, weight, ops, growth)
        if layer is None:
            continue
        if parameterization == "rms":
            if layer.kind != "input" and name in changes.tensors:
                changes.rescaled.append(changes.open(name, layer))
            continue
        changes.spread(name, layer.target)
        if parameterization == "variance-transfer" and layer.target != 1.0:
            changes.rescaled.append(_rescale(changes, analysis, name, ops, uses, layer))
    return replace(
        plan,
        groups=tuple(replace(g, how=HEARD) if g.name in changes.heard else g for g in plan.groups),
        tensors=tuple(changes.tensors.values()),
        nodes=(*plan.nodes, *changes.nodes),
        attributes=(*plan.attributes, *changes.attributes),
        parameterization=parameterization,
        rescalings=tuple(changes.rescaled),
    )


class Changes:
    """What a parameterization changes about a plan, as it is collected."""

    def __init__(self, tensors: dict[str, TensorGrowth], op_of: Mapping[fx.Node, Op]) -> None:
        self.tensors = tensors
        self.op_of = op_of
        self.nodes: list[NodeEdit] = []
        self.attributes: list[AttributeEdit] = []
        self.rescaled: list[Rescaling] = []
        self.heard: set[str] = set()

    def spread(self, name: str, spread: float) -> None:
        """Draw a weight's new entries `spread` times as large as its old ones are before growth."""
        if name in self.tensors:
            self.tensors[name] = replace(self.tensors[name], spread=spread)

    def open(self, name: str, layer: WeightRole) -> Rescaling:
        """Draw what a weight reads of new units, at the scale of the old entries, and bring all of it to sqrt(C/C')."""
        factor = layer.target if layer.kind == "hidden" else math.sqrt(layer.target)
        growth = self.tensors[name]
        self.heard.update(run.group for axis in growth.axes for run in axis.runs() if run.fill == "silence")
        axes = tuple(map(_heard, growth.axes))
        self.tensors[name] = replace(growth, axes=axes, draw="normal", scale=factor, spread=factor)
        return Rescaling(name, layer.kind, factor, UNBALANCED, "")

    def scale(self, tensor: Tensor | None, factor: float) -> None:
        """Multiply the old entries of a tensor."""
        if tensor is None or tensor.parameter is None:
            return
        axes = tuple(Axis("keep", axis.size, axis.size) for axis in tensor.axes)
        growth = self.tensors.get(tensor.parameter) or TensorGrowth(tensor.parameter, axes, "zeros")
        self.tensors[tensor.parameter] = replace(growth, scale=growth.scale * factor)


def _heard(axis: Axis) -> Axis:
    """The axis with what was silent drawn."""
    fill = "draw" if axis.fill == "silence" else axis.fill
    return replace(axis, fill=fill, parts=tuple(map(_heard, axis.parts)))


@dataclass(frozen=True)
class WeightRole:
    """A weight's place in the table."""

    kind: str
    target: float


def _uses(analysis: Analysis) -> dict[str, list[Op]]:
    """Every op that each parameter goes into, as an operand or as the module's own."""
    uses: dict[str, list[Op]] = {}
    for op in analysis.ops:
        for tensor in dict.fromkeys([*op.operands(), *op.module_parameters()]):
            if tensor.parameter is not None:
                uses.setdefault(tensor.parameter, []).append(op)
    return uses


def _layer(name: str, weight: Tensor, ops: Iterable[Op], growth: Mapping[Leaf, int]) -> WeightRole | None:
    """What kind of layer a weight makes; None where it is no weight of a contraction, or nothing of it grows."""
    op = next((op for op in ops if any(t is weight and role == "weight" for t, role in op.roles)), None)
    if op is None:
        return None
    sizes = dict(growth)
    reading = {axis for parameter, axis in op.law.reads(op) if parameter == name}
    into = math.prod(size_after(weight.axes[k], sizes) / weight.axes[k].size for k in reading)
    making = [axis for k, axis in enumerate(weight.axes) if k not in reading]
    if all(size_after(axis, sizes) == axis.size for axis in weight.axes):
        return None
    if into == 1:
        return WeightRole("input", 1.0)
    if all(leaf.fixed for axis in making for leaf in leaves(axis)):
        return WeightRole("output", 1 / into)
    return WeightRole("hidden", math.sqrt(1 / into))


def _rescale(
    changes: Changes, analysis: Analysis, name: str, ops: list[Op], uses: Mapping[str, list[Op]], layer: WeightRole
) -> Rescaling:
    """Rescale a weight's old entries and make up for it, or say why not."""
    weight, factor = analysis.parameters[name], layer.target
    stranger = next((op for op in ops if not _is_plain_layer(op, weight)), None)
    if stranger is not None:
        return Rescaling(name, layer.kind, 1.0, "", f"it goes into {stranger.name} (at {stranger.place})")
    absorbing = [_batch_norm_after(op, changes.op_of, len(analysis.graphs), uses) for op in ops]
    graphs = {id(op.node.graph) for op in ops}
    changes.scale(weight, factor)
    if all(norm is not None for norm in absorbing) and len(graphs) == len(ops):
        norm = absorbing[0]
        assert norm is not None
        for tensor in (ops[0].data["bias"], norm.parameter("running_mean")):
            changes.scale(tensor, factor)
        changes.scale(norm.parameter("running_var"), factor**2)
        path = str(norm.node.target)
        changes.attributes.append(AttributeEdit(path, "eps", norm.module.eps * factor**2))
        return Rescaling(name, layer.kind, factor, f"batch norm {path}", "")
    changes.spread(name, factor * layer.target)
    modes = {id(graph): mode for mode, graph in analysis.graphs.items()}
    for op in ops:
        changes.nodes.append(NodeEdit(modes[id(op.node.graph)], op.node.name, "multiply", value=1 / factor))
    return Rescaling(name, layer.kind, factor, "multiplier", "")


def _is_plain_layer(op: Op, weight: Tensor) -> bool:
    """Whether an op is one of torch's linear or convolution layers with this as its weight: linear in it."""
    if not isinstance(op.law, Contraction) or len(op.data["operands"]) != 2 or op.data["operands"][1] is not weight:
        return False
    kind = kind_of(op.module) if op.module is not None else type(None)
    methods = [getattr(kind, method, None) for method in ("forward", "_conv_forward")]
    plain = op.module is None or all(m is None or m.__module__.startswith("torch.nn.modules.") for m in methods)
    return plain and len(op.node.args) > 0


def _batch_norm_after(op: Op, op_of: Mapping[fx.Node, Op], graphs: int, uses: Mapping[str, list[Op]]) -> Op | None:
    """The batch norm that alone reads an op's output, if it can take a factor into its statistics."""
    users = list(op.node.users)
    reader = op_of.get(users[0]) if len(users) == 1 else None
    if reader is None or not isinstance(reader.law, BatchNorm) or not isinstance(reader.module, nn.Module):
        return None
    own = [reader.parameter(name) for name in ("running_mean", "running_var", "weight", "bias")]
    shared = [t for t in (*own, op.data["bias"]) if t is not None and t.parameter is not None]
    once = all(len(uses.get(str(t.parameter), ())) <= graphs for t in shared)
    channels = op.output is not None and reader.tensor() is op.output
    return reader if once and channels and hasattr(reader.module, "eps") and reader.written("eps") is None else None
