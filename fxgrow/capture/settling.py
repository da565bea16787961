"""What one record settled of a forward: found out by records on other inputs, and guarded in the graph."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture import call_guards, contexts
from fxgrow.capture.arguments import with_argument
from fxgrow.capture.contexts import Settled
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.numbers import SizeComparison
from fxgrow.capture.probing import (
    AUTOCAST,
    BATCH,
    DTYPE,
    FEATURES,
    GRADIENTS,
    SIZE,
    Circumstances,
    Difference,
    axes_between,
    between,
    changed,
    differences,
    nearby,
    resized,
    resized_axes,
    samples_of,
)
from fxgrow.capture.questions import Question
from fxgrow.capture.recording import Record, Recording, bound
from fxgrow.capture.relations import Relation
from fxgrow.errors import CaptureError
from fxgrow.modules.holders import attribute


def free_numbers(recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs, settling: set[str]) -> None:
    """Let arguments be any number, where the forward only computes with them."""
    guards = [
        node
        for node in graph.nodes
        if node.target is contexts.settled
        and type(node.args[1]) in (int, float)
        and node.args[0].op == "placeholder"
        and str(node.args[0].target) not in settling
    ]
    if not guards:
        return
    arguments = {**_defaults(recording.bare), **bound(recording.bare, inputs)}
    numbers = {key: value for key, value in arguments.items() if not key.startswith("*")}
    for nudged in (_larger, _smaller):  # more than there is of something may be as many as there are
        try:
            record = recording.record(mode, ((), {key: nudged(value) for key, value in numbers.items()}))
        except CaptureError:
            return
        if next(differences(graph, record.graph), None) is not None:
            return
    for node in guards:
        graph.erase_node(node)


def _larger(value: Any) -> Any:
    """A larger number, if it is one."""
    if type(value) not in (int, float):
        return value
    return value + 1 if isinstance(value, int) else 1.25 * value + 0.375


def _smaller(value: Any) -> Any:
    """A smaller number, if it is one."""
    if type(value) is float:
        return value / 2
    return (value // 2 if value > 1 else value - 1) if type(value) is int else value


def _defaults(model: nn.Module) -> dict[str, Any]:
    empty = inspect.Parameter.empty
    parameters = inspect.signature(model.forward).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not empty}


def probe(
    recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs, record: Record
) -> tuple[list[Settled], frozenset[str]]:
    """What a graph settled that hangs on the inputs it was recorded with, and the features that make no difference.

    The graph gets guards against inputs that do. record: tells what the forward asked of its inputs.
    """
    notes, same = _probed(recording, mode, graph, inputs)
    hanging = [note.feature for note in notes]
    turned = {} if BATCH in hanging else dict(_turned(recording, mode, graph, inputs, record.comparisons))
    related = {} if SIZE in hanging else dict(_related(recording, mode, graph, inputs, record.relations))
    answers = dict(_answered_otherwise(recording, mode, graph, inputs, record.questions))
    along = dict(_written_out(recording, mode, graph, inputs))
    for feature in hanging:  # only now, since the graph is compared until here
        _guard(graph, feature)
    samples = samples_of(inputs)
    halved = [comparison for comparison in turned if comparison.leading and comparison.size != samples]
    for comparison in turned:
        if comparison not in halved:
            _guard_comparison(graph, comparison, samples)
    if halved:
        _guard(graph, BATCH)
    for relation in related:
        _guard_relation(graph, relation)
    for axis, size in along:
        for x, name in _inputs(graph).items():
            if axis in axes_between(x.meta["value"]) and x.meta["value"].shape[axis] == size:
                _refuse(graph, contexts.sized, (x, (axis,), (size,), name))
    for question in answers:
        node = next(node for node in graph.nodes if node.op == "placeholder" and node.target == question.argument)
        _refuse(graph, call_guards.other_than, (node, *question))
    return [*notes, *turned.values(), *related.values(), *answers.values(), *along.values()], same


def _turned(
    recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs, comparisons: Iterable[SizeComparison]
) -> Iterator[tuple[SizeComparison, Settled]]:
    """Comparisons of the number of samples, or of another size, that lead elsewhere where they come out otherwise.

    So do comparisons of what is left of the samples, where a forward halves them again and again.
    """
    for comparison in sorted(comparisons):
        turned = turning(comparison, inputs)
        if turned is None:
            continue
        feature, few, varied = turned
        for _, difference in _first_parting(recording, mode, graph, [varied]):
            takes = f"{few} of which take" if feature == BATCH else f"which as {few} takes"
            where = difference.place or type(recording.bare).__name__
            finding = f"{difference.what} hangs on the {_MEANING[feature]}, {takes} another course"
            yield comparison, Settled(finding, where, feature=feature, inputs=varied)


def turning(comparison: SizeComparison, inputs: Inputs) -> tuple[str, int, Inputs] | None:
    """Which size makes a comparison come out otherwise: what it is the size of, its value, and such inputs."""
    samples = samples_of(inputs)
    few, size, feature = comparison.turning, comparison.size, BATCH
    if size != samples and comparison.leading and size:
        few = -(-samples * few // size)
    elif size != samples:
        feature = SIZE
    if few in ((samples, samples + 1) if feature == BATCH else (size, 2 * size)) or few < 1:
        return None
    varied = changed(inputs, frozenset({BATCH}), few) if feature == BATCH else resized(inputs, size, few)
    return None if varied is None else (feature, few, varied.inputs)


def _related(
    recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs, relations: Iterable[Relation]
) -> Iterator[tuple[Relation, Settled]]:
    """Comparisons of what is computed from sizes that lead elsewhere where a size is one more, or one less."""
    pending = sorted((relation for relation in relations if not relation.arguments()), key=str)
    for other, varied in nearby(inputs):
        if not pending:
            return
        try:
            again = recording.record(mode, varied)
        except CaptureError:  # the model does not take such inputs either
            continue
        difference = next(differences(graph, again.graph), None)
        if difference is None:
            continue
        for relation in [relation for relation in pending if relation.turned in again.relations]:
            pending.remove(relation)
            finding = f"{difference.what} hangs on the size of the input, which as {other} takes another course"
            where = difference.place or type(recording.bare).__name__
            yield relation, Settled(finding, where, feature=SIZE, inputs=varied)


def _answered_otherwise(
    recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs, questions: Iterable[Question]
) -> Iterator[tuple[Question, Settled]]:
    """Questions about inputs that lead elsewhere where the answer is another."""
    for question in sorted(questions, key=str):
        tensor = bound(recording.bare, inputs)[question.argument]
        answered = question.answered(tensor)
        others = [with_argument(recording.bare, inputs, question.argument, other) for other in answered]
        for taken, difference in _first_parting(recording, mode, graph, others):
            asked = f"{question.argument}.{question.property}"
            finding = f"{difference.what} hangs on {asked}, where {question.other} takes another course"
            where = difference.place or type(recording.bare).__name__
            yield question, Settled(finding, where, feature=question.property, inputs=taken)


def _written_out(
    recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs
) -> Iterator[tuple[tuple[int, int], Settled]]:
    """Axes between the samples and the size, and their sizes, of which a graph has each entry written out."""
    channels = set(_channels(recording, graph))
    for axis, size, others in between(inputs):
        if (axis, size) in channels:
            continue
        for taken, difference in _first_parting(recording, mode, graph, others):
            finding = f"{difference.what} hangs on how many entries there are along axis {axis}"
            where = difference.place or type(recording.bare).__name__
            yield (axis, size), Settled(finding, where, feature=SIZE, inputs=taken)


def _channels(recording: Recording, graph: fx.Graph) -> Iterator[tuple[int, int]]:
    """The axes of inputs, and their sizes, that a convolution reads as its channels, of which it takes no others."""
    parts = dict(recording.bare.named_modules())
    for x in _inputs(graph):
        for user in x.users:
            part = parts.get(str(user.target)) if user.op == "call_module" else None
            if isinstance(part, nn.modules.conv._ConvNd):
                axis = x.meta["value"].ndim - len(part.kernel_size) - 1
                yield axis, int(x.meta["value"].shape[axis])


def _first_parting(
    recording: Recording, mode: str, graph: fx.Graph, others: Iterable[Inputs]
) -> Iterator[tuple[Inputs, Difference]]:
    """The first of other inputs that the model takes, and where a record on it parts from the graph, if it does."""
    for inputs in others:
        with suppress(CaptureError):
            difference = next(differences(graph, recording.record(mode, inputs).graph), None)
            if difference is not None:
                yield inputs, difference
            return


def _guard_comparison(graph: fx.Graph, comparison: SizeComparison, samples: int) -> None:
    """Refuse as many samples, or inputs of such a size, as make a comparison come out otherwise."""
    named = _inputs(graph)
    places = [(next(iter(named)), 0)]
    if comparison.size != samples:
        axes = [(x, axis) for x in named for axis in resized_axes(x.meta["value"])]
        places = [(x, axis) for x, axis in axes if x.meta["value"].shape[axis] == comparison.size]
    for x, axis in places:
        asked = (comparison.operator, comparison.number, comparison.outcome, axis, comparison.steps)
        arguments = (x, named[x], *asked)
        _refuse(graph, call_guards.compared, arguments)


def _guard_relation(graph: fx.Graph, relation: Relation) -> None:
    """Refuse inputs of a size that makes a comparison of what is computed from sizes come out otherwise."""
    nodes = {node.name: node for node in graph.nodes}
    if not all(name in nodes for name in relation.tensors()):
        _guard(graph, SIZE)
        return
    _refuse(graph, call_guards.related, tuple(relation), {name: nodes[name] for name in relation.tensors()})


def _probed(recording: Recording, mode: str, graph: fx.Graph, inputs: Inputs) -> tuple[list[Settled], frozenset[str]]:
    """What hangs on a feature of the inputs, whatever the forward asked."""
    same: set[str] = set()

    def differing(features: frozenset[str], smaller: bool = False) -> Difference | None:
        """Where a record on other inputs parts from the graph, if it does; its absence proves nothing by itself."""
        varied = changed(inputs, features, smaller=smaller)
        if varied is None:
            return None
        try:
            record = recording.record(mode, varied.inputs, Circumstances.with_other(varied.features))
        except CaptureError:  # the model does not take such inputs either
            return _REFUSED
        difference = next(differences(graph, record.graph), None)
        if difference is None:
            same.update(varied.features)
        return difference

    every = frozenset(FEATURES)
    if differing(every) is None:
        return [], frozenset(same)
    rest = every - {SIZE}
    pending = [frozenset({SIZE})] if differing(rest) is None else [frozenset({feature}) for feature in FEATURES]
    notes = []
    for features in pending:
        difference, smaller = differing(features), False
        if difference is _REFUSED and features == {SIZE}:  # a table of positions may end there
            difference, smaller = differing(features, smaller=True), True
        if difference is None or difference is _REFUSED:
            continue
        finding = f"{difference.what} hangs on the {_MEANING[next(iter(features))]}"
        witness = None if features & {DTYPE, GRADIENTS, AUTOCAST} else changed(inputs, features, smaller=smaller)
        where = difference.place or type(recording.bare).__name__
        taken = witness.inputs if witness is not None else None
        notes.append(Settled(finding, where, feature=next(iter(features)), inputs=taken))
    return notes, frozenset(same)


_REFUSED = Difference(None, "it does not run")
_MEANING = {
    BATCH: "number of samples",
    SIZE: "size of the input",
    DTYPE: "precision of the input",
    GRADIENTS: "gradients being on",
    AUTOCAST: "autocast being off",
}
OTHER = {
    BATCH: "more samples",
    SIZE: "a larger size",
    DTYPE: "another precision",
    GRADIENTS: "gradients off",
    AUTOCAST: "autocast on",
}


def _guard(graph: fx.Graph, feature: str) -> None:
    """Let a graph refuse what it was not recorded with and what makes a difference."""
    guards: list[tuple[Any, tuple[Any, ...]]] = []
    for node, name in _inputs(graph).items():
        value = node.meta["value"]
        if feature == DTYPE and value.dtype.is_floating_point:
            guards.append((contexts.typed, (node, value.dtype, name)))
        elif feature in (BATCH, SIZE):
            axes = (0,) if feature == BATCH else tuple(resized_axes(value))
            if axes:
                guards.append((contexts.sized, (node, axes, tuple(int(value.shape[axis]) for axis in axes), name)))
    if feature == GRADIENTS:
        guards.append((contexts.graded, (True,)))
    if feature == AUTOCAST:
        guards.append((contexts.uncast, ()))
    for target, arguments in guards:
        _refuse(graph, target, arguments)


def _inputs(graph: fx.Graph) -> dict[fx.Node, str]:
    """The tensors that a graph is called with, also those in collections, and what they are called."""
    names: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = str(node.target).strip("*")
        elif node.target in (operator.getitem, attribute) and node.args[0] in names and not _is_tensor(node.args[0]):
            key = node.args[1]
            names[node] = f"{names[node.args[0]]}" + (f".{key}" if node.target is attribute else f"[{key!r}]")
    return {node: name for node, name in names.items() if _is_tensor(node)}


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta["value"], torch.Tensor) and node.meta["value"].ndim > 0


def _refuse(
    graph: fx.Graph, guard: Any, arguments: tuple[Any, ...], named: Mapping[str, fx.Node] = MappingProxyType({})
) -> None:
    """Let a graph call one of its guards, behind its inputs, of which it is known to be tensors, and what it reads."""
    read = (item for item in (*arguments, *named.values()) if isinstance(item, fx.Node))
    entered = (node for node in graph.nodes if node.op == "placeholder" or node.target is call_guards.still_tensor)
    last = max((*entered, *read))
    with graph.inserting_after(last):
        graph.call_function(guard, arguments, dict(named)).meta.update(value=None, module_path="")
