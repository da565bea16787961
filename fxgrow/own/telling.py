"""Numbers in place of an argument with which the forward takes another course, or may do so once sizes have grown."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.capture import Captured
from fxgrow.capture.arguments import with_argument
from fxgrow.capture.call_guards import in_words
from fxgrow.capture.contexts import GUARDS
from fxgrow.capture.numbers import COMPARED
from fxgrow.capture.own_methods import methods_that_ran, only_compute
from fxgrow.capture.recording import Record
from fxgrow.capture.relations import Relation, comes_out
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.libraries import is_known
from fxgrow.own.other_calls import OtherCall, as_called
from fxgrow.rules.calls import run


def telling_calls(
    source: nn.Module, captured: Captured, recorded: Callable[[str], Record], grown: Callable[[str], fx.Graph]
) -> Iterator[OtherCall]:
    """Calls with other numbers in place of arguments.

    With these, something scales otherwise (`channels % argument`), or a comparison of what is computed from the
    argument comes out otherwise (`2 * argument - 1 == 5`).

    recorded, grown: a record of a model, and a graph of its grown copy, with an argument as a placeholder.
    """
    called = as_called(source, captured) if not is_known(type(source)) else {}
    numbers = {argument: found for argument, value in called.items() if (found := _numbers_in(argument, value))}
    by_label = {label: number for found in numbers.values() for label, number in found.items()}
    computing = bool(numbers) and only_compute(source, methods_that_ran(captured))
    for argument, labels in numbers.items():
        if not (computing or argument in labels):
            continue  # of several numbers nothing else is asked
        record, value = recorded(argument), called[argument]
        relations = sorted(record.relations, key=str) if computing else []
        shapes = _shapes(record.graph) if relations else {}
        for label in labels:
            about = (relation for relation in relations if label in relation.arguments())
            others = [other for relation in about for other in _turning(relation, label, by_label, shapes)]
            if label == argument:
                others += _telling(record.graph, functools.partial(grown, argument), argument, value)
            for other in dict.fromkeys(others):
                items = (other if each == label else item for each, item in labels.items())
                told = other if label == argument else type(value)(items)
                inputs = with_argument(source, captured.inputs, argument, told)
                yield OtherCall(f"{argument}={in_words(told)}", inputs, (in_words(value),), argument, told)


def _numbers_in(argument: str, value: Any) -> dict[str, Any]:
    """A number by the name of its argument, or several by their places there; of anything else, nothing."""
    if type(value) in (int, float):
        return {argument: value}
    several = dict(enumerate(value)) if type(value) in (tuple, list) else {}
    plain = all(type(item) in (int, float) for item in several.values())
    return {f"{argument}[{k}]": item for k, item in several.items()} if plain else {}


def _shapes(graph: fx.Graph) -> dict[str, torch.Size]:
    """The shapes of the tensors of a graph, by the names of their nodes."""
    tensors = ((node.name, node.meta.get("value")) for node in graph.nodes)
    return {name: tensor.shape for name, tensor in tensors if isinstance(tensor, Tensor)}


def _turning(
    relation: Relation, label: str, numbers: Mapping[str, Any], shapes: Mapping[str, torch.Size]
) -> Iterator[Any]:
    """The number nearest to one of an argument with which a comparison comes out otherwise, and one further on."""
    number = numbers[label]
    least = 1 if type(number) is int else 0.125
    for step in (side * count * least for count in range(1, _FAR) for side in (1, -1)):
        with suppress(ArithmeticError, KeyError):  # of a tensor that nothing reads
            told = {**numbers, label: number + step}
            if comes_out(*relation[:3], lambda name, axis: shapes[name][axis], told) is not relation.outcome:
                yield from (number + step, number + step + (least if step > 0 else -least))
                return


_FAR = 512
"""So far from an argument others are looked for with which a comparison comes out otherwise."""


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
