"""Which methods of modules run when a forward makes a call: a grown module makes the same call in the same method."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn

from fxgrow.modules.containers import of_kind

Function = TypeVar("Function", bound=Callable[..., Any])

RUNNING = "running"
"""The key under which nodes keep the runs of methods that they were made in, from without to within."""

CALLER = "caller"
"""The key under which nodes keep the name of the function whose code makes the call."""

INSIDE = "inside"
"""The key under which nodes keep what `kinds_called` says: the modules that the one at whose place they are calls."""

HOOK = "hook"
"""The key under which nodes keep the hook that made them, as a `RunningHook`."""

_ASIDE = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_RECORDING = tuple(str(Path(__file__).with_name(f"{name}.py")) for name in ("builder", "recorder", "questions"))

_CALLING = {"_call_impl": "self", "_expanded": "module"}
"""The functions that call modules, torch's and the recorder's, and by what name they hold them."""

_CALLING_FILES = (nn.Module._call_impl.__code__.co_filename, _RECORDING[1])


class MethodRun(NamedTuple):
    """A run of a method other than the forward; path: of the module; number: which of the runs in one record."""

    path: str
    method: str
    number: int


class RunningHook(NamedTuple):
    """A hook on a forward that runs; path: of its module; name: of its function."""

    path: str
    name: str


class MethodRuns:
    """Tells which methods of modules run.

    Parameters
    ----------
    modules: those of a model. paths: of these, by their id.
    """

    def __init__(self, modules: Collection[nn.Module], paths: Mapping[int, str]) -> None:
        self.paths = paths
        self.names = {id(code): name for kind in set(map(type, modules)) for name, code in _methods(kind)}
        self.hooks = {id(code): code.co_name for part in modules for code in _codes_of_hooks(part)}
        self.exchanging: set[RunningHook] = set()
        """The hooks that gave something else than they were given, be it without a call."""
        self.outermost: FrameType | None = None
        self.runs: dict[FrameType, MethodRun | None] = {}

    @contextmanager
    def inside(self, frame: FrameType) -> Iterator[None]:
        """Look at what runs inside a frame, and at nothing else."""
        self.outermost = frame
        try:
            yield
        finally:
            self.outermost = None
            self.runs.clear()  # frames hold what their locals do

    def now(self) -> tuple[MethodRun, ...]:
        """The runs that are under way, from without to within."""
        frame = sys._getframe(1) if self.names and self.outermost is not None else None
        runs = []
        while frame is not None and frame is not self.outermost:
            name = self.names.get(id(frame.f_code))
            if name is not None:
                runs.append(self._run(frame, name))
            frame = frame.f_back
        return tuple(run for run in reversed(runs) if run is not None)

    def hook(self) -> RunningHook | None:
        """The hook on a forward that runs; None where none does."""
        frame = sys._getframe(1) if self.hooks and self.outermost is not None else None
        name = None
        while frame is not None and frame is not self.outermost:
            name = name or self.hooks.get(id(frame.f_code))
            if name is not None and _calls_module(frame):
                return RunningHook(self.paths.get(id(frame.f_locals[_CALLING[frame.f_code.co_name]]), ""), name)
            frame = frame.f_back
        return None

    @contextmanager
    def hooks_noted(self, module: nn.Module) -> Iterator[None]:
        """Note which hooks on the forward of a module give something else than they are given."""
        held = [(hooks, key, hook, first) for hooks, first in _hooks_of(module) for key, hook in hooks.items()]
        noted = [(*each, self._noting(each[2], each[3])) for each in held if _code_of_hook(each[2]) is not None]
        for hooks, key, _, _, noting_it in noted:
            hooks[key] = noting_it
        try:
            yield
        finally:
            for hooks, key, hook, _, noting_it in noted:
                if hooks.get(key) is noting_it:  # else it has taken itself off
                    hooks[key] = hook

    def _noting(self, hook: Function, first: bool) -> Function:
        """A hook that is noted where it changes something; first: whether it runs before the forward."""

        @functools.wraps(hook)
        def noted(module: Any, *given: Any) -> Any:
            passed = given if first else given[-1:]
            before = [*of_kind(passed, _HANDED)]
            result = hook(module, *given)
            after = [*of_kind(passed if result is None else result, _HANDED)]
            if not (len(before) == len(after) and all(map(_is_same, before, after))):
                code = _code_of_hook(hook)
                self.exchanging.add(RunningHook(self.paths.get(id(module), ""), getattr(code, "co_name", "")))
            return result

        return noted  # type: ignore[return-value]

    def _run(self, frame: FrameType, name: str) -> MethodRun | None:
        if frame not in self.runs:
            path = self.paths.get(id(frame.f_locals.get(frame.f_code.co_varnames[0])))
            self.runs[frame] = None if path is None else MethodRun(path, name, len(self.runs))
        return self.runs[frame]


_PLAIN = (bool, int, float, str, type(None))
_HANDED = (Tensor, *_PLAIN)


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and type(one) in _PLAIN and bool(one == other))


def _hooks_of(module: nn.Module) -> tuple[tuple[Any, bool], tuple[Any, bool]]:
    """The hooks on the forward of a module, and whether they run before it."""
    return (module._forward_hooks, False), (module._forward_pre_hooks, True)


def names_of_hooks(module: nn.Module) -> set[str]:
    """The names of the functions that hooks of a user's own on the forward of a module run."""
    return {code.co_name for code in _codes_of_hooks(module)}


def _codes_of_hooks(module: nn.Module) -> list[CodeType]:
    hooks = (hook for held, _ in _hooks_of(module) for hook in held.values())
    return [code for code in map(_code_of_hook, hooks) if code is not None]


def _code_of_hook(hook: Any) -> CodeType | None:
    hook = hook.func if isinstance(hook, functools.partial) else hook
    code = getattr(hook, "__code__", None) or getattr(type(hook).__call__, "__code__", None)
    return None if code is None or code.co_filename.startswith(_ASIDE) else code


def kind_before_growth(kind: Any) -> type[nn.Module]:
    """The class of which a class of grown modules was made; of any other class, itself."""
    origin = getattr(kind, "_fxgrow_origin", kind)
    while isinstance(origin, tuple):
        origin = origin[1]
    return origin  # type: ignore[no-any-return]


def held_forward(module: nn.Module) -> Any:
    """The function of a method of its own that a module holds as its forward; None if it holds none."""
    held = vars(module).get("forward")
    return getattr(held, "__func__", None) if getattr(held, "__self__", None) is module else None


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that it was called from, from within to without."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def calling_function() -> str:
    """The name of the function whose code is making a call: the innermost that is neither torch's nor fxgrow's."""
    codes = (frame.f_code for frame in outward(sys._getframe(1)))
    names = (code.co_name for code in codes if not code.co_filename.startswith(_ASIDE))
    return next((name for name in names if not name.endswith(("comp>", "expr>"))), "")


def _while_compiling(function: Function) -> Function:
    """As `torch.compiler.assume_constant_result`, which takes a second to import: runs while `torch.compile` does."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def _calls_of_modules() -> list[FrameType]:
    """The frames that call modules, from within to without."""
    return list(filter(_calls_module, outward(sys._getframe(2))))


def _calls_module(frame: FrameType) -> bool:
    return frame.f_code.co_name in _CALLING and frame.f_code.co_filename in _CALLING_FILES


def _kinds_compiled() -> list[type]:
    """The classes of the modules that `torch.compile` goes through, as it compiles their calls."""
    dynamo = sys.modules.get("torch._dynamo.symbolic_convert")
    running = None if dynamo is None else getattr(dynamo.tls, "current_tx", None)
    return [] if running is None else [kind for _, kind in running.output.current_tx.nn_module_stack.values()]


@_while_compiling
def modules_called() -> int:
    """How many calls of modules are under way."""
    return len(_calls_of_modules()) + len(_kinds_compiled())


@_while_compiling
def kinds_called(since: int = 0) -> str:
    """The names of the classes of which modules are being called, but for the first calls, from without to within."""
    calls, compiled = _calls_of_modules()[::-1], _kinds_compiled()
    kinds = [type(frame.f_locals[_CALLING[frame.f_code.co_name]]) for frame in calls[since:]]
    kinds += compiled[max(0, since - len(calls)) :]
    return "/".join(kind_before_growth(kind).__qualname__ for kind in kinds)


def code_asking() -> CodeType | None:
    """The code of a user's own that asks something of a tensor; None where torch or fxgrow asks for its own ends."""
    codes = (frame.f_code for frame in outward(sys._getframe(1)))
    asking = next((code for code in codes if not code.co_filename.startswith(_RECORDING)), None)
    return None if asking is None or asking.co_filename.startswith(_ASIDE) else asking


def _methods(kind: type) -> Iterator[tuple[str, object]]:
    """The methods that a class of modules adds to torch's own, and the code of each."""
    for base in kind.__mro__:
        if base is nn.Module or base.__module__.startswith("torch.nn."):
            return
        for name, held in vars(base).items():
            if name == "forward" or name.startswith("__") or not inspect.isfunction(held):
                continue
            called: Any = inspect.unwrap(getattr(kind, name))  # a class below may have its own
            code = getattr(called, "__code__", None)
            if code is not None and code.co_argcount:
                yield name, code


@contextmanager
def noting(module: nn.Module, name: str, note: Callable[[Any], None]) -> Iterator[None]:
    """Note what a method of a module gives, if it has that method."""
    names = vars(module)
    if name in names or not hasattr(module, name):
        yield
        return
    plainly = getattr(module, name)

    @functools.wraps(plainly)
    def noted(*args: Any, **kwargs: Any) -> Any:
        arguments = plainly(*args, **kwargs)
        note(arguments)
        return arguments

    names[name] = noted
    try:
        yield
    finally:
        names.pop(name, None)


def runs_of(node: fx.Node, path: str) -> list[MethodRun]:
    """The runs of the methods of one module that a node was made in, from within to without."""
    return [run for run in reversed(node.meta.get(RUNNING, ())) if run.path == path]


def move_runs(node: fx.Node, moved: Callable[[str], str]) -> None:
    """Let a node be made in methods of modules of other names."""
    if runs := node.meta.get(RUNNING):
        node.meta[RUNNING] = tuple(run._replace(path=moved(run.path)) for run in runs)
