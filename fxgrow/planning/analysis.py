"""Inference of layouts: every node of every graph is read once, in order, by its law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import fx, nn

from fxgrow.axes.layout import Leaf, Reason, is_fixed, leaves
from fxgrow.axes.unify import Unifier
from fxgrow.modules.containers import has_fractions, of_kind
from fxgrow.modules.tensors import CONSTANT, named_tensors, plain_tensor, prefixes
from fxgrow.rules.calls import targets
from fxgrow.rules.law import Law
from fxgrow.rules.op import Op, Tensor, Tree, constants, tensors
from fxgrow.rules.registry import law_of_call, why_unknown

_UNKNOWN = Law()


class _Unknown(Law):
    """The law of what there is none of, and why."""

    def __init__(self, why: str) -> None:
        self.why_held = why


OUTPUT = "it is an output of the model"
STATE = "it is an output that the model takes back at its next call"

OPEN = "open"
"""The entry of an input's or output's meta with the axes that are free to grow: which tensor, and which of its axes."""

GIVEN_BACK = "given back"
"""The entry of an output's meta with the numbers of its tensors that the model takes back at its next call."""

HELD = "held"
"""The entry of a node's meta with the reasons why what it reads stays; more than one: its module's parameters too."""

_STAYS = "fxgrow_stays"
"""The attribute of a tensor that stays whatever is planned: why, and which of its axes."""


@dataclass
class Analysis:
    """The ops of all graphs with their layouts, over one set of parameters.

    tied: axes of parameters that read units which are free to grow and which nothing else makes: the same weight does.
    """

    model: nn.Module
    graphs: Mapping[str, fx.Graph]
    unifier: Unifier
    ops: list[Op] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    trees: dict[fx.Node, Tree] = field(default_factory=dict)
    learnable: dict[str, torch.Tensor] = field(default_factory=dict)
    tied: frozenset[tuple[str, int]] = frozenset()

    @cached_property
    def unread(self) -> set[Leaf]:
        """The dimensions of parameters that no graph reads."""
        graphs = self.graphs.values()
        reads = targets(graphs, "get_attr") | targets(graphs, "call_module")
        read = {first for name, first in self.aliases.items() if not reads.isdisjoint(prefixes(name))}
        return {leaf for name, tensor in self.parameters.items() if name not in read for leaf in tensor.leaves()}


def analyse(model: nn.Module, graphs: Mapping[str, fx.Graph]) -> Analysis:
    """Infer the layout of every tensor; what has no rule or contradicts itself is fixed, with the reason."""
    analysis = Analysis(model, graphs, Unifier())
    _find_parameters(analysis)
    for graph in graphs.values():
        for node in graph.nodes:
            analysis.trees[node] = _visit(analysis, node)
    for tensor in (*analysis.parameters.values(), *tensors(list(analysis.trees.values()))):
        tensor.settle()
    analysis.tied = frozenset(_tied(analysis))
    return analysis


def reading_places(analysis: Analysis) -> set[tuple[str, int]]:
    """The axes of parameters that read units."""
    return {place for op in analysis.ops for place in op.law.reads(op)}


def _tied(analysis: Analysis) -> Iterator[tuple[str, int]]:
    """As `Analysis.tied`."""
    reading = reading_places(analysis)
    inputs = [tree for node, tree in analysis.trees.items() if node.op == "placeholder"]
    seen = {leaf for tensor in tensors(inputs) for leaf in tensor.leaves()}
    for name, tensor in analysis.parameters.items():
        seen.update(leaf for k, axis in enumerate(tensor.axes) if (name, k) not in reading for leaf in leaves(axis))
    for name, axis in reading:
        if any(not leaf.fixed and leaf not in seen for leaf in leaves(analysis.parameters[name].axes[axis])):
            yield name, axis


def why_unread(analysis: Analysis, leaf: Leaf, guarded: bool) -> Reason:
    """Why nothing would read the new units of a dimension; guarded: its statistics are taken of old units alone."""
    if leaf in analysis.unread:
        return Reason("no forward reads it")
    over = (op for op in analysis.ops for layout in op.law.statistics(op) if leaf in leaves(layout))
    op = next(over, None) if guarded else None
    if op is None:
        return Reason("nothing would read its new units")
    return Reason(f"nothing but {op.name} would read its new units, and its result has to stay", op.place)


def hold(tensor: torch.Tensor, why: str, axes: Sequence[int] | None = None) -> None:
    """Let a tensor of a captured model, or some of its axes, stay as it is, whatever is planned."""
    setattr(tensor, _STAYS, (why, range(tensor.ndim) if axes is None else axes))


def _find_parameters(analysis: Analysis) -> None:
    first: dict[int, str] = {}
    for name, tensor in {**named_tensors(analysis.model), **_plain_tensors(analysis)}.items():
        canonical = first.setdefault(id(tensor), name)
        analysis.aliases[name] = canonical
        analysis.learnable[name] = tensor
        if canonical != name:
            continue
        why, stay = getattr(tensor, _STAYS, ("", ()))
        if has_fractions(tensor) or stay:
            empty, held = Reason("it has no units", name, quiet=True), Reason(why, name)
            free = [analysis.unifier.fresh(size) if size else Leaf(0, reason=empty) for size in tensor.shape]
            axes = tuple(Leaf(leaf.size, reason=held) if axis in stay else leaf for axis, leaf in enumerate(free))
        else:
            kind = str(tensor.dtype).removeprefix("torch.")
            whole = Reason(f"growth has no new entries for a tensor of {kind}", name)
            axes = tuple(Leaf(size, reason=whole) for size in tensor.shape)
        analysis.parameters[name] = Tensor(axes, parameter=name, learns=isinstance(tensor, nn.Parameter))


def _plain_tensors(analysis: Analysis) -> dict[str, torch.Tensor]:
    """The tensors that forwards read from attributes without their being registered, as precise as the weights."""
    read = dict.fromkeys(str(n.target) for graph in analysis.graphs.values() for n in graph.nodes if n.op == "get_attr")
    held = {name: plain_tensor(analysis.model, name) for name in read if not name.startswith(CONSTANT)}
    precisions = {weight.dtype.to_real() for weight in nn.Module.parameters(analysis.model)}
    tensors = {name: t for name, t in held.items() if t is not None and not t.requires_grad}
    return {name: t for name, t in tensors.items() if has_fractions(t) and t.dtype.to_real() in precisions}


def _visit(analysis: Analysis, node: fx.Node) -> Tree:
    unifier = analysis.unifier
    place = node.meta.get("module_path") or node.name

    def parameter(name: str) -> Tensor | None:
        return analysis.parameters.get(analysis.aliases.get(name, ""))

    if node.op == "get_attr":
        why = "it is a plain tensor of another precision than the weights; as a buffer (register_buffer) it would grow"
        why = "it is a constant" if str(node.target).startswith(CONSTANT) else why
        return parameter(str(node.target)) or constants(node.meta["value"], Reason(why, place))
    if node.op == "placeholder":
        tree = constants(node.meta["value"], Reason("it is an input of the model", place, quiet=True))
        for number, tensor in enumerate(tensors(tree)):
            free = {axis for which, axis in node.meta.get(OPEN, ()) if which == number}
            sizes = enumerate(tensor.axes)
            tensor.axes = tuple(unifier.fresh(axis.size) if k in free else axis for k, axis in sizes)
        return tree
    if node.op == "output":
        for number, tensor in enumerate(_put_out(analysis, node)):
            state = number in node.meta.get(GIVEN_BACK, ())
            reason = Reason(STATE, "output") if state else Reason(OUTPUT, quiet=True)
            for place, axis in enumerate(tensor.axes):
                if (number, place) not in node.meta.get(OPEN, ()):
                    unifier.fix(axis, reason)
        return None
    module = module_of(analysis.model, node)
    law = law_of_call(node, module)
    op = Op(node, law or _Unknown(why_unknown(module)), unifier, module, analysis.trees.__getitem__, parameter)
    unifier.reason = Reason(op.name, op.place)
    for reason in node.meta.get(HELD, ())[:1]:
        for tensor in (*op.operands(), *(op.module_parameters() if len(node.meta[HELD]) > 1 else ())):
            unifier.fix(tensor.axes, reason)
    if law is None and not any(True for _ in tensors(op.constants(node.meta["value"]))):
        return None  # numbers, shapes, flags: nothing that has axes
    op.output = _relate(op)
    if any(tensor.op is op for tensor in tensors(op.output)):
        analysis.ops.append(op)
    return op.output if node.meta["value"] is not None else None  # what is written to has no value of its own


def outputs_of(analysis: Analysis, graph: fx.Graph) -> list[Tensor]:
    """The tensors that a graph puts out, in order."""
    return list(_put_out(analysis, graph.output_node()))


def roles_of(analysis: Analysis) -> dict[str, str]:
    """What parameters and buffers are for, by name: weight, gain, bias, mean, variance."""
    roles: dict[str, str] = {}
    for op in analysis.ops:
        for tensor, role in op.roles:
            if tensor.parameter is not None:
                roles.setdefault(tensor.parameter, role)
    return roles


def factors_of(analysis: Analysis) -> set[str]:
    """Parameters and buffers that something is multiplied by or bounded by: zeros would silence new units for good."""
    factors: set[str] = set()
    for op in analysis.ops:
        adds = op.law.family != "pointwise" or op.data.get("kind", "other") in ("add", "linear")
        if op.law.family == "contraction" or (not adds and len(op.operands()) > 1):
            pending = op.operands()
            while pending:
                tensor = pending.pop()
                if tensor.parameter is not None:
                    factors.add(tensor.parameter)
                elif tensor.op is not None and _hands_on(tensor.op):
                    pending.extend(tensor.op.operands())
    return factors


def _hands_on(op: Op) -> bool:
    """Whether an op moves entries, or is a function of the entries of one tensor."""
    return op.law.family == "shape" or (op.law.family == "pointwise" and len(op.operands()) == 1)


def law_of_node(model: nn.Module, node: fx.Node) -> Law | None:
    """The law of what a node of a model's graph calls, if it calls anything and there is one."""
    return law_of_call(node, module_of(model, node))


def module_of(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _relate(op: Op) -> Tree:
    axes = [axis for tensor in (*op.operands(), *op.module_parameters()) for axis in tensor.axes]
    if axes and all(map(is_fixed, axes)) and not op.law.stretches:
        op.law = _UNKNOWN  # nothing here can grow, and what this meets stays for the same reason
        for path, number in op.number_paths():
            if type(number.meta["value"]) in (int, float):
                op.pin(path)
        reasons = (leaf.reason for axis in axes for leaf in leaves(axis))
        return op.constants(op.value, next((why for why in reasons if why is not None and not why.quiet), None))
    try:
        return op.law.relate(op)
    except NotImplementedError as reason:
        op.law = _UNKNOWN
        op.fix_operands(str(reason))
        return op.constants(op.value)


def _put_out(analysis: Analysis, output: fx.Node) -> Iterator[Tensor]:
    return (tensor for node in of_kind(output.args, fx.Node) for tensor in tensors(analysis.trees[node]))
