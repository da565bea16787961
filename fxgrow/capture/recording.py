"""Runs a model's forward in one mode: what each run recorded, and which attributes it assigned."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture import contexts
from fxgrow.capture.answers import behind, made_of_sizes
from fxgrow.capture.attributes import numbers_of, with_sources, written_numbers
from fxgrow.capture.builder import ASIDE, OutsideError
from fxgrow.capture.chance import without_chance
from fxgrow.capture.contexts import Settled
from fxgrow.capture.evaluation import Memory
from fxgrow.capture.held_state import contents_of, is_same, state_of, with_tensors
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.leftovers import LEFTOVERS
from fxgrow.capture.masks import OTHERS, taking
from fxgrow.capture.numbers import Comparison
from fxgrow.capture.outputs import Form, taken_apart
from fxgrow.capture.probing import Difference, differences
from fxgrow.capture.questions import Question
from fxgrow.capture.recorder import Recorder, Shapes
from fxgrow.capture.shapes import IN_TENSOR_OPERATIONS
from fxgrow.capture.skeleton import twin_of
from fxgrow.containers import of_kind
from fxgrow.devices import callers_code
from fxgrow.errors import CaptureError, FxgrowError, UntraceableError, as_error, first_line
from fxgrow.module_tensors import dotted
from fxgrow.opaque import CustomFunction
from fxgrow.rules.calls import draws, name_of, reached, writes
from fxgrow.rules.registry import law_of_call, shown_by
from fxgrow.shared_state import SharedState
from fxgrow.switching import switches_itself

OF_ARGUMENT = "argument "
"""Begins the place of what a forward leaves in one of its arguments."""

_ONE_AT_A_TIME = threading.RLock()
"""What tells a recorder of calls stands, for a while, in for attributes that all threads share."""


@dataclass(frozen=True)
class Record:
    """One run of a forward: its graph, the class of its output, what the graph cannot keep.

    numbers: the names of arguments that are numbers which the forward compares. comparisons: of sizes with literals, by
    the forward. questions: that it asked of its inputs besides. by_mode, by_size: whether the forward asked for what
    another mode, or another size of the inputs, could change; else the record would be the same. left: the paths of
    attributes in which the forward leaves tensors. written: the numbers that it gives modules that are a node, by path
    and name, even if they are what they were before.
    """

    graph: fx.Graph
    form: Form | None
    settled: list[Settled]
    numbers: set[str]
    comparisons: set[Comparison]
    by_mode: bool
    by_size: bool
    questions: frozenset[Question] = frozenset()
    left: tuple[str, ...] = ()
    written: dict[tuple[str, str], Any] = field(default_factory=dict)


class Recording:
    """Records a model again and again, and keeps what its records share.

    shapes: of what its modules were given and gave in the first record. features: what `forward_features` gave there.
    """

    def __init__(self, bare: nn.Module, device: torch.device, originals: Mapping[int, str] | None = None) -> None:
        """originals: the names of the tensors of the model that `bare` is a copy of, by their identities."""
        self.bare = bare
        self.device = device
        self.originals = originals or {}
        self.functions: dict[str, CustomFunction] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.memory = Memory()
        self.shapes: Shapes = {}
        self.features: Any = None
        self.graph = fx.Graph()
        """What the last run recorded, also where it failed."""

    def record(
        self,
        mode: str,
        inputs: Inputs,
        dtype: Callable[[torch.dtype], torch.dtype] | None = None,
        gradients: bool = True,
    ) -> Record:
        """A run in a mode; `dtype`: to run in another precision. gradients: whether they are switched on."""

        def run() -> Record:
            with SharedState(self.bare) as shared, shared.caches_bypassed():
                return copy_context().run(self._record, mode, inputs, dtype, shared)

        with _ONE_AT_A_TIME, torch.set_grad_enabled(gradients), callers_code():
            before = LEFTOVERS.of_the_next_run()
            try:
                made = run()
            except BaseException as error:
                left = LEFTOVERS.are_in(type(self.bare), before)
                if not (left and isinstance(error, OutsideError)):
                    raise
                made = run()  # it may have met a table that the record before it has left behind
            LEFTOVERS.mend(type(self.bare))
            return made

    def _record(
        self, mode: str, inputs: Inputs, dtype: Callable[[torch.dtype], torch.dtype] | None, shared: SharedState
    ) -> Record:
        arguments = bound(self.bare, inputs)
        runner = with_sources(twin_of(self.bare, dtype, share=dtype is None))
        switched = list(_changed_by_mode(runner, mode == "train"))
        recorder = self._recorder(runner)
        recorder.settled.extend(switched)
        self.graph = recorder.graph
        before, numbers_before = state_of(runner), numbers_of(runner)
        name = type(self.bare).__name__
        try:
            output, form = taken_apart(_run(recorder, arguments, len(inputs[0])))
        except CaptureError as error:
            if not recorder.counts or isinstance(error, UntraceableError):
                raise
            raise _hanging_on_counts("whether it runs", error.where or name) from error
        assigned = [
            key
            for key, value in state_of(runner).items()
            if not is_same(value, before.get(key, _NOTHING)) and id(value) not in recorder.kept
        ]
        recorder.graph.output(recorder.result(output))
        if recorder.counts:
            self._refuse_what_hangs_on_counts(recorder, mode, inputs, dtype)
        if not self.shapes:
            self.shapes, self.features = recorder.shapes, recorder.features
        for path, kind, attribute in assigned:
            value = getattr(runner.get_submodule(path), attribute)
            lost = isinstance(value, (int, float)) or (
                kind == "buffer" and not made_of_sizes(recorder.nodes.get(id(value)))
            )
            finding = f"what the forward assigns to the {kind} {attribute}"
            recorder.settled.append(Settled(finding, path or name, lost))
        written = written_numbers(recorder.graph, runner, numbers_before)
        for (path, attribute), number in written.items():
            if (path, attribute) in numbers_before and number != numbers_before[path, attribute]:
                finding = f"what the forward assigns to the attribute {attribute}"
                recorder.settled.append(Settled(finding, path, lost=True))
        values = [getattr(runner.get_submodule(path), name) for path, kind, name in assigned if kind == "attribute"]
        changes = shared.changed()
        for text, value, _ in changes:
            values.append(value)
            lost = isinstance(value, (int, float, torch.Tensor))
            recorder.settled.append(Settled(f"what the forward assigns to {text}", name, lost))
        left = tuple(
            where
            for path, kind, name in assigned
            if kind == "attribute"
            for where, value in with_tensors(getattr(runner.get_submodule(path), name), dotted(path, name))
            if isinstance(value, torch.Tensor) or not _is_cache(value, recorder)
        )
        left += tuple(change.place for change in changes if change.place and not _is_cache(change.value, recorder))
        for argument in recorder.left_in_arguments(output):
            left += (f"{OF_ARGUMENT}{argument}",)
            recorder.settled.append(Settled(f"what the forward puts into its argument {argument}", name, lost=True))
        if values:
            difference = self._at_the_next_call(
                recorder, runner, inputs, list(of_kind(contents_of(values, set()), torch.Tensor))
            )
            if difference is not None:
                finding = f"{difference.what} hangs on what an earlier call left in the model"
                recorder.settled.append(Settled(finding, difference.place or name, True, contexts.STATE))
        changing = dict.fromkeys(_changing(recorder.graph))
        changed = {str(node.target) for node in changing}
        changed |= {dotted(path, attribute) for path, kind, attribute in assigned if kind == "buffer"}
        numbers = {dotted(path, attribute) for path, kind, attribute in assigned if kind == "attribute"}
        asked_numbers = (dotted(asked.module, asked.keys[0]) for asked in recorder.attributes_asked)
        for asked, where in {**recorder.asked, **dict.fromkeys(sorted(asked_numbers), name)}.items():
            if asked in changed | numbers:
                finding = f"the course of the forward hangs on what an earlier call left in {asked}"
                recorder.settled.append(Settled(finding, where, True, contexts.STATE))
        unregistered = set(recorder.plain.values())
        for node in changing:
            if node.target in unregistered:  # where it was read, it may be a constant
                finding = f"what the forward writes into the tensor {node.target}"
                recorder.settled.append(Settled(finding, node.meta.get("module_path") or name, lost=True))
        compared = _arguments_behind(recorder.settling)
        _without_dead_code(recorder.graph)
        by_mode = recorder.by_mode or any(map(switches_itself, runner.modules()))
        comparisons, by_size = recorder.comparisons, recorder.by_size
        questions = frozenset(recorder.questions)
        settled = recorder.settled
        return Record(recorder.graph, form, settled, compared, comparisons, by_mode, by_size, questions, left, written)

    def _recorder(self, runner: nn.Module) -> Recorder:
        recorder = Recorder(runner, self.device, self.functions, self.constants, self.memory, self.originals)
        LEFTOVERS.last.append(recorder)
        return recorder

    def _refuse_what_hangs_on_counts(
        self, first: Recorder, mode: str, inputs: Inputs, dtype: Callable[[torch.dtype], torch.dtype] | None
    ) -> None:
        """Refuse a forward that does something else where another number of entries of a mask is true.

        Raises
        ------
        UntraceableError: it does.
        """
        turned = (c.turning for c in sorted(first.comparisons) if c.size in first.counts and c.number > 1)
        for count in (*OTHERS, *map(taking, turned)):
            runner = with_sources(twin_of(self.bare, dtype, share=dtype is None))
            runner.train(mode == "train")
            again = self._recorder(runner)
            again.count = count
            try:
                output, _ = taken_apart(_run(again, bound(self.bare, inputs), len(inputs[0])))
            except UntraceableError:
                difference: Difference | None = Difference(None, "its course")
            except CaptureError:  # the forward does not take so many
                continue
            else:
                again.graph.output(again.result(output))
                difference = next(differences(first.graph, again.graph), None)
            if difference is not None:
                raise _hanging_on_counts(difference.what, difference.place or type(self.bare).__name__)

    def _at_the_next_call(
        self, first: Recorder, runner: nn.Module, inputs: Inputs, leftovers: list[torch.Tensor]
    ) -> Difference | None:
        """Where the next run of a model that has just been run parts from the first, if it does.

        leftovers: what the first run left in attributes. To read it is no difference where it is made of weights alone.
        """
        parting: Difference | None = None
        unchanging = _made_of_weights(first.graph, {first.nodes[id(t)] for t in leftovers if id(t) in first.nodes})
        for nodes in ([], unchanging) if unchanging else ([],):
            again = self._recorder(runner)
            for tensor in leftovers:
                if id(tensor) in first.nodes and first.nodes[id(tensor)].target in self.constants:
                    again.plain.pop(id(tensor), None)  # it goes by the name of the constant
            paired = again.take_over(first, nodes)
            try:
                output, _ = taken_apart(_run(again, bound(self.bare, inputs), len(inputs[0])))
            except CaptureError:
                parting = parting or Difference(None, "the course of the forward")
                continue
            finally:
                first.by_mode, first.by_size = first.by_mode or again.by_mode, first.by_size or again.by_size
            again.graph.output(again.result(output))
            difference = next(differences(first.graph, again.graph, paired), None)
            if difference is None:
                return None
            parting = parting or difference
        return parting


_NOTHING = object()


def _hanging_on_counts(what: str, where: str) -> UntraceableError:
    return UntraceableError(
        f"{what} hangs on how many entries of a mask are true", where=where, remedy=IN_TENSOR_OPERATIONS
    )


def _changed_by_mode(model: nn.Module, training: bool) -> Iterator[Settled]:
    """Switches the mode; what layers with weights do besides, such as to merge others into these."""
    parts = dict(model.named_modules())
    switching = {path: part for path, part in parts.items() if switches_itself(part)}
    own = {path for path, part in switching.items() if any(True for _ in nn.Module.parameters(part, recurse=False))}
    before = state_of(model) if own else {}
    remedy = "pass a model whose train() and eval() run"
    with as_error(CaptureError, "a change of mode fails", where=type(model).__name__, remedy=remedy):
        model.train(training)
    made = next((path for path, _ in model.named_modules() if path not in parts), None) if switching else None
    if made is not None:
        mode = "train" if training else "eval"
        raise CaptureError(
            f"a change to {mode} mode gives the model a part that it does not have now",
            where=made,
            remedy=f"call model.{mode}() first, then grow it",
        )
    left = [path for path, part in parts.items() if part.training is not training] if switching else []
    if left:
        finding = f"that a change to {'train' if training else 'eval'} mode leaves {len(left)} of its parts as they are"
        yield Settled(finding, left[0] or type(model).__name__, lost=True)
    for (path, kind, name), value in state_of(model).items() if own else ():
        was = before.get((path, kind, name), _NOTHING)
        kept = isinstance(value, torch.Tensor) or isinstance(was, torch.Tensor)  # of which the record has how
        if path in own and kind == "attribute" and not kept and not is_same(value, was):
            finding = f"what a change of mode does to {name} and to weights"
            yield Settled(finding, path or type(model).__name__, lost=True)


def _is_cache(value: Any, recorder: Recorder) -> bool:
    """Whether a container has tensors that are made of weights alone: a table by sizes, kept for the next call."""
    made = [recorder.nodes[id(tensor)] for tensor in of_kind(value, torch.Tensor) if id(tensor) in recorder.nodes]
    return set(made) <= set(_made_of_weights(recorder.graph, made))


def _made_of_weights(graph: fx.Graph, results: Iterable[fx.Node]) -> list[fx.Node]:
    """The nodes behind results whose value hangs on tensors alone that the model has and leaves as they are."""
    changing = set(_changing(graph))
    unchanging: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            is_made = node not in changing
        else:
            calls = node.op in ("call_function", "call_method") and not writes(node) and not draws(name_of(node))
            is_made = calls and bool(_sources(node)) and unchanging.issuperset(_sources(node))
        unchanging |= {node} if is_made else set()
    return sorted(reached(unchanging.intersection(results), _sources))


def _sources(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values a node reads: not those that say of which type a tensor is, or where."""
    types = (torch.dtype, torch.device)
    return [source for source in node.all_input_nodes if not isinstance(source.meta["value"], types)]


def _changing(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes of tensors of the model that a run writes to, also through what may be a view, or a layer may."""
    layers = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    for node in graph.nodes:
        is_buffer = node.op == "get_attr" and not isinstance(node.meta["value"], nn.Parameter)
        if is_buffer and str(node.target).rpartition(".")[0] in layers:
            yield node
        written = node.args[0] if writes(node) and node.args else None
        made = shown_by(written) if isinstance(written, fx.Node) else None
        if made is not None and made.op == "get_attr":
            yield made


def _arguments_behind(nodes: set[fx.Node]) -> set[str]:
    """The names of the arguments that numbers were computed from."""
    return {str(node.target) for node in behind(nodes) if node.op == "placeholder"}


def _run(recorder: Recorder, arguments: dict[str, Any], positional: int) -> Any:
    """What the forward returns; its own errors become errors of capture that say where they arose."""
    try:
        with without_chance(recorder, lambda: recorder.again().record(arguments, positional)):
            return recorder.record(arguments, positional)
    except CaptureError:
        raise
    except FxgrowError as error:
        raise CaptureError(error.what, where=error.where, remedy=error.remedy) from error
    except Exception as error:
        if "fxgrow_failed" in error.__dict__:  # no name for it: it would hold this frame, which holds it
            raise error.__dict__.pop("fxgrow_failed") from error
        place = getattr(error, "fxgrow_place", type(recorder.root).__name__)
        raise UntraceableError(
            f"the forward cannot be captured: {first_line(error)}",
            where=place,
            remedy="rewrite control flow that depends on the values of tensors, or grow the parts around it",
        ) from error


def bound(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Inputs by parameter name of the model's forward."""
    args, kwargs = inputs
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"the model's forward does not take these inputs: {error}",
            where=type(model).__name__,
            remedy="pass example_inputs as the model is called",
        ) from None
    values: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        stars = 1 if kind is inspect.Parameter.VAR_POSITIONAL else 2 if kind is inspect.Parameter.VAR_KEYWORD else 0
        values["*" * stars + name] = value
    return values


def _without_dead_code(graph: fx.Graph) -> None:
    """Take out what nothing reads; a module still makes these calls, so that they are noted with the node behind."""
    before, dead = list(graph.nodes), list[fx.Node]()
    graph.eliminate_dead_code(_stays)
    kept = set(graph.nodes)
    for node in before:
        calls = [*dead, *node.meta.get(ASIDE, ())]
        if node not in kept:
            dead = [*calls, node]
        elif node.op != "get_attr":
            dead, node.meta[ASIDE] = [], calls


def _stays(node: fx.Node) -> bool:
    """Nodes that stay although nothing may read them: also where tensors meet, whose sizes have to go together."""
    if is_impure(node) or node.users:  # what has users is not asked for
        return True
    tensors = [isinstance(source.meta["value"], torch.Tensor) for source in (node, *node.all_input_nodes)]
    return tensors[0] and sum(tensors) > 2 and law_of_call(node, None) is not None


def is_impure(node: fx.Node) -> bool:
    """Nodes that matter although nothing reads them: inputs, contexts, in-place writes, modules."""
    acting = node.op in ("placeholder", "output", "call_module") or node.target in contexts.STATEMENTS
    return acting or writes(node)
