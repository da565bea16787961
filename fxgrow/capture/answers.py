"""Answers to what a forward asks of values, where they are the same whatever the values of inputs and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxgrow.capture.skeleton import GIVEN
from fxgrow.modules.containers import holds_tensor
from fxgrow.rules.calls import draws, name_of, reached, run, writes

_ASKED = {"isfinite": True, "isnan": False, "isinf": False, "isposinf": False, "isneginf": False}
_HANDED_ON = {"all", "any", "detach", "clone", "bool"}
_NOT = {"logical_not", "bitwise_not", "invert", "__invert__"}
_AND = {"logical_and", "bitwise_and", "and_", "__and__"}
_OR = {"logical_or", "bitwise_or", "or_", "__or__"}
_LOGIC = _HANDED_ON | _NOT | _AND | _OR


def if_finite(node: fx.Node) -> bool | None:
    """What a tensor of truth values holds everywhere if all that it asks of is finite; None if it asks anything else.

    >>> graph = fx.Graph()
    >>> x = graph.placeholder("x")
    >>> if_finite(graph.call_method("logical_not", (graph.call_method("isnan", (x,)),)))
    True
    >>> if_finite(graph.call_method("all", (x,)))
    """
    name = name_of(node) if node.op in ("call_function", "call_method") else ""
    if name in _ASKED:
        return _ASKED[name]
    answers = [if_finite(operand) for operand in node.all_input_nodes if name in _LOGIC]
    if not answers or None in answers:
        return None
    if name in _HANDED_ON or name in _NOT:
        return bool(answers[0]) != (name in _NOT)
    return all(answers) if name in _AND else any(answers)


def behind(nodes: Iterable[fx.Node], follow: Callable[[fx.Node], bool] = lambda node: True) -> set[fx.Node]:
    """Nodes, with all that they are computed from by nodes to follow."""
    return set(reached(list(nodes), lambda node: filter(follow, node.all_input_nodes)))


def made_of_sizes(node: fx.Node | None) -> bool:
    """Whether a tensor is the same whatever the values of inputs and weights, such as positions that are kept."""
    tensors = behind([node] if node is not None else [], _is_tensor)
    return not any(source.op in ("placeholder", "get_attr") for source in tensors)


def is_drawn(node: fx.Node) -> bool:
    """Whether the values of a tensor are drawn at random, whatever the inputs are."""
    sources = behind([node], _is_tensor)
    return any(draws(name_of(source)) for source in sources) and all(source.op != "placeholder" for source in sources)


def of_values(node: fx.Node, known: Mapping[str, Tensor]) -> Tensor | None:
    """The values of a tensor that is made of sizes and of known tensors and draws nothing; None for any other.

    known: by the names that they have in the graph.
    """
    values: dict[fx.Node, Any] = {}
    sources = behind([node], _is_tensor)
    for source in sources:
        if source.op == "get_attr" and str(source.target) in known:
            values[source] = known[str(source.target)]
        elif source.op not in ("call_function", "call_method") or draws(name_of(source)):
            return None
        if any(map(writes, source.users)):
            return None

    def held(operand: fx.Node) -> Any:
        value = values[operand] if operand in values else operand.meta["value"]
        return torch.device("cpu") if isinstance(value, torch.device) else value

    with torch._C.DisableTorchFunction():
        for source in sorted(sources - values.keys()):
            args, kwargs = fx.node.map_arg((source.args, source.kwargs), held)
            values[source] = run(source, None, args, kwargs)
    return values[node]  # type: ignore[no-any-return]


def state_behind(node: fx.Node) -> dict[str, Tensor]:
    """What the buffers of a model hold that a tensor is made of, by name, as far as that is known."""
    read = (source for source in behind([node], _is_tensor) if source.op == "get_attr")
    held = {str(source.target): getattr(source.meta["value"], GIVEN, None) for source in read}
    return {name: values.detach().cpu() for name, values in held.items() if values is not None}


def _is_tensor(node: fx.Node) -> bool:
    return holds_tensor(node.meta["value"])
