"""Plain chains: layers that follow each other, each with its activation, as in VGG or a perceptron.

A layer is an identity if its weight is an identity map and its activation does nothing to its own outputs (ReLU after
ReLU).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import fx

from fxgrow.modules.tensors import within
from fxgrow.planning.analysis import law_of_node
from fxgrow.planning.blocks import Finder, Found, FoundRun, Unit
from fxgrow.planning.graph_parts import stretches
from fxgrow.rules.calls import tensor_operands
from fxgrow.rules.convolution import DIRAC
from fxgrow.rules.pointwise import Pointwise


def chains(finder: Finder, repeats: Found) -> Found:
    """Runs of layers outside of the blocks that were found already, and layers that repeat but cannot be identities."""
    taken = [root for run in repeats.runs for unit in run.units for root in (unit.path, *unit.roots)]
    units = [unit for unit in _layers(finder) if not any(within(root, t) for root in unit.roots for t in taken)]
    runs: list[FoundRun] = []
    reasons: list[tuple[str, str]] = []
    anywhere = isinstance(finder.model, fx.GraphModule)  # a graph may call a layer by any name

    def goes_on(before: Unit, unit: Unit) -> bool:
        """Whether a layer takes what the one before gave, gives the same layout, and stands in such a place."""
        follows = anywhere or _is_in_such_a_place(unit.path, before.path)
        follows = follows and all(a.exit is b.entry for a, b in zip(before.regions, unit.regions, strict=True))
        return follows and unit.shape == before.shape

    for stretch in stretches(units, goes_on):
        signatures = Counter(unit.signature for unit in stretch)
        if len(stretch) < 2 or len(signatures) > 1:
            continue
        if any(unit.identity is not None for unit in stretch):
            runs.append(FoundRun(stretch[0].path, stretch))
        else:
            keeps = [u for u in stretch if u.shape == u.regions[0].entry.meta["value"].shape]
            reasons.extend((unit.path, unit.reason) for unit in keeps[:1])
    return Found([*repeats.runs, *runs], [*repeats.held, *(reasons if not repeats.runs and not repeats.held else ())])


def _layers(finder: Finder) -> Iterator[Unit]:
    """Every linear layer or convolution with the activation and norm that follow it, in the order of the graphs."""
    by_place: dict[str, dict[str, list[fx.Node]]] = {}
    for mode, graph in finder.graphs.items():
        for node in graph.nodes:
            if node.op == "call_module" and type(finder.modules[str(node.target)]) in DIRAC:
                by_place.setdefault(str(node.target), {})[mode] = _with_followers(finder, node)
    calls = Counter((n.graph, str(n.target)) for graph in finder.graphs.values() for n in graph.nodes)
    for place, members in by_place.items():
        called = [str(n.target) for n in next(iter(members.values())) if n.op == "call_module"]
        alone = all(calls[nodes[0].graph, place] == 1 for nodes in members.values())
        roots = tuple(path for path in called if all(calls[n[0].graph, path] == 1 for n in members.values()))
        unit = finder.unit(place, roots, members) if alone else None
        if unit is not None:
            yield unit


def _with_followers(finder: Finder, node: fx.Node) -> list[fx.Node]:
    """A layer and the functions of one operand that alone read it, one after the other."""
    nodes = [node]
    while len(readers := [user for user in node.users if user.op != "output"]) == 1 == len(node.users):
        node = readers[0]
        law = law_of_node(finder.model, node)
        follows = isinstance(law, Pointwise) or (law is not None and law.family == "normalisation")
        if not follows or node.op == "call_method" or len(tensor_operands(node)) != 1:
            break
        nodes.append(node)
    return nodes


def _is_in_such_a_place(path: str, other: str) -> bool:
    """Whether two layers stand beside each other, or under one name in parts that do."""
    (above, _, name), (above_other, _, name_other) = path.rpartition("."), other.rpartition(".")
    return above == above_other or (name == name_other and path.count(".") == other.count("."))
