"""Which other calls of a model are tried than the one that it was captured with."""

from __future__ import annotations

import enum
import functools
import inspect
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn

from fxgrow.capture import Captured
from fxgrow.capture.arguments import ACTING, UNREAD, OtherNumber, other_values, tensors_in_place_of_none, with_argument
from fxgrow.capture.call_guards import Starred, in_words
from fxgrow.capture.contexts import GUARDS, settled
from fxgrow.capture.flags import Flag, other_flags, parts_of, value_of
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.own_methods import methods_that_ran, only_compute, other_methods, run_unread
from fxgrow.capture.probing import Difference
from fxgrow.capture.recording import bound
from fxgrow.capture.source_code import Untried
from fxgrow.grouping import grouped
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.holders import fields_of, holding
from fxgrow.modules.libraries import is_installed
from fxgrow.own.call_edits import FORWARD
from fxgrow.planning.plan import Plan

Place = tuple[str, ...]
"""A method and one of its arguments, or an attribute; perhaps also another one, and what that is in words."""


class OtherCall(NamedTuple):
    """A call that the model was not captured with, or one of a model some of whose attributes have other values.

    as_it_was: the argument or attribute in words, if it is one. beside: another one that has another value, too, and
    which, in words. several: whether it has at once what several other values change of the argument. unnamed: whether
    the value is a number that no code names.
    """

    text: str
    inputs: Inputs
    as_it_was: tuple[str, ...] = ()
    argument: str = ""
    value: Any = None
    method: str = FORWARD
    left: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    beside: tuple[str, ...] = ()
    several: bool = False
    unnamed: bool = False

    @property
    def together(self) -> bool:
        """Whether it has other values that were tried alone."""
        return self.several or bool(self.beside)

    @property
    def place(self) -> Place:
        return self.method, self.argument, *self.beside


def other_calls(
    source: nn.Module, captured: Captured, of_methods: bool, plan: Plan, may_be: Callable[[OtherCall], bool]
) -> Iterator[OtherCall]:
    """The calls that are tried of a model; `may_be` says of one with a number that no code names whether it is."""
    ran = methods_that_ran(captured)
    read = {str(node.target) for graph in captured.graphs.values() for node in graph.nodes}
    made = dict.fromkeys(like for graph in captured.graphs.values() for like in _made_without_inputs(graph))
    others = [
        *other_values(source, captured.inputs, ran),
        *tensors_in_place_of_none(source, captured.inputs, read, ran, made),
    ]
    others.sort(key=lambda other: isinstance(other[1], OtherNumber))  # what may be a tensor is tried as one first
    flags = list(other_flags(source, captured.graphs.values())) if plan.depth is None else []
    computing = bool(others or flags) and only_compute(source, ran)
    if not computing:
        there = as_called(source, captured) | {flag.name: was for flag, was in flags}
        decided = {flag.name for flag, _ in flags}
        decided |= {name for name, value in others if not isinstance(value, OtherNumber)}
        decided |= {name for name in _settling(captured, plan) if type(there.get(name)) is int}
        if run_unread(source, ran):
            yield from _untried(source, there, captured, UNREAD)
        elif not is_installed(type(source)):
            told = {name: value for name, value in there.items() if name in decided}
            yield from _untried(source, told, captured, ACTING)
    for name, value in others if computing else ():
        before = bound(source, with_argument(source, captured.inputs, name))
        besides = map(in_words, value.besides if isinstance(value, Untried) else ())
        as_it_was = (in_words(before.get(name, Starred(before.get(f"*{name}", ())))), *besides)
        unnamed = isinstance(value, OtherNumber)
        given = int(value) if unnamed else value
        instead = value.unless if isinstance(value, Untried) else None
        inputs = with_argument(source, captured.inputs, *(instead or (name, given)))
        call = OtherCall(f"{name}={in_words(given)}", inputs, as_it_was, name, given, unnamed=unnamed)
        if not unnamed or may_be(call):
            yield call
    for flag, before_it in flags if computing else ():
        said, text = in_words(before_it), f"{flag.name}={in_words(flag.value)}"
        yield OtherCall(text, captured.inputs, (said,), flag.name, flag.value, flags=(flag,))
    for method, inputs in other_methods(source, captured) if of_methods else ():
        yield OtherCall(f"{method}({', '.join(inputs[1])})", inputs, method=method)
    for path in captured.left:
        yield OtherCall(f"what it leaves in {path}", captured.inputs, left=(path,))


def _settling(captured: Captured, plan: Plan) -> Iterator[str]:
    """The arguments of which a graph refuses other values: the course hangs on them, or how units pass."""
    looked_at = {(edit.mode, edit.node) for edit in plan.nodes if edit.kind == "settle"}
    for mode, graph in captured.graphs.items():
        for node in graph.find_nodes(op="placeholder"):
            if (mode, node.name) in looked_at or any(user.target is settled for user in node.users):
                yield str(node.target)


def _made_without_inputs(graph: fx.Graph) -> Iterator[tuple[torch.Size, torch.dtype]]:
    """The tensors that a forward makes of parameters and numbers alone, and then uses: a caller might give such."""
    alone: set[fx.Node] = set()
    for node in graph.nodes:
        value, new = node.meta.get("value"), str(node.target).startswith("new_")
        read = [each for each in node.all_input_nodes if isinstance(each.meta.get("value"), Tensor)]
        if isinstance(value, Tensor) and node.op not in ("placeholder", "output") and (new or alone.issuperset(read)):
            alone.add(node)
            if node.op != "get_attr" and not alone.issuperset(node.users):
                yield value.shape, value.dtype


def as_called(source: nn.Module, captured: Captured) -> dict[str, Any]:
    """The arguments of a forward, starred ones aside, with what they were as it was captured."""
    called = bound(source, captured.inputs)
    values = {name: called.get(name, p.default) for name, p in inspect.signature(source.forward).parameters.items()}
    starred = {name for name in values for key in called if key.endswith(f"*{name}")}
    return {name: value for name, value in values.items() if name not in starred}


def _untried(source: nn.Module, there: dict[str, Any], captured: Captured, why: Any) -> Iterator[OtherCall]:
    """Calls with anything else than there was, for those arguments and attributes that need be no tensors."""
    parameters = inspect.signature(source.forward).parameters
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    for name, value in there.items():
        if not (name in needed and holds_tensor(value)):
            yield OtherCall(f"another {name}", captured.inputs, (in_words(value),), name, why)


def several_items(
    model: nn.Module, captured: Captured, taking: Sequence[OtherCall], idle: Sequence[OtherCall]
) -> Iterator[OtherCall]:
    """Calls with what several others change of one argument or attribute: of a dictionary, an object or a tuple.

    taking: calls that do something else than the captured one, of which pairs are put together, and all of them. idle:
    calls that do not, which are put together beside each of the others.
    """
    for place, calls in grouped((call.place, call) for call in (*taking, *idle) if call.argument).items():
        first = calls[0]
        was = value_of(parts_of(model, first.flags[0].kind)[0], first.flags[0].attribute) if first.flags else None
        was = was if first.flags else as_called(model, captured).get(first.argument)
        tried = {in_words(was), *(in_words(call.value) for call in calls)}
        there = [was, *(call.value for call in taking if call.place == place)]
        unread = [call.value for call in idle if call.place == place]
        for several in (*itertools.combinations(there, 2), *((each, *unread) for each in there), there):
            value = functools.reduce(functools.partial(_put_together, was), several)
            if value is not None and (said := in_words(value)) not in tried:
                tried.add(said)
                flags = tuple(flag._replace(value=value) for flag in first.flags)
                inputs = captured.inputs if flags else with_argument(model, captured.inputs, first.argument, value)
                text = f"{first.argument}={said}"
                yield first._replace(text=text, inputs=inputs, value=value, flags=flags, several=True)


def _put_together(was: Any, first: Any, second: Any) -> Any:
    """What has what either of two values changes of one; None where they are no containers of a kind."""
    if first is None and was is None:
        return second
    if type(first) is not type(second):
        return None
    if isinstance(first, (set, enum.Flag)):
        return first | second
    if type(first) in (tuple, list):
        if holds_tensor((first, second)):
            return None
        return type(first)([*first, *(item for item in second if item not in first)])
    before, one, other = (value if isinstance(value, dict) else fields_of(value) for value in (was, first, second))
    if not (one and other):
        return None
    changed = {key: item for key, item in other.items() if key not in before or before[key] is not item}
    held = {key: item for key, item in (one | changed).items() if key in other or key not in before}
    return held if isinstance(first, dict) else holding(first, held)


def both(model: nn.Module, first: OtherCall, second: OtherCall) -> OtherCall:
    """A call with the values of two arguments or attributes, the second beside the first."""
    inputs = first.inputs if second.flags else with_argument(model, first.inputs, second.argument, second.value)
    return second._replace(
        text=f"{first.text}, {second.text}".removeprefix(", "),
        inputs=inputs,
        flags=(*first.flags, *second.flags),
        beside=(first.argument, in_words(first.value)),
    )


def adds_up(before: fx.Graph, *others: fx.Graph) -> bool:
    """Whether the last graph has the calls of the first and what each of the others has more or less of them."""
    counts = [Counter((node.op, node.target) for node in graph.nodes) for graph in (before, *others)]
    first, *alone, together = counts
    return all(
        together[call] - first[call] == sum(each[call] - first[call] for each in alone)
        for call in {call for each in counts for call in each}
    )


def bare(graph: fx.Graph) -> fx.Graph:
    """A graph without a word of arguments that are no tensors, or that it does not read."""
    for node in reversed(graph.nodes):
        picked = node.target is operator.getitem and cast(fx.Node, node.args[0]).op == "placeholder"
        if not node.users and (node.target in GUARDS or node.op == "placeholder" or picked):
            graph.erase_node(node)
    return graph


def of_flag(difference: Difference) -> bool:
    """Whether two records differ in a flag of a call, which is no number that is computed with."""
    node = difference.node
    computed_with = node is not None and getattr(node.target, "__module__", "") == "_operator"
    return difference.what in ("the number True", "the number False") and not computed_with
