"""Training steps that never wait for the device: images, rates and losses stay there from one test to the next.

On a GPU a step (images drawn and varied, forward, backward, optimizer) is captured as a CUDA graph, once for each
stage, and then only replayed. Elsewhere the same code runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from fxgrow.zoo.data import Batch, Data, Draws, InMemory
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from fxgrow.modules.devices import exact_dtype
from fxgrow.training.groups import WIDTH_SCALE

WARM_UP = 3
"""Steps before one is captured: libraries and optimizers make what they need in their first."""


class Feed(Protocol):
    """Where the batches of an epoch come from."""

    def begin(self, seed: int, epoch: int, skip: int) -> None:
        """Prepare the batches of an epoch but for the first `skip`."""

    def advance(self) -> None:
        """What the host has to do before the next batch."""

    def batch(self, number: Tensor) -> Batch:
        """The batch of a number in its epoch, on the device, by operations on it alone; `number`: shape [1]."""


class FromMemory:
    """Batches out of images that are on the device."""

    def __init__(self, data: InMemory, size: int) -> None:
        self.data = data
        self.size = size
        shape, device = (len(data) // size, size), data.pixels.device
        self._draws = Draws(*(torch.zeros(shape, dtype=torch.long, device=device) for _ in Draws._fields))

    def begin(self, seed: int, epoch: int, skip: int) -> None:
        for place, drawn in zip(self._draws, self.data.draws(seed, epoch, self.size, skip), strict=True):
            send(drawn, place[skip:])

    def advance(self) -> None:
        """Nothing: the device has all it needs."""

    def batch(self, number: Tensor) -> Batch:
        return self.data.batch(Draws(*(part.index_select(0, number)[0] for part in self._draws)))


class FromLoader:
    """Batches that worker processes read, put into one place on the device, one after the other."""

    def __init__(self, data: Data, size: int, device: torch.device) -> None:
        self.data = data
        self.size = size
        self._place = (
            torch.zeros(size, *data.shape, device=device),
            torch.zeros(size, dtype=torch.long, device=device),
        )
        self._batches: Iterator[Batch] = iter(())

    def begin(self, seed: int, epoch: int, skip: int) -> None:
        self._batches = self.data.batches(seed, epoch, self.size, skip)

    def advance(self) -> None:
        for place, part in zip(self._place, next(self._batches), strict=True):
            place.copy_(part, non_blocking=True)

    def batch(self, number: Tensor) -> Batch:
        return self._place


def feed_of(data: Data, size: int, device: torch.device) -> Feed:
    """Where batches of a size come from."""
    return FromMemory(data, size) if isinstance(data, InMemory) else FromLoader(data, size, device)


@dataclass(frozen=True)
class How:
    """How a step is computed. side: images are scaled to so many pixels, if it is given.

    bfloat16: products in that type, parameters stay in theirs (autocast). graph: capture a step on a GPU.
    """

    device: torch.device
    side: int | None = None
    bfloat16: bool = False
    channels_last: bool = False
    graph: bool = True

    def inputs(self, images: Tensor) -> Tensor:
        """Images as the model takes them."""
        if self.side is not None and self.side != images.shape[-1]:
            images = F.interpolate(images, size=self.side, mode="bilinear", antialias=True)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def outputs(self, model: nn.Module, images: Tensor) -> Tensor:
        """What the model makes of images, in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
            result = model(self.inputs(images))
        assert isinstance(result, Tensor)
        return result.float()


def loss_on(batch: Batch, how: How) -> Callable[[nn.Module], Tensor]:
    """From a model to its loss on a batch, on the device that `how` says."""
    images, labels = (part.to(how.device) for part in batch)
    return lambda model: F.cross_entropy(how.outputs(model, images), labels)


class Steps:
    """The training steps of one stage.

    optimizer: its groups get learning rates that are tensors, so that a captured step can have another at each replay.
    rate: learning rates of the epoch that was begun, `[steps]`. losses: their sum since it was begun.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, feed: Feed, steps: int, how: How) -> None:
        self.model = model.to(memory_format=torch.channels_last) if how.channels_last else model
        self.optimizer = optimizer
        self.feed = feed
        self.how = how
        self.losses = torch.zeros((), dtype=exact_dtype(how.device), device=how.device)
        self._rates = torch.zeros(steps, device=how.device)
        self._number = torch.zeros(1, dtype=torch.long, device=how.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._done = 0
        self._scales = [float(group.get(WIDTH_SCALE, 1.0)) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = torch.zeros((), device=how.device)
        lay_out_state(optimizer)

    @property
    def is_captured(self) -> bool:
        """Whether steps are replayed."""
        return self._graph is not None

    def begin(self, seed: int, epoch: int, skip: int, rates: Tensor, losses: float) -> None:
        """Begin an epoch at a step of it. rates: one for each of its steps. losses: the sum of those made before."""
        self.feed.begin(seed, epoch, skip)
        send(rates, self._rates)
        self._number.fill_(skip)
        self.losses.fill_(losses)

    def step(self) -> None:
        """Make the next step, or have the device make it when it gets there."""
        self.feed.advance()
        if self._graph is not None:
            self._graph.replay()
            return
        if self.how.device.type == "cuda" and self.how.graph and self._done == WARM_UP:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
                self._work()
            self._graph.replay()  # capturing alone computes nothing
            return
        self._work()
        self._done += 1

    def _work(self) -> None:
        """One step, by operations on the device alone."""
        images, labels = self.feed.batch(self._number)
        rate = self._rates.index_select(0, self._number)[0]
        for group, scale in zip(self.optimizer.param_groups, self._scales, strict=True):
            group["lr"].copy_(rate * scale)
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.how.outputs(self.model, images), labels)
        loss.backward()
        self.optimizer.step()
        self.losses.add_(loss.detach())
        self._number.add_(1)


def send(values: Tensor, place: Tensor) -> None:
    """Copy values from the CPU without waiting until the device has got to it."""
    place.copy_(values.pin_memory() if place.device.type == "cuda" else values, non_blocking=True)


def plain_rates(optimizer: Optimizer) -> None:
    """Make learning rates plain numbers again: what grows a model and its optimizer compares them."""
    for group in optimizer.param_groups:
        group["lr"] = float(group["lr"])


def lay_out_state(optimizer: Optimizer) -> None:
    """Give state the memory format of its parameter, as fused optimizers want it."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def move_state(optimizer: Optimizer, device: torch.device) -> None:
    """Move an optimizer's state, in place."""
    for state in optimizer.state.values():
        state.update({key: value.to(device) for key, value in state.items() if isinstance(value, Tensor)})
