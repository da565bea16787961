"""Two models side by side: a model as the checker sees it, and which of their nodes belong together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from fxgrow import guards
from fxgrow.proof.comparing import ABSENT

NORM_GUARDS = (guards.layer_norm, guards.rms_norm, guards.group_norm, guards.standardize, guards.normalize)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
_NORM_FUNCTIONS = (
    *(nn.functional.layer_norm, nn.functional.rms_norm, nn.functional.group_norm),
    *(nn.functional.batch_norm, nn.functional.normalize),
)


@dataclass(frozen=True)
class Model:
    """One of the two models: its graphs, its parts and its tensors.

    structure: finds what capture adds to the parts of the model (numbers that follow the mode, functions).
    statements: functions whose nodes compute nothing, but refuse arguments, enter contexts and leave them.
    """

    graphs: Mapping[str, fx.Graph]
    module: nn.Module
    structure: nn.Module
    tensors: Mapping[str, Tensor]
    statements: Collection[Any] = field(default=(), kw_only=True)

    def part(self, path: str) -> nn.Module:
        try:
            return self.module.get_submodule(path)
        except AttributeError:
            return self.structure.get_submodule(path)

    def tensor(self, name: str) -> Tensor | None:
        if name in self.tensors:
            return self.tensors[name]
        owner, _, leaf = name.rpartition(".")
        for root in (self.module, self.structure):
            try:
                attribute = getattr(root.get_submodule(owner), leaf)
            except AttributeError:
                continue
            return attribute if isinstance(attribute, Tensor) else None
        return None

    def plain_tensors(self) -> dict[str, Tensor]:
        """The tensors by name that its graphs read and no module has registered."""
        read = {str(n.target) for graph in self.graphs.values() for n in graph.nodes if n.op == "get_attr"}
        named = {name: self.tensor(name) for name in sorted(read - self.tensors.keys())}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def factor(self, name: str) -> float:
        """By how much a tensor was multiplied before growth in width."""
        return 1.0

    def rounded(self, name: str) -> bool:
        """Whether growth rounds every entry of a tensor."""
        return False


def partners(old: fx.Graph, new: fx.Graph, original: Model) -> dict[fx.Node, fx.Node]:
    """Which node of the original each grown node stands beside, by name, gain or order. Only a suggestion."""
    named = {node.name: node for node in old.nodes}
    paired: dict[fx.Node, fx.Node] = {}
    spare: list[fx.Node] = []
    for node in new.nodes:
        partner = named.get(node.name)
        if node.target in NORM_GUARDS and (partner is None or partner.target is not node.target):
            spare.append(node)
        elif partner is not None and (node.op != "get_attr" or node.target == partner.target):
            paired[node] = partner
    theirs = [node for node in old.nodes if _is_norm(node, original)]
    paired |= _in_order(spare, _left(theirs, paired), lambda node: _gain(node, original))
    mine = [node for node in new.nodes if node not in paired and node.target not in NORM_GUARDS]
    paired |= _in_order(mine, _left(old.nodes, paired), lambda node: (node.op, node.target))
    return {node: paired[node] for node in new.nodes if node in paired}


def _left(theirs: Iterable[fx.Node], paired: Mapping[fx.Node, fx.Node]) -> list[fx.Node]:
    """Nodes that are nobody's partner yet."""
    taken = set(paired.values())
    return [node for node in theirs if node not in taken]


def _in_order(
    mine: Iterable[fx.Node], theirs: Iterable[fx.Node], key: Callable[[fx.Node], Any]
) -> dict[fx.Node, fx.Node]:
    """Nodes beside others of the same key, the first beside the first."""
    waiting: dict[Any, deque[fx.Node]] = {}
    for node in theirs:
        waiting.setdefault(key(node), deque()).append(node)
    queues = ((node, waiting.get(key(node))) for node in mine)
    return {node: queue.popleft() for node, queue in queues if queue}


def _gain(node: fx.Node, original: Model) -> tuple[bool, str]:
    """Whether a norm, or a guard in its place, is one of weights, and the first parameter that it reads."""
    if node.op == "call_module":
        weight = getattr(original.part(str(node.target)), "weight", None)
        return False, f"{node.target}.weight" if weight is not None else ""
    read = (str(operand.target) for operand in node.all_input_nodes if operand.op == "get_attr")
    return node.target in (guards.standardize, nn.functional.batch_norm), next(read, "")


def _is_norm(node: fx.Node, original: Model) -> bool:
    if node.op == "call_module":
        return isinstance(original.part(str(node.target)), _NORMS)
    return node.target in (*_NORM_FUNCTIONS, *NORM_GUARDS)


def attribute_of(model: Model, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.part(owner) if owner else model.module, leaf, ABSENT)


def reads_shape(node: fx.Node) -> bool:
    """Whether a node asks one tensor for its shape or kind, which writing to it does not change."""
    if len(node.all_input_nodes) != 1 or not node.args or node.args[0] is not node.all_input_nodes[0]:
        return False
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.op == "call_method" and node.target in ("size", "dim", "numel", "ndimension")
