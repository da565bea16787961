"""Random draws that no graph can hold: those of Python, numpy and the system, and values that torch draws."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxgrow.capture.methods import outward
from fxgrow.errors import UntraceableError
from fxgrow.modules.libraries import is_library, is_pythons

if TYPE_CHECKING:
    from fxgrow.capture.recorder import Recorder


DRAWS = "draws random numbers by"


def chance(what: str, where: str) -> UntraceableError:
    """The refusal of a forward that leaves its course to chance."""
    return UntraceableError(
        f"the forward {what}, and a graph would hold one outcome for good",
        where=where,
        remedy="draw by torch on the tensors that it changes (as a drop path does), or switch the drawing off",
    )


@contextmanager
def without_chance(recorder: Recorder, again: Callable[[], Any]) -> Iterator[None]:
    """Refuse a forward that draws from a generator of Python's, numpy's or torch's; their state stays as it was.

    again: runs the forward once more, to find the line that draws.

    Raises
    ------
    UntraceableError: something was drawn; it names the line.
    """
    generators = list(_generators(recorder.parts.values()))
    states = [generator.state() for generator in generators]
    try:
        yield
        pairs = zip(generators, states, strict=True)
        drawing = next((generator for generator, state in pairs if not _alike(generator.state(), state)), None)
        if drawing is not None:
            line = _line_of_chance(again, generators)
            raise chance(f"{DRAWS} {drawing.name}" + (f" ({line})" if line else ""), type(recorder.root).__name__)
    except BaseException:
        for generator, state in zip(generators, states, strict=True):
            generator.restore(state)
        raise


@dataclass(frozen=True)
class Generator:
    """A generator of random numbers: its name for people, what reads its state and what puts it back."""

    name: str
    state: Callable[[], Any]
    restore: Callable[[Any], Any]


@contextmanager
def entropy_refused(recorder: Recorder) -> Iterator[None]:
    """Refuse a forward that draws from the entropy of the system, as `secrets` and `random.SystemRandom` do."""
    plainly = os.urandom

    def drawn(count: int) -> bytes:
        if recorder.quiet or _asked_by_library():
            return plainly(count)
        with recorder.refusals():
            raise chance(f"{DRAWS} the entropy of the system ({_line_now()})", recorder.where())

    shared = {id(names): names for names in (vars(os), vars(random), *map(_globals, recorder.parts.values()))}
    places = [(names, name) for names in shared.values() for name, value in names.items() if value is plainly]
    for names, name in places:
        names[name] = drawn
    try:
        yield
    finally:
        for names, name in places:
            names[name] = plainly


def _asked_by_library() -> bool:
    """Whether torch or the like asks for a draw, as where it is imported, and not the forward, through Python's own."""
    frame = sys._getframe(2)
    while frame.f_back is not None and is_pythons(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return is_library(frame.f_globals.get("__name__", ""))


def _generators(modules: Iterable[nn.Module]) -> Iterator[Generator]:
    """The generators that all programs share, and those that modules, or the files of their forwards, have."""
    numpy: Any = sys.modules.get("numpy")
    yield Generator("Python's random", random.getstate, random.setstate)
    if numpy:
        yield Generator("numpy.random", numpy.random.get_state, numpy.random.set_state)
    yield Generator("torch", torch.default_generator.get_state, torch.default_generator.set_state)
    holders: dict[int, dict[str, Any]] = {}
    for module in modules:
        holders.update({id(values): values for values in (module.__dict__, _globals(module))})
    kinds = (torch.Generator, random.Random, *((numpy.random.Generator, numpy.random.RandomState) if numpy else ()))
    attributes = [value for values in holders.values() for value in values.values()]
    drawing = {kind for kind in set(map(type, attributes)) if issubclass(kind, kinds)}
    drawing -= {kind for kind in drawing if issubclass(kind, random.SystemRandom)}  # which has no state
    own = {id(value): value for value in attributes if type(value) in drawing}
    for value in own.values():
        if isinstance(value, torch.Generator):
            yield Generator("a torch.Generator", value.get_state, value.set_state)
        elif isinstance(value, random.Random):
            yield Generator("a random.Random", value.getstate, value.setstate)
        else:
            bits: Any = getattr(value, "bit_generator", None) or value._bit_generator
            yield Generator("a generator of numpy's", partial(getattr, bits, "state"), partial(setattr, bits, "state"))


def _globals(module: nn.Module) -> dict[str, Any]:
    """The names of the file of a module's forward, but for torch's."""
    is_torchs = type(module).__module__.startswith("torch.")
    return {} if is_torchs else getattr(type(module).forward, "__globals__", {})


def _alike(before: Any, after: Any) -> bool:
    """Whether two states of a generator are the same."""
    if isinstance(before, dict):
        return all(_alike(before[key], after[key]) for key in before)
    if isinstance(before, tuple):
        if all(type(item) is int for item in before):  # hundreds of them, of Python's generator
            return bool(before == after)
        return len(before) == len(after) and all(map(_alike, before, after))
    return bool((before == after).all()) if hasattr(before, "all") else bool(before == after)


def _line_of_chance(run: Callable[[], Any], generators: list[Generator]) -> str | None:
    """The file and line after which a generator of random numbers is in another state, found by running it again."""
    lines: list[str] = []
    last = ["", 0]

    def states() -> Any:
        return tuple(generator.state() for generator in generators)

    before = states()

    def watch(frame: Any, event: str, argument: Any) -> Any:
        if event == "call" and _is_aside(frame):
            return None
        if not lines and last[0] and not _alike(states(), before):
            lines.append(f"{Path(str(last[0])).name}, line {last[1]}")
        if event == "return":  # what called it goes on
            frame = next((each for each in outward(frame.f_back) if not _is_aside(each)), None)
        if event in ("line", "return") and frame is not None:
            last[:] = [frame.f_code.co_filename, frame.f_lineno]
        return watch

    tracing = sys.gettrace()
    sys.settrace(watch)
    try:
        with suppress(Exception):  # what was seen before an error counts
            run()
    finally:
        sys.settrace(tracing)
        for generator, state in zip(generators, before, strict=True):
            generator.restore(state)
    return lines[0] if lines else None


def _line_now() -> str:
    """The file and line that is running, of a user's own."""
    frame = next(each for each in outward(sys._getframe(1)) if not _is_aside(each))
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def _is_aside(frame: Any) -> bool:
    """Whether the code that runs is fxgrow's, Python's, torch's or numpy's."""
    file = Path(frame.f_code.co_filename)
    ours_or_pythons = file.parent in (Path(__file__).parent, Path(random.__file__).parent)
    return ours_or_pythons or bool({"torch", "numpy"} & set(file.parts))
