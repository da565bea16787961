"""Numbers in place of an argument on which what a forward computes from it may hang otherwise once sizes have grown."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx, nn

from fxgrow.capture import Captured
from fxgrow.capture.arguments import with_argument
from fxgrow.capture.call_guards import in_words
from fxgrow.capture.contexts import GUARDS
from fxgrow.capture.numbers import COMPARED
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.libraries import is_known
from fxgrow.own.other_calls import OtherCall, as_called
from fxgrow.rules.calls import run


def telling_calls(
    source: nn.Module, captured: Captured, recorded: Callable[[str], fx.Graph], grown: Callable[[str], fx.Graph]
) -> Iterator[OtherCall]:
    """Calls with numbers in place of arguments with which something scales otherwise: `channels % argument`.

    recorded, grown: graphs of a model and of its grown copy with an argument as a placeholder.
    """
    for argument, value in as_called(source, captured).items() if not is_known(type(source)) else ():
        if type(value) in (int, float):
            for number in _telling(recorded(argument), functools.partial(grown, argument), argument, value):
                inputs = with_argument(source, captured.inputs, argument, number)
                yield OtherCall(f"{argument}={number}", inputs, (in_words(value),), argument, number)


def _telling(source: fx.Graph, grown: Callable[[], fx.Graph], argument: str, value: Any) -> Iterator[Any]:
    """The numbers beside those that an argument is compared with, and one with which something scales otherwise.

    That is the first of a few with which a number that enters a tensor operation is another multiple, with the sizes of
    the grown model, of what it is with those of the source than it is for the value.
    """
    for placeholder in source.find_nodes(op="placeholder"):
        if placeholder.target == argument:
            yield from (size + side for size in sorted(placeholder.meta.get(COMPARED, ())) for side in (-1, 1))
    if any(_enters(node) for node in _computed(source, argument, value, {})):
        sizes = _grown_sizes(source, grown())
        there = _factors(source, sizes, argument, value)
        others = _OTHERS if type(value) is int else [value * factor for factor in _FACTORS]
        telling = (n for n in others if n != value and _factors(source, sizes, argument, n) not in (there, None))
        yield from itertools.islice(telling, 1)


_OTHERS = (1, 3, 5, 7, 11, 2, 4, 6, 8, 12, 16, 32, 64)
_FACTORS = (0.3, 0.7, 1.3, 2.1)


def _grown_sizes(source: fx.Graph, grown: fx.Graph) -> dict[fx.Node, int]:
    """The nodes for sizes that are others in a grown model, and what these are; none where it makes other calls."""
    tensors, others = (
        [node for node in graph.nodes if isinstance(node.meta.get("value"), Tensor)] for graph in (source, grown)
    )
    if [node.target for node in tensors] != [node.target for node in others]:
        return {}
    partner, sizes = dict(zip(tensors, others, strict=True)), {}
    for node in source.find_nodes(op="call_method", target="size"):
        tensor, axis = node.args
        size = partner[tensor].meta["value"].shape[axis]
        if size != node.meta["value"]:
            sizes[node] = size
    return sizes


def _factors(graph: fx.Graph, sizes: dict[fx.Node, int], argument: str, value: Any) -> list[float] | None:
    """What the numbers that an argument has a part in, and that enter operations, are multiplied by as sizes grow.

    None where they cannot be computed for the value.
    """
    try:
        before, after = (_computed(graph, argument, value, grown) for grown in ({}, sizes))
        factors = (after[node] / before[node] if before[node] else after[node] for node in before if _enters(node))
        return [round(factor, 9) for factor in factors]
    except (ArithmeticError, TypeError, ValueError):
        return None


def _computed(graph: fx.Graph, argument: str, value: Any, sizes: dict[fx.Node, int]) -> dict[fx.Node, Any]:
    """What an argument has a part in, computed with another value of it and with other sizes."""
    numbers: dict[fx.Node, Any] = dict(sizes)
    of_argument: set[fx.Node] = set()
    for node in graph.nodes:
        read = node.all_input_nodes
        if node.op == "placeholder" and node.target == argument:
            numbers[node] = value
            of_argument.add(node)
        elif node.op == "call_function" and node.target not in GUARDS and not holds_tensor(node.meta.get("value")):
            if not numbers.keys().isdisjoint(read):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: numbers.get(n, n.meta["value"]))
                numbers[node] = run(node, None, args, kwargs)
            if not of_argument.isdisjoint(read):
                of_argument.add(node)
    return {node: numbers[node] for node in numbers if node in of_argument}


def _enters(number: fx.Node) -> bool:
    return any(holds_tensor(user.meta.get("value")) for user in number.users)
