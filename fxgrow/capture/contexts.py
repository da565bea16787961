"""What a forward does besides computing: contexts it enters, arguments it settles, state it keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxgrow.capture import chance, gradients
from fxgrow.capture.call_guards import CALL_GUARDS
from fxgrow.capture.numbers import Float, Int
from fxgrow.errors import SettledError
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.devices import CASTING
from fxgrow.modules.replacing import replaced

if TYPE_CHECKING:
    from fxgrow.capture.inputs import Inputs
    from fxgrow.capture.recorder import Recorder


STATE = "state"
"""What earlier calls left in the model."""


@dataclass(frozen=True)
class Settled:
    """Something that one record settles of a forward, and where.

    lost: a graph would leave it out. feature: of a call, that it hangs on, one of `probing.FEATURES`, each of which a
    graph guards, or `STATE`. inputs: such as the forward takes another course on.
    """

    what: str
    where: str
    lost: bool = False
    feature: str = ""
    inputs: Inputs | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.what} (at {self.where})"


def settled(argument: Any, value: Any, name: str) -> None:
    """Refuse another value of an argument than the one that a graph was captured with.

    >>> settled(None, None, "mask")
    >>> try:
    ...     settled(True, False, "pool")
    ... except SettledError as error:
    ...     print(error.what)
    pool was False when the model was captured, and is True now
    """
    if isinstance(argument, fx.Proxy):
        return
    if not _alike_values(argument, value):
        now = "a collection of tensors" if holds_tensor(argument) else repr(argument)
        now = type(argument).__name__ if isinstance(argument, torch.Tensor) else now
        raise SettledError(
            f"{name} was {value!r} when the model was captured, and is {now} now",
            remedy=f"grow the model with example_inputs that hold {name} as it is called",
        )


def _alike_values(argument: Any, value: Any) -> bool:
    if isinstance(value, (list, tuple, dict)) and isinstance(argument, (list, tuple, dict)):
        empty = not argument and not value  # torch's interpreter, which exports, gives a list for `**kwargs`
        return empty or bool(argument == value)  # of whichever class a graph keeps it as
    recorded = {int: Int, float: Float}.get(type(value))
    alike = type(argument) is type(value) or (recorded is not None and isinstance(argument, recorded))
    return argument is value or (alike and bool(argument == value))


def sized(tensor: Any, axes: tuple[int, ...], sizes: tuple[int, ...], name: str) -> None:
    """Refuse an input of another size than the one that a graph was captured with.

    >>> sized(torch.ones(2, 3), (0,), (2,), "x")
    """
    if isinstance(tensor, fx.Proxy):
        return
    now = tuple(tensor.shape[axis] for axis in axes)
    if now != sizes:
        raise SettledError(
            f"{name} had the sizes {list(sizes)} along the axes {list(axes)} when the model was captured, and has "
            f"{list(now)} now, and its forward takes another course for each",
            remedy="grow the model with example_inputs of these sizes",
        )


def typed(tensor: Any, dtype: torch.dtype, name: str) -> None:
    """Refuse an input of another precision than the one that a graph was captured in.

    >>> typed(torch.ones(2), torch.float32, "x")
    """
    if not isinstance(tensor, fx.Proxy) and tensor.dtype is not dtype:
        raise SettledError(
            f"{name} was {dtype} when the model was captured, and is {tensor.dtype} now, and its forward takes another "
            "course for each",
            remedy="grow the model in this precision",
        )


def graded(enabled: bool) -> None:
    """Refuse to run without gradients what was captured with them, or the other way round.

    >>> graded(True)
    """
    if torch.is_grad_enabled() is not enabled:
        raise SettledError(
            f"gradients were {'on' if enabled else 'off'} when the model was captured, and its forward takes another "
            "course where they are not",
            remedy='grow the model in its own class: form="module"',
        )


def uncast() -> None:
    """Refuse to run under autocast what takes another course there.

    >>> uncast()
    """
    if any(map(torch.is_autocast_enabled, CASTING)):
        raise SettledError(
            "autocast was off when the model was captured, and its forward takes another course where it is on",
            remedy='grow the model in its own class: form="module"',
        )


GUARDS: tuple[Callable[..., Any], ...] = (settled, sized, typed, graded, uncast, *CALL_GUARDS)
"""Functions whose nodes refuse what a graph was not recorded with."""


# -- contexts as nodes ---------------------------------------------------------------------------------------------


def enter_autocast(device_type: str, dtype: torch.dtype | None, enabled: bool, cache_enabled: bool) -> torch.autocast:
    """Enter autocast; returns what leaves it."""
    context = torch.autocast(device_type, dtype, enabled, cache_enabled)
    context.__enter__()
    return context


def leave_autocast(context: torch.autocast) -> None:
    """Leave autocast."""
    leaving: Any = type(context).__exit__
    leaving(context, None, None, None)


CONTEXTS: tuple[Callable[..., Any], ...] = (gradients.enter_grad, gradients.leave_grad, enter_autocast, leave_autocast)
"""Functions whose nodes enter and leave contexts."""

STATEMENTS = (*GUARDS, *CONTEXTS)
"""Functions whose nodes matter although nothing reads them."""


@contextmanager
def contexts_kept() -> Iterator[None]:
    """Whatever happens inside, gradients and autocast are afterwards as they were before."""
    casting = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in CASTING]
    grad, nesting = torch.is_grad_enabled(), torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    try:
        yield
    finally:
        torch._C._set_grad_enabled(grad)
        for kind, enabled, dtype in casting:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        while torch.autocast_increment_nesting() - 1 > nesting:
            torch.autocast_decrement_nesting()
            torch.autocast_decrement_nesting()
        torch.autocast_decrement_nesting()


@contextmanager
def autocast_switched(on: bool) -> Iterator[None]:
    """Autocast is on, or off, for every kind of device, as far as code asks."""
    with contexts_kept():
        for kind in CASTING:
            torch.set_autocast_enabled(kind, on)
        yield


@contextmanager
def watched(recorder: Recorder) -> Iterator[None]:
    """Record autocast, and refuse by name what a graph cannot keep."""
    enter, leave = torch.autocast.__enter__, torch.autocast.__exit__
    entered: list[fx.Node] = []

    def entering(self: torch.autocast) -> Any:
        if not recorder.quiet:
            arguments = (self.device, self.fast_dtype, self._enabled, self._cache_enabled)
            entered.append(recorder.call(enter_autocast, arguments, None))
        return enter(self)  # type: ignore[no-untyped-call]

    def leaving(self: torch.autocast, *exception: Any) -> Any:
        if not recorder.quiet and entered:
            recorder.call(leave_autocast, (entered.pop(),))
        return leave(self, *exception)

    with ExitStack() as stack:
        stack.enter_context(gradients.watched(recorder))
        stack.enter_context(chance.entropy_refused(recorder))
        stack.enter_context(replaced(torch.autocast, "__enter__", entering))
        stack.enter_context(replaced(torch.autocast, "__exit__", leaving))
        inference = torch.inference_mode.__enter__

        def without_gradients(self: torch.inference_mode) -> None:
            """It computes the same, on tensors that may be used elsewhere."""
            if recorder.quiet or not self.mode:
                inference(self)
            else:
                context: Any = torch.no_grad()
                context.__enter__()
                self._inference_mode_context = context

        stack.enter_context(replaced(torch.inference_mode, "__enter__", without_gradients))
        stack.enter_context(_packing_watched(recorder))
        stack.enter_context(_seeds_watched(recorder))
        checkpoint: Any = sys.modules.get("torch.utils.checkpoint")
        if checkpoint is not None:
            name = "_checkpoint_without_reentrant_generator"
            name = f"{name}_impl" if hasattr(checkpoint, f"{name}_impl") else name
            plainly = getattr(checkpoint, name)

            def generator(*args: Any, **kwargs: Any) -> Any:
                checkpointed(recorder)
                return plainly(*args, **kwargs)

            stack.enter_context(replaced(checkpoint, name, generator))
        stack.enter_context(replaced(torch.distributions.Distribution, "_validate_args", _Unchecked(recorder)))
        if find_spec("einops"):  # imported here, as forwards may: it keeps earlier shapes, of other graphs' sizes
            einops: Any = import_module("einops.einops")
            fresh = einops._reconstruct_from_shape_uncached
            stack.enter_context(replaced(einops, "_reconstruct_from_shape", fresh))
        yield


@contextmanager
def _packing_watched(recorder: Recorder) -> Iterator[None]:
    """Leave out hooks on what is kept for the backward pass, which copy values, and note them; not those of torch's."""
    hooks: Any = torch.autograd.graph.saved_tensors_hooks
    enter = hooks.__enter__

    def entering(self: Any) -> None:
        if recorder.quiet or type(self).__module__ == "torch.utils.checkpoint":
            enter(self)
        else:
            recorder.settled.append(Settled("hooks on saved tensors", recorder.where(), lost=True))
            torch._C._autograd._push_saved_tensors_default_hooks(_as_it_is, _as_it_is)

    with replaced(hooks, "__enter__", entering):
        yield


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@contextmanager
def _seeds_watched(recorder: Recorder) -> Iterator[None]:
    """Note where a forward seeds torch's generator, or puts its state back, as `fork_rng` does when it ends."""

    def noting(plainly: Callable[..., Any]) -> Callable[..., Any]:
        def seeding(*args: Any, **kwargs: Any) -> Any:
            if not recorder.quiet:
                what = "that the forward seeds its random numbers"
                recorder.settled.append(Settled(what, recorder.where(), lost=True))
            return plainly(*args, **kwargs)

        return seeding

    with ExitStack() as stack:
        for holder in (torch, torch.random):
            for name in ("manual_seed", "set_rng_state"):
                stack.enter_context(replaced(holder, name, noting(getattr(holder, name))))
        yield


@dataclass(frozen=True)
class _Unchecked:
    """In place of what says whether distributions check their parameters, which asks for values: they do not."""

    recorder: Recorder

    def __get__(self, distribution: Any, kind: type) -> Any:
        if distribution is None:  # asked by what puts it back
            return self
        if not self.recorder.quiet:
            what = "what a distribution checks of its parameters"
            self.recorder.settled.append(Settled(what, self.recorder.where(), lost=True))
        return False


@contextmanager
def mode_watched(recorder: Recorder) -> Iterator[None]:
    """Note whether a forward asks for the mode of a module; what a layer that is one node asks is for the layer."""

    def asked(module: nn.Module) -> Any:
        recorder.by_mode = recorder.by_mode or not recorder.quiet
        if "training" not in module.__dict__:
            raise AttributeError("training")
        return module.__dict__["training"]

    def told(module: nn.Module, mode: Any) -> None:
        module.__dict__["training"] = mode

    before = vars(nn.Module).get("training")
    nn.Module.training = property(asked, told)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training
        if before is not None:
            nn.Module.training = before


def checkpointed(recorder: Recorder) -> None:
    """Note that a part of the forward is run again in the backward pass to save memory."""
    if not recorder.quiet:
        recorder.settled.append(Settled("gradient checkpointing", recorder.where(), lost=True))
