"""Parts of a graph: which part of the model a node belongs to, which nodes every path passes, calls that are apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor, fx

from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.tensors import within

Item = TypeVar("Item")


class Dominance:
    """Which node every way from the inputs to another one passes, numbers aside."""

    def __init__(self, graph: fx.Graph) -> None:
        import networkx as nx

        source = "inputs"
        flow: nx.DiGraph = nx.DiGraph()
        flow.add_node(source)
        for node in graph.nodes:
            if node.op == "placeholder" and isinstance(node.meta["value"], Tensor):
                flow.add_edge(source, node)
            flow.add_edges_from((up, node) for up in node.all_input_nodes if holds_tensor(up.meta["value"]))
        flow = nx.DiGraph(flow.subgraph({source, *nx.descendants(flow, source)}))
        above = nx.immediate_dominators(flow, source)
        tree: nx.DiGraph = nx.DiGraph((up, node) for node, up in above.items() if up not in (None, node))
        tree.add_node(source)
        self.first: dict[Any, int] = {}
        self.last: dict[Any, int] = {}
        for _, node, direction in nx.dfs_labeled_edges(tree, source):
            if direction == "forward":
                self.first[node] = len(self.first)
            elif direction == "reverse":
                self.last[node] = len(self.first)

    def dominates(self, above: fx.Node, below: fx.Node) -> bool:
        if above is below:
            return True
        if above not in self.first or below not in self.first:
            return False
        return self.first[above] <= self.first[below] < self.last[above]


def calls(nodes: list[fx.Node]) -> list[list[fx.Node]]:
    """The nodes of a part for each time it is called, where these are apart and alike; else all of them."""
    import networkx as nx

    called = Counter(str(node.target) for node in nodes if node.op == "call_module")
    if not called or max(called.values()) < 2:
        return [nodes]
    flow: nx.Graph = nx.Graph()
    inside = set(nodes)
    flow.add_nodes_from(nodes)
    flow.add_edges_from((node, source) for node in nodes for source in node.all_input_nodes if source in inside)
    apart = [[node for node in nodes if node in part] for part in nx.connected_components(flow)]
    kinds = {tuple(str(node.target) for node in part) for part in apart}
    return apart if len(kinds) == 1 else [nodes]


def home(node: fx.Node) -> str:
    """The part of the model that a node belongs to: the module it calls, if its caller holds that, or its caller."""
    caller = str(node.meta.get("module_path", ""))
    target = str(node.target)
    return target if node.op == "call_module" and (not caller or within(target, caller)) else caller


def stretches(items: Iterable[Item], goes_on: Callable[[Item, Item], bool]) -> Iterator[list[Item]]:
    """Items in order, cut wherever one does not go on from the one before."""
    stretch: list[Item] = []
    for item in items:
        if stretch and not goes_on(stretch[-1], item):
            yield stretch
            stretch = []
        stretch.append(item)
    if stretch:
        yield stretch


def period(signatures: list[Any]) -> int:
    """After how many units a pattern of signatures starts again.

    >>> period(["a", "a", "a"]), period(["w", "s"]), period(["w", "s", "w", "s"]), period(["a", "b", "b"])
    (1, 2, 2, 1)
    """
    for length in range(1, len(signatures) // 2 + 1):
        if all(a == b for a, b in zip(signatures, signatures[length:], strict=False)):
            return length
    return 2 if len(signatures) == 2 and signatures[0] != signatures[1] else 1
