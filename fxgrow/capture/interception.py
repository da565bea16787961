"""Calls that recording tensors would miss: functions that stay one node, and functions with their own backward."""

from __future__ import annotations

import functools
import math
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import _symbolic_trace
from torch.utils._pytree import tree_leaves

from fxgrow import guards
from fxgrow.capture import contexts
from fxgrow.capture.entrywise import is_entry_by_entry
from fxgrow.capture.methods import modules_called
from fxgrow.capture.numbers import OF_MATH, remembered
from fxgrow.errors import UntraceableError
from fxgrow.modules.containers import each_tensor
from fxgrow.modules.libraries import home_of, is_known
from fxgrow.modules.replacing import replaced
from fxgrow.opaque import CustomFunction
from fxgrow.rules import registry
from fxgrow.rules.pointwise import Pointwise, tried

if TYPE_CHECKING:
    from fxgrow.capture.recorder import Recorder

Function = Callable[..., Any]

HOOKED_WHOLE: ContextVar[bool] = ContextVar("layers with hooks are one node", default=True)
"""Whether a layer that hooks run around is one node. For plans of older versions it is spelled out."""


def whole(recorder: Recorder, module: Any, path: str, plainly: Function, args: Any, kwargs: Any) -> Any:
    """The call of a layer as one node; where the layer multiplies its input, that is another."""
    if (kind := registry.kind_of(module)) is not type(module):
        args, plainly = (guards.multiplied(args[0], module.factor), *args[1:]), kind.forward
    return recorder.leaf(module, path, plainly, args, kwargs)


def between_hooks(recorder: Recorder, module: Any, path: str, plainly: Function, args: Any, kwargs: Any) -> Any:
    """The same for a layer that hooks run around: what they do is recorded before and behind the node."""
    forward = type(module).forward

    def called(*args: Any, **kwargs: Any) -> Any:
        if recorder.has_its_own(module):
            return whole(recorder, module, path, forward, args, kwargs)
        return forward(module, *args, **kwargs)  # a hook has given it other tensors

    vars(module)["forward"] = called
    try:
        return plainly(module, *args, **kwargs)
    finally:
        del vars(module)["forward"]


@contextmanager
def intercepted(recorder: Recorder) -> Iterator[None]:
    """Let a recorder know of them."""
    with ExitStack() as stack:
        for calls in (_applied_whole, _kept_whole, _moved_nowhere, _without_backward_hooks):
            stack.enter_context(calls(recorder))
        stack.enter_context(_scripts_run_as_written())
        yield


@contextmanager
def _without_backward_hooks(recorder: Recorder) -> Iterator[None]:
    """Hooks of modules on their backward pass do not run in a record, which has none; a graph would lose them."""

    def none(module: nn.Module) -> list[Any]:
        if not recorder.quiet and (module._backward_hooks or module._backward_pre_hooks):
            recorder.settled.append(contexts.Settled("a hook on the backward pass", recorder.where(), lost=True))
        return []

    with (
        replaced(nn.Module, "_get_backward_pre_hooks", none),
        replaced(nn.Module, "_get_backward_hooks", lambda module: (none(module), [])),
    ):
        yield


@contextmanager
def _moved_nowhere(recorder: Recorder) -> Iterator[None]:
    """A layer that is moved to the device that it is on, and to the type that it has, stays as it is."""
    plainly = nn.Module.to

    def moved(module: Any, *args: Any, **kwargs: Any) -> Any:
        if recorder.quiet or id(module) not in recorder.modules:
            return plainly(module, *args, **kwargs)
        with torch._C.DisableTorchFunction():
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        held = [*nn.Module.parameters(module), *module.buffers()]
        other_type = dtype is not None and any(t.is_floating_point() and t.dtype != dtype for t in held)
        here = (recorder.device.type, recorder.device.index), (recorder.device.type, None)
        if other_type or layout is not None or (device is not None and (device.type, device.index) not in here):
            with recorder.refusals():
                raise UntraceableError(
                    "the forward moves a layer to another device, type or layout",
                    where=recorder.where(),
                    remedy="move it where the model is made, or grow the parts around it",
                )
        return module

    with replaced(nn.Module, "to", moved):
        yield


@contextmanager
def _scripts_run_as_written() -> Iterator[None]:
    """Functions under `torch.jit.script` run as the Python that they were made from.

    Traced ones do not: in them, sizes are settled.
    """
    plainly = torch.jit.ScriptFunction.__call__

    def call(script: Any, *args: Any, **kwargs: Any) -> Any:
        written = getattr(script, "_torchdynamo_inline", None)  # where torch.compile looks for it, too
        is_traced = vars(script).get("__name__") != "ScriptFunction"
        return plainly(script, *args, **kwargs) if written is None or is_traced else written(*args, **kwargs)

    with replaced(torch.jit.ScriptFunction, "__call__", call):
        yield


@contextmanager
def _applied_whole(recorder: Recorder) -> Iterator[None]:
    """A function with a backward of its own stays whole, as a module, so that it keeps it.

    One that is given code of the model to run, as for checkpointing or in reversible networks, is run from inside.
    """
    plainly = vars(torch.autograd.Function)["apply"]

    def apply(function: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        if recorder.quiet or not recorder.knows((args, kwargs)):
            return plainly.__get__(None, function)(*args, **kwargs)
        if home_of(function) == "torch.utils.checkpoint":
            contexts.checkpointed(recorder)
            return args[0](*args[2:])
        if any(callable(item) and not isinstance(item, torch.Tensor) for item in tree_leaves((args, kwargs))):
            what = f"the backward pass of {function.__name__}"
            recorder.settled.append(contexts.Settled(what, recorder.where(), lost=True))
            return _from_inside(recorder, function, args, kwargs)
        paths = {module.function: path for path, module in recorder.functions.items()}
        path = paths.get(function, f"_function_{len(paths)}")
        is_first = path not in recorder.functions
        module = recorder.functions.setdefault(path, CustomFunction(function))
        recorder.quiet = True
        operands, named = each_tensor((args, kwargs), lambda tensor: recorder.bare.get(id(tensor), tensor))
        is_pointwise = is_entry_by_entry(plainly.__get__(None, function), operands, named)
        module.law = Pointwise(tried) if is_pointwise and (is_first or module.law is not None) else None
        recorder.quiet = False

        def run(_: nn.Module, *arguments: Any, **named: Any) -> Any:
            return plainly.__get__(None, function)(*arguments, **named)

        recorder.paths.append((path, modules_called()))
        try:
            return recorder.leaf(module, path, run, args, kwargs)
        finally:
            recorder.paths.pop()

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = plainly


def _from_inside(recorder: Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the forward of such a function gives; whether gradients pass is a matter of its backward."""
    context: Any = torch.autograd.function.FunctionCtx()
    context.needs_input_grad = tuple(isinstance(item, torch.Tensor) and item.requires_grad for item in args)
    of_context = function.setup_context is torch.autograd.function._SingleLevelFunction.setup_context
    regions, recorder.regions = recorder.regions, None
    try:
        return function.forward(*((context,) if of_context else ()), *args, **kwargs)
    finally:
        recorder.regions = regions


@contextmanager
def _kept_whole(recorder: Recorder) -> Iterator[None]:
    """Functions of libraries that have rules are one node each, wherever modules of the model call them by name.

    And those of `math` remember what they were given.
    """
    of_libraries = tuple(registry.whole_functions())
    functions = (*of_libraries, *_wrapped_by_users(), *OF_MATH)
    homes = {type(module).__module__ for module in recorder.parts.values()}
    namespaces = [vars(sys.modules[home]) for home in homes if home in sys.modules]
    namespaces += [vars(math), *_symbolic_trace._wrapped_fns_to_patch.values()]
    plain = {(id(names), name): (names, f) for names, name, f in _places(namespaces, functions)}
    plain.update({(id(names), name): (names, f) for names, name, f in _places_in_libraries(of_libraries)})
    recorded = {function: _one_node(recorder, function) for function in functions}
    recorded.update({function: remembered(function) for function in OF_MATH})
    try:
        for (_, name), (names, function) in plain.items():
            names[name] = recorded[function]
        yield
    finally:
        for (_, name), (names, function) in plain.items():
            names[name] = function


Names = dict[str, Any]


def _places(namespaces: Iterable[Names], functions: Iterable[Function]) -> Iterator[tuple[Names, str, Function]]:
    """The namespaces in which functions stand, with what each is called there."""
    known = {id(function) for function in functions}
    for names in namespaces:
        yield from ((names, name, value) for name, value in names.items() if id(value) in known)


@functools.lru_cache(maxsize=2)
def _places_in_libraries(functions: tuple[Function, ...]) -> list[tuple[Names, str, Function]]:
    """The same in the modules that define them, and in the packages around these."""
    paths = {home_of(function) for function in functions}
    packages = {path[:end] for path in paths for end, letter in enumerate(f"{path}.") if letter == "."}
    return list(_places([vars(sys.modules[path]) for path in sorted(packages) if path in sys.modules], functions))


def _one_node(recorder: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """What stands for a function while the recorder is at work."""

    @functools.wraps(function)
    def kept(*args: Any, **kwargs: Any) -> Any:
        if recorder.quiet or not recorder.knows((args, kwargs)):
            return function(*args, **kwargs)
        recorder.quiet = True
        try:
            operands = recorder.operands(args, kwargs)
            value = recorder.evaluate(function, function.__name__, function, args, kwargs)
        finally:
            recorder.quiet = False
        node = recorder.operation("call_function", function, operands, value)
        node.meta["is_wrapped"] = True  # to torch.fx, when it traces the graph again
        return value

    return kept


def _wrapped_by_users() -> Iterator[Callable[..., Any]]:
    """Functions that `torch.fx.wrap` was told to keep whole, but for those of libraries, which are run from inside."""
    for (_, name), names in _symbolic_trace._wrapped_fns_to_patch.items():
        function = names.get(name)
        if isinstance(function, types.FunctionType) and not is_known(function):
            yield function
