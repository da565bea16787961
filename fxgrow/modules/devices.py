"""What devices differ in: where random numbers are drawn, how exact numbers can be, how exact products are."""

from __future__ import annotations

import io
import logging
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.modules.replacing import replaced

WITHOUT_STATE = ("cpu", "meta", "mps")
"""Kinds of devices of which `fork_rng` keeps no state of their own beside that of the CPU."""

CASTING = ("cpu", "cuda")
"""Kinds of devices for which autocast may be on."""

WITHOUT_FLOAT64 = {"mps"}
"""Kinds of devices that have no float64."""


def exact_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def exact_device(device: torch.device, dtype: torch.dtype = torch.float64) -> torch.device:
    """The device, or the CPU where it has no such type.

    >>> exact_device(torch.device("mps")), exact_device(torch.device("mps"), torch.float32)
    (device(type='cpu'), device(type='mps'))
    """
    return torch.device("cpu") if dtype is torch.float64 and device.type in WITHOUT_FLOAT64 else device


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter; the CPU where there is none.

    >>> device_of(nn.Linear(2, 3, device="meta")).type
    'meta'
    """
    return next((parameter.device for parameter in nn.Module.parameters(model)), torch.device("cpu"))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device has yet to do.

    >>> sent(torch.ones(2), torch.device("cpu"))
    tensor([1., 1.])
    """
    return tensor.to(device, non_blocking=True)


_callers: ContextVar[torch.device | None] = ContextVar("the default device of the caller", default=None)


@contextmanager
def own_defaults() -> Iterator[None]:
    """Tensors are made on the CPU, in their own precision, and can be trained inside, whatever the caller has set.

    >>> with torch.inference_mode(), torch.device("meta"), own_defaults():
    ...     _ = torch.ones(2, requires_grad=True).sum().backward()
    """
    device = torch.get_default_device()
    token = _callers.set(None if device.type == "cpu" else device)
    try:
        with ExitStack() as stack:
            for kind in CASTING:
                stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(nullcontext() if device.type == "cpu" else torch.device("cpu"))
            yield
    finally:
        _callers.reset(token)


@contextmanager
def callers_code() -> Iterator[None]:
    """Inside `own_defaults`, what the user wrote: it makes tensors on the device that the caller has set.

    Functions that `torch.compile` compiles run as they were written.
    """
    device = _callers.get()
    compiles = "torch._dynamo" in sys.modules  # else nothing is compiled, and it takes seconds to import
    with torch.compiler.set_stance("force_eager") if compiles else nullcontext(), device or nullcontext():
        yield


@contextmanager
def quietly() -> Iterator[None]:
    """Keep back what calls print and log that nobody has made."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def random_state_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """What torch (on the CPU or this device), Python and numpy draw inside changes nothing of what is drawn afterwards.

    seed: what torch's draws inside start from; `torch.manual_seed` would start those of every other device anew too.

    >>> before = torch.get_rng_state()
    >>> with random_state_kept(torch.device("cpu"), seed=0):
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    there: Any = None if device.type in WITHOUT_STATE else torch.get_device_module(device)
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        if (numpy := sys.modules.get("numpy")) is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        if there is None:
            stack.enter_context(torch.random.fork_rng(devices=[]))
        else:
            stack.enter_context(there.device(device))
            stack.enter_context(torch.random.fork_rng(devices=[there.current_device()], device_type=device.type))
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if there is not None:
                there.manual_seed(seed)
        yield


@contextmanager
def whole_float32() -> Iterator[None]:
    """Products of float32 numbers of all their bits: a GPU rounds factors of convolutions to TF32 (11 bits) otherwise.

    >>> with whole_float32():
    ...     _ = nn.Linear(2, 3)(torch.ones(1, 2))
    """
    with _SWITCHING:
        stack = _inside[0] if _inside else ExitStack()
        for switch in () if _inside else _switches_of_tf32():
            stack.enter_context(replaced(*switch))
        _inside.append(stack)
    try:
        yield
    finally:
        with _SWITCHING:
            _inside.pop()
            if not _inside:
                stack.close()


_SWITCHING = threading.Lock()
_inside: list[ExitStack] = []
"""For all who are inside at once, in any thread, what puts the switches back when the last one leaves."""


def _switches_of_tf32() -> list[tuple[Any, str, Any]]:
    """The attributes that let factors be rounded to TF32, and what turns each off."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # since torch 2.9, which does not let the older switch be read where these differ
        return [(owner, "fp32_precision", "ieee") for owner in (matmul, cudnn.conv, cudnn.rnn)]
    return [(owner, "allow_tf32", False) for owner in (matmul, cudnn)]
