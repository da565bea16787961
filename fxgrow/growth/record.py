"""The claim that every proof rests on: the graphs are what the models run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from fxgrow.capture import Captured, GrownGraphModule
from fxgrow.capture.assemble import parts_left_out
from fxgrow.capture.contexts import STATE, Settled, settled
from fxgrow.capture.flags import other_flags
from fxgrow.capture.probing import GRADIENTS
from fxgrow.capture.questions import NEEDING
from fxgrow.planning.plan import Plan
from fxgrow.proof.certificate import Certificate, Verdict

CLAIM = "the graphs are what the models run"


def record(captured: Captured, source: Any, plan: Plan) -> Certificate:
    """What the graphs of an original and of what grew from it were recorded with, and what was settled by it.

    plan: of the growth. UNKNOWN where the forward hangs on what earlier calls leave in the model.
    """
    conditions = list(_conditions(captured, source, plan))
    unproved = (
        (STATE, GRADIENTS, NEEDING) if plan.form == "module" else (STATE,)
    )  # a graph refuses to run without gradients
    open_ends = [str(note) for note in captured.settled if note.feature in unproved]
    if open_ends:
        return Certificate(CLAIM, "record", tuple(conditions), Verdict.UNKNOWN, "; ".join(open_ends))
    return Certificate(CLAIM, "record", tuple(conditions))


def _conditions(captured: Captured, source: Any, plan: Plan) -> Iterator[str]:
    own = plan.form == "module"
    if isinstance(source, GrownGraphModule):
        yield "the original is a graph module: its graph is what runs"
    else:
        modes = "once for both modes" if "both" in captured.graphs else "once for each mode"
        yield f"the original's forward was run without data, {modes}, on {_in_words(captured.inputs)}"
    if captured.alike:
        yield f"with {_joined(captured.alike)} it does the same"
    for note in captured.settled if own else (*captured.settled, *_parts(captured)):
        if note.feature != STATE and not (own and note.feature in (GRADIENTS, NEEDING)):
            yield f"{note}{_what_becomes_of(note, own)}"
    first = next(iter(captured.graphs.values()))
    values = [f"{node.args[2]}={node.args[1]!r}" for node in first.nodes if node.target is settled]
    if values:
        others = "values not named here may take a course that was not recorded" if own else "the graph refuses others"
        yield f"it was called with {', '.join(values)}: {others}"
    if own:
        flags = dict.fromkeys(f"{flag.name}={value!r}" for flag, value in other_flags(source, captured.graphs.values()))
        if flags:
            yield f"it was recorded with {', '.join(flags)}: of other values no more is proved than is said here"
        yield from _of_other_calls(plan)
        yield "the grown model is of the original's class: its forward was run likewise, and does what the graph does"


def left_out(captured: Captured) -> Iterator[Settled]:
    """What a graph leaves out of what an original does."""
    yield from (note for note in (*captured.settled, *_parts(captured)) if not note.feature)


def _parts(captured: Captured) -> Iterator[Settled]:
    yield from parts_left_out(captured.model, captured.graphs.values())
    yield from (Settled("hooks (forward)", path) for path in captured.hooked)


def _of_other_calls(plan: Plan) -> Iterator[str]:
    proved = [call for course in plan.courses for call in course.calls]
    if proved:
        yield f"proved as well: {', '.join(proved)}"
    if plan.refusals:
        yield f"refused: {', '.join(map(str, plan.refusals))}"
    if plan.calls:
        yield f"of another size after growth, and not compared: what comes of {', '.join(plan.calls)}"


def _what_becomes_of(note: Settled, own: bool) -> str:
    if own:
        return ": each course is proved" if note.inputs is not None else ": on the other course the same grows"
    return ": the graph refuses others" if note.feature else ": the graph leaves it out"


def _in_words(inputs: Any) -> str:
    args, kwargs = inputs
    shown = [_value(value) for value in args] + [f"{name}={_value(value)}" for name, value in kwargs.items()]
    return ", ".join(text for text in shown if text) or "no inputs"


def _value(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_value(item)}' for key, item in value.items())}}}"
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__


def _joined(texts: tuple[str, ...]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
