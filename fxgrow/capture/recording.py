"""Runs a model's forward in one mode: what each run recorded."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture import contexts
from fxgrow.capture.answers import behind
from fxgrow.capture.attributes import with_sources
from fxgrow.capture.builder import ASIDE, OutsideError
from fxgrow.capture.chance import without_chance
from fxgrow.capture.contexts import Settled
from fxgrow.capture.evaluation import Memory
from fxgrow.capture.held_state import HeldState
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.leavings import Leavings, made_of_weights
from fxgrow.capture.leftovers import LEFTOVERS
from fxgrow.capture.masks import OTHERS, taking
from fxgrow.capture.methods import RunningHook
from fxgrow.capture.numbers import SizeComparison
from fxgrow.capture.outputs import Form, taken_apart
from fxgrow.capture.probing import AS_CAPTURED, COURSE, Circumstances, Difference, differences
from fxgrow.capture.questions import Question
from fxgrow.capture.recorder import Recorder, Shapes
from fxgrow.capture.relations import Relation
from fxgrow.capture.shapes import IN_TENSOR_OPERATIONS
from fxgrow.capture.skeleton import twin_of
from fxgrow.errors import CaptureError, FxgrowError, UntraceableError, as_error, first_line
from fxgrow.modules.devices import callers_code
from fxgrow.modules.replacing import replaced
from fxgrow.modules.shared_state import SharedState
from fxgrow.modules.switching import switches_itself
from fxgrow.opaque import CustomFunction
from fxgrow.rules.calls import targets, writes
from fxgrow.rules.registry import law_of_call

_ONE_AT_A_TIME = threading.RLock()
"""What tells a recorder of calls stands, for a while, in for attributes that all threads share."""


class FailedError(UntraceableError):
    """The forward raises an error of its own: it may not take what it was called with."""


@dataclass(frozen=True)
class Record:
    """One run of a forward: its graph, the class of its output, what the graph cannot keep.

    numbers: the names of arguments that are numbers which the forward compares. comparisons: of sizes with literals, by
    the forward. relations: comparisons of what is computed from several sizes, or in other ways. questions: that it
    asked of its inputs besides. by_mode, by_size: whether the forward asked for what another mode, or another size of
    the inputs, could change; else the record would be the same. left: the paths of attributes in which the forward
    leaves tensors. written: the numbers that it gives modules that are a node, by path and name, even if they are what
    they were before. hooks: those that give something else than they are given.
    """

    graph: fx.Graph
    form: Form | None
    settled: list[Settled]
    numbers: set[str]
    comparisons: set[SizeComparison]
    by_mode: bool
    by_size: bool
    questions: frozenset[Question] = frozenset()
    left: tuple[str, ...] = ()
    written: dict[tuple[str, str], Any] = field(default_factory=dict)
    relations: frozenset[Relation] = frozenset()
    hooks: frozenset[RunningHook] = frozenset()


class Recording:
    """Records a model again and again, and keeps what its records share.

    shapes: of what its modules were given and gave in the first record. features: what `forward_features` gave there.
    """

    def __init__(
        self,
        bare: nn.Module,
        device: torch.device,
        originals: Mapping[int, str] | None = None,
        under: Circumstances = AS_CAPTURED,
    ) -> None:
        """originals: the names of the tensors of the model that `bare` is a copy of, by their identities.

        under: where a record does not say otherwise.
        """
        self.bare = bare
        self.device = device
        self.originals = originals or {}
        self.under = under
        self.functions: dict[str, CustomFunction] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.memory = Memory()
        self.cached = False
        """Whether it called functions that keep what they gave, so that it may make fewer calls another time."""
        self.shapes: Shapes = {}
        self.features: Any = None
        self.graph = fx.Graph()
        """What the last run recorded, also where it failed."""
        self._as_it_was: nn.Module | None = None
        """What the last run has left as it was, so that the next one can run it."""

    def record(self, mode: str, inputs: Inputs, under: Circumstances | None = None) -> Record:
        """A run in a mode."""
        dtype, gradients, casting = under or self.under

        def run() -> Record:
            with SharedState(self.bare) as shared, shared.caches_bypassed() as called:
                record = copy_context().run(self._record, mode, inputs, dtype, shared)
            self.cached |= bool(called)
            return record

        with (
            _ONE_AT_A_TIME,
            torch.set_grad_enabled(gradients),
            replaced(torch, "is_inference_mode_enabled", lambda: not gradients),  # where they are off, for all it tells
            contexts.autocast_switched(casting),
            callers_code(),
        ):
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
        runner = self._runner(dtype)
        switched = list(_changed_by_mode(runner, mode == "train"))
        recorder = self._recorder(runner)
        recorder.settled.extend(switched)
        self.graph = recorder.graph
        before = HeldState(runner)
        output, form = self._output(recorder, arguments, len(inputs[0]))
        after = HeldState(runner)
        changes = after.changes_since(before).items()
        assigned = {key: value for key, (_, value) in changes if id(value) not in recorder.kept}
        recorder.graph.output(recorder.result(output))
        if recorder.counts:
            self._refuse_what_hangs_on_counts(recorder, mode, inputs, dtype)
        if not self.shapes:
            self.shapes, self.features = recorder.shapes, recorder.features
        called = targets([recorder.graph], "call_module")
        written = {key: numbers for key, numbers in after.numbers_since(before).items() if key[0] in called}
        run = Leavings(recorder, assigned, written, shared.changed(), recorder.left_in_arguments(output))
        recorder.settled.extend((*run.in_modules(), *run.in_layers(), *run.elsewhere()))
        left = tuple(run.places())
        if run.values:
            recorder.settled.extend(self._parts_at_the_next_call(recorder, inputs, run.tensors()))
        recorder.settled.extend((*run.decided_by(), *run.written_into()))
        compared = {str(node.target) for node in behind(recorder.settling) if node.op == "placeholder"}
        _without_dead_code(recorder.graph)
        switching = any(map(switches_itself, runner.modules()))
        by_mode = recorder.by_mode or switching
        if dtype is None and not (switching or run.shared) and after.is_that_of(before):
            self._as_it_was = runner
        return Record(
            recorder.graph,
            form,
            recorder.settled,
            numbers=compared,
            comparisons=recorder.comparisons,
            by_mode=by_mode,
            by_size=recorder.by_size,
            questions=frozenset(recorder.questions),
            left=left,
            written={key: number for key, (_, number) in written.items()},
            relations=frozenset(recorder.relations),
            hooks=frozenset(recorder.methods.exchanging),
        )

    def _runner(self, dtype: Callable[[torch.dtype], torch.dtype] | None) -> nn.Module:
        """The model to run, whose attributes remember where they stand."""
        if dtype is None and self._as_it_was is not None:
            runner, self._as_it_was = self._as_it_was, None
            return runner
        return with_sources(twin_of(self.bare, dtype, share=dtype is None))

    def _output(self, recorder: Recorder, arguments: dict[str, Any], positional: int) -> tuple[Any, Form | None]:
        """What the forward returns, taken apart."""
        try:
            return taken_apart(_run(recorder, arguments, positional))
        except CaptureError as error:
            if not recorder.counts or isinstance(error, UntraceableError):
                raise
            raise _hanging_on_counts("whether it runs", error.where or type(self.bare).__name__) from error

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
            runner = self._runner(dtype)
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

    def _parts_at_the_next_call(
        self, first: Recorder, inputs: Inputs, leftovers: list[torch.Tensor]
    ) -> Iterator[Settled]:
        """Where the next run of a model that has just been run parts from the first, if it does.

        leftovers: what the first run left in attributes. To read it is no difference where it is made of weights alone.
        """
        parting: Difference | None = None
        unchanging = made_of_weights(first.graph, {first.nodes[id(t)] for t in leftovers if id(t) in first.nodes})
        for nodes in ([], unchanging) if unchanging else ([],):
            again = self._recorder(first.root)
            for tensor in leftovers:
                if id(tensor) in first.nodes and first.nodes[id(tensor)].target in self.constants:
                    again.plain.pop(id(tensor), None)  # it goes by the name of the constant
            paired = again.take_over(first, nodes)
            try:
                output, _ = taken_apart(_run(again, bound(self.bare, inputs), len(inputs[0])))
            except CaptureError:
                parting = parting or Difference(None, COURSE)
                continue
            finally:
                first.by_mode, first.by_size = first.by_mode or again.by_mode, first.by_size or again.by_size
            again.graph.output(again.result(output))
            difference = next(differences(first.graph, again.graph, paired), None)
            if difference is None:
                return
            parting = parting or difference
        if parting is not None:
            finding = f"{parting.what} hangs on what an earlier call left in the model"
            yield Settled(finding, parting.place or type(self.bare).__name__, True, contexts.STATE)


def _hanging_on_counts(what: str, where: str) -> UntraceableError:
    return UntraceableError(
        f"{what} hangs on how many entries of a mask are true", where=where, remedy=IN_TENSOR_OPERATIONS
    )


def _changed_by_mode(model: nn.Module, training: bool) -> Iterator[Settled]:
    """Switches the mode; what layers with weights do besides, such as to merge others into these."""
    parts = dict(model.named_modules())
    switching = {path: part for path, part in parts.items() if switches_itself(part)}
    own = {path for path, part in switching.items() if any(True for _ in nn.Module.parameters(part, recurse=False))}
    before = HeldState(model) if own else None
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
    changes = HeldState(model).changes_since(before) if before is not None else {}
    for (path, kind, name), values in changes.items():
        kept = any(isinstance(value, torch.Tensor) for value in values)  # of which the record has how
        if path in own and kind == "attribute" and not kept:
            finding = f"what a change of mode does to {name} and to weights"
            yield Settled(finding, path or type(model).__name__, lost=True)


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
        raise FailedError(
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
