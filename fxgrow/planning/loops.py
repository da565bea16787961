"""Blocks written out in a loop: `for f, g in zip(self.fs, self.gs): x = x + g(f(x).relu())`.

No module holds such a block: its layers have one position in several lists, and its functions are in the forward of the
module that holds the lists. The nodes of one turn of the loop follow each other in the graph: from its first layer, or
some functions before that, to the first layer of the next turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass

from torch import fx, nn

from fxgrow.modules.tensors import dotted, within
from fxgrow.planning.blocks import Finder, Found, FoundRun, Stretch, Unit
from fxgrow.rules.calls import tensor_operands

_EARLIEST = 8  # functions of a turn before its first layer


@dataclass(frozen=True)
class _Loop:
    """Lists of modules whose members at one place are called together, turn by turn.

    calls: of each graph, turn by turn, the positions of the nodes that the members make.
    """

    lists: tuple[str, ...]
    calls: dict[str, list[list[int]]]

    def beside(self, other: _Loop) -> _Loop | None:
        """Both as one, if they are as long, and each turn of both ends before the next begins."""
        if any(len(other.calls[mode]) != len(turns) for mode, turns in self.calls.items()):
            return None
        calls = {
            mode: [sorted(a + b) for a, b in zip(turns, other.calls[mode], strict=True)]
            for mode, turns in self.calls.items()
        }
        both = _Loop((*self.lists, *other.lists), calls)
        return both if both.is_in_turns else None

    @property
    def has_several(self) -> bool:
        return all(len(turns) > 1 for turns in self.calls.values())

    @property
    def is_in_turns(self) -> bool:
        return all(a[-1] < b[0] for turns in self.calls.values() for a, b in itertools.pairwise(turns))

    @property
    def most_before(self) -> int:
        """How many nodes can be before the first layer of every turn and behind the last of the turn before."""
        gaps = [b[0] - a[-1] - 1 for turns in self.calls.values() for a, b in itertools.pairwise(turns)]
        return min(*gaps, *(turns[0][0] for turns in self.calls.values()), _EARLIEST)


def loops(finder: Finder, repeats: Found, held: Container[str] = ()) -> Found:
    """Add the runs whose blocks are turns of a loop to those known already; these blocks are held no longer.

    held: paths of runs that stay as long as they are, inside whose blocks there may be loops.
    """
    taken = [root for run in repeats.runs if run.path not in held for unit in run.units for root in unit.roots]
    graphs = {mode: [n for n in graph.nodes if n.op != "get_attr"] for mode, graph in finder.graphs.items()}
    runs: list[FoundRun] = []
    stuck: list[tuple[str, str]] = []
    for loop in _loops(finder, graphs):
        if any(within(a, b) or within(b, a) for a in loop.lists for b in taken):
            continue
        for before in range(loop.most_before + 1):
            units = _turns(finder, graphs, loop, before) if loop.has_several else _turn(finder, graphs, loop, before)
            if any(unit.identity is not None for unit in units):
                runs.append(FoundRun(loop.lists[0], units))
                break
        else:
            units = _turns(finder, graphs, loop, 0) if loop.has_several else []
            stuck.extend([(unit.path, unit.reason) for unit in units if unit.reason][:1])
    roots = [root for run in runs for unit in run.units for root in unit.roots]
    reasons = [(path, reason) for path, reason in repeats.held if not any(within(path, root) for root in roots)]
    return Found([*repeats.runs, *runs], reasons if repeats.runs or runs or reasons else stuck)


def _loops(finder: Finder, graphs: dict[str, list[fx.Node]]) -> Iterator[_Loop]:
    """The lists of each module, those together that one loop goes through."""
    position = {node: k for nodes in graphs.values() for k, node in enumerate(nodes)}
    for path, module in finder.model.named_modules():
        merged: list[_Loop] = []
        for name, child in module._modules.items():
            loop = _loop_over(finder, dotted(path, name), child, position)
            if loop is None:
                continue
            together = ((k, both) for k, earlier in enumerate(merged) if (both := earlier.beside(loop)) is not None)
            place, loop = next(together, (len(merged), loop))
            merged[place : place + 1] = [loop]
        yield from merged


def _loop_over(finder: Finder, path: str, module: nn.Module | None, position: dict[fx.Node, int]) -> _Loop | None:
    """A list of modules each of which is called in every graph, before the next; or of one that is several."""
    if not isinstance(module, nn.ModuleList) or not (len(module) > 1 or _is_of_unlike_parts(module)):
        return None
    members = [finder.members.get(f"{path}.{name}", {}) for name in module._modules]
    if any(nodes.keys() != finder.graphs.keys() for nodes in members):
        return None
    calls = {mode: [[position[node] for node in nodes[mode]] for nodes in members] for mode in finder.graphs}
    loop = _Loop((path,), calls)
    return loop if loop.is_in_turns else None


def _is_of_unlike_parts(module: nn.ModuleList) -> bool:
    """Whether a list has one list of parts that are no blocks of a kind: `for attention, perceptron in self.layers`."""
    inner = next(iter(module), None)
    kinds = {tuple(type(each) for each in part.modules()) for part in inner} if isinstance(inner, nn.ModuleList) else {}
    return len(kinds) > 1


def _turn(finder: Finder, graphs: dict[str, list[fx.Node]], loop: _Loop, before: int) -> list[Unit]:
    """The only turn of a loop as a block, which ends some functions behind its last layer."""
    roots = tuple(f"{path}.0" for path in loop.lists)
    for behind in range(_EARLIEST):
        ends = {mode: (calls[0] - before, calls[-1] + 1 + behind) for mode, (calls,) in loop.calls.items()}
        unit = finder.unit(roots[0], roots, {mode: graphs[mode][start:stop] for mode, (start, stop) in ends.items()})
        if unit is not None and unit.identity is not None and unit.identity.gates:
            return [unit]
    return []


def _is_chain(turns: list[list[fx.Node]]) -> bool:
    """Whether each turn reads what the one before made, and nothing else but what every turn reads."""
    read = [dict.fromkeys(s for n in turn for s in tensor_operands(n) if s.op != "get_attr") for turn in turns]
    beside: list[set[fx.Node]] = []
    for number, own in enumerate(turns[1:], start=1):
        sources = read[number].keys() - {*own}
        beside.append(sources - {*turns[number - 1]})
        if sources == beside[-1]:
            return False
    return all(some <= read[0].keys() for some in beside) and all(some == beside[0] for some in beside[:-1])


def _turns(finder: Finder, graphs: dict[str, list[fx.Node]], loop: _Loop, before: int) -> list[Unit]:
    """The turns as blocks, of which some may have no identity: the first and the last may differ from the others."""
    turns: list[dict[str, list[fx.Node]]] = [{} for _ in next(iter(loop.calls.values()))]
    for mode, nodes in graphs.items():
        starts = [calls[0] - before for calls in loop.calls[mode]]
        for turn, (start, stop) in zip(turns, itertools.pairwise(starts), strict=False):
            turn[mode] = nodes[start:stop]
        rest = nodes[starts[-1] :]
        alike = zip(rest, finder.called(rest), finder.called(turns[-2][mode]), strict=False)
        turns[-1][mode] = [node for node, *_ in itertools.takewhile(lambda three: three[1] == three[2], alike)]
        chain = [turn[mode] for turn in turns]
        if starts[0] < 0 or any(not own or not own[0].all_input_nodes for own in chain) or not _is_chain(chain):
            return []
    units = []
    for number, members in enumerate(turns):
        roots = tuple(f"{path}.{number}" for path in loop.lists)
        unit = finder.unit(roots[0], roots, members) or Unit(roots[0], roots)
        if not unit.regions:
            unit.regions = [Stretch(mode, own, own[0].all_input_nodes[0], own[-1]) for mode, own in members.items()]
        units.append(unit)
    signatures = {unit.signature for unit in units[:-1] if unit.identity is not None and unit.identity.gates}
    for unit in units:
        if unit.signature not in signatures:
            unit.identity = None  # a chain of layers, or a last turn that lets a stream end
    return units
