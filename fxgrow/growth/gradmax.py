"""GradMax: new units chosen so that the gradient of the weights that read them is as large as it can be.

The weights that read a new unit are zero at first. So the function stays whatever the unit computes, and the weights
that make it are free to choose. They decide how large a gradient its readers get. Where the network is linear between
makers and readers, the best weights of k units are the first k right singular vectors of one matrix, and this is
subspace iteration for them: every round multiplies the weights by that matrix and its transpose, as the gradient of a
squared gradient does, and makes the units orthogonal. Where it is not linear, each round climbs by the network's own
slope. So nothing is assumed about the ops between, and any captured model will do. New units of all layers are chosen
at once. Every round brings them to the scale of the old ones, so that layers do not drive each other up.

Source: Evci, van Merriënboer, Unterthiner, Vladymyrov, Pedregosa, "GradMax: Growing Neural Networks using Gradient
Information", ICLR 2022. There the weights that make new units are zero; here the weights that read them are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fxgrow.errors import AmountError, FxgrowError, as_error
from fxgrow.growth.calibration import Calibrating
from fxgrow.modules.devices import callers_code, random_state_kept
from fxgrow.modules.switching import in_modes
from fxgrow.modules.tensors import named_tensors
from fxgrow.noise import WithoutNoise
from fxgrow.planning.indexing import filled_by
from fxgrow.planning.plan import Plan, TensorGrowth
from fxgrow.transforms.tensors import drawn_units, silent_entries

Loss = Callable[[nn.Module], Tensor]
"""From a model to its loss on a batch."""


def choose_units(grown: nn.Module, plan: Plan, loss: Loss, rounds: int = 8) -> None:
    """Turn the drawn weights of new units, in place, to where their readers get the largest gradient.

    New units of linear and convolutional layers get the variance of the old ones; other new weights keep the norm that
    they were drawn with. Statistics and gradients stay as they are; dropout and the like are off.

    Parameters
    ----------
    grown: the model that the plan was just carried out on.
    loss: a function from the model to the loss on a batch of training data, a scalar.
    rounds: of forward pass, backward pass, and backward pass through both.

    Raises
    ------
    AmountError: the loss is no scalar with a gradient or has no second one, or no weight that reads new units gets one.
    """
    tensors = named_tensors(grown)
    growths = [(tensors[growth.name], growth) for growth in plan.tensors]
    growths = [(tensor, growth) for tensor, growth in growths if tensor.requires_grad and tensor.ndim > 1]
    makers = [
        (tensor, axis, units.to(tensor.device))
        for tensor, growth in growths
        for axis in range(tensor.ndim)
        if len(units := _free_units(growth, axis))
    ]
    silent = [(tensor, silent_entries(growth).to(tensor.device)) for tensor, growth in growths]
    readers = [(tensor, entries) for tensor, entries in silent if bool(entries.any())]
    if not makers or not readers:
        return
    device, growth_of = makers[0][0].device, {id(tensor): growth for tensor, growth in growths}
    with _training(grown), random_state_kept(device), sdpa_kernel(SDPBackend.MATH):
        for _ in range(rounds):
            _bring_to_scale(grown, loss, growth_of)
            slopes = _slopes(grown, loss, makers, readers)
            with torch.no_grad():
                for (weight, axis, units), slope in zip(makers, slopes, strict=True):
                    if slope is not None:
                        rows = weight.index_select(axis, units)
                        chosen = _chosen(rows.movedim(axis, 0), slope.index_select(axis, units).movedim(axis, 0))
                        weight.index_copy_(axis, units, chosen.movedim(0, axis).to(weight.dtype))
        _bring_to_scale(grown, loss, growth_of)


def _free_units(growth: TensorGrowth, axis: int) -> Tensor:
    """The drawn units but for those that come in equal pairs."""
    units = drawn_units(growth, axis)
    return units[filled_by(growth.axes[axis], frozenset({"draw"}))[units]]


@torch.no_grad()
def _bring_to_scale(grown: nn.Module, loss: Loss, growths: Mapping[int, TensorGrowth]) -> None:
    with Calibrating(growths), callers_code():
        _value_of(loss, grown)


def _value_of(loss: Loss, grown: nn.Module) -> Tensor:
    what = "loss= fails on the grown model"
    remedy = "pass a loss on a batch that it takes, with the channels that in_chans= asks for"
    with as_error(AmountError, what, where=type(grown).__name__, remedy=remedy, but=(FxgrowError,)):
        return loss(grown)


def _slopes(
    grown: nn.Module,
    loss: Loss,
    makers: list[tuple[Tensor, int, Tensor]],
    readers: list[tuple[Tensor, Tensor]],
) -> tuple[Tensor | None, ...]:
    """How the squared gradient of the silent weights changes with the weights of makers."""
    with torch.enable_grad(), WithoutNoise(), _Twice(), callers_code():
        value = _value_of(loss, grown)
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        raise AmountError(
            "loss= does not give a scalar that depends on the model",
            remedy="pass a function of the model, such as lambda model: F.cross_entropy(model(images), labels)",
        )
    weights = [tensor for tensor, _ in readers]
    what = "the gradient of the loss cannot be differentiated once more"
    failing = partial(as_error, AmountError, what, remedy='pass init="zero"', of=(RuntimeError,))
    with failing():
        gradients = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
    parts = [
        (gradient * entries).abs().square().sum()
        for gradient, (_, entries) in zip(gradients, readers, strict=True)
        if gradient is not None and gradient.requires_grad
    ]
    if not parts:
        raise AmountError(
            "no weight that reads new units gets a gradient from the loss",
            remedy='pass a loss that depends on all of the model, or init="zero"',
        )
    with failing():
        return torch.autograd.grad(torch.stack(parts).sum(), [weight for weight, _, _ in makers], allow_unused=True)


class _Twice(TorchFunctionMode):
    """Spells out what torch cannot differentiate twice: `hardsigmoid`."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (_hardsigmoid if function is F.hardsigmoid else function)(*args, **(kwargs or {}))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    made = F.relu6(input + 3) / 6
    return input.copy_(made) if inplace else made


def _chosen(rows: Tensor, slopes: Tensor) -> Tensor:
    """Weights of units, a row each, that go where their slopes point, orthogonal as far as there is room.

    >>> rows, slopes = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 4.0], [5.0, 5.0]])
    >>> _chosen(rows, slopes).abs()
    tensor([[0., 2.],
            [3., 0.]])
    """
    kind = torch.promote_types(rows.dtype, torch.float32)
    before, toward = rows.flatten(1).to(kind), slopes.flatten(1).to(kind)
    sizes, steep = before.norm(dim=1, keepdim=True), toward.norm(dim=1, keepdim=True)
    toward = torch.where(steep > 0, toward / steep, before / sizes.clamp(min=torch.finfo(kind).tiny))
    orthogonal, triangle = torch.linalg.qr(toward[: toward.shape[1]].T)
    signs = torch.where(triangle.diagonal().real < 0, -1.0, 1.0).to(kind)
    toward = torch.cat([(orthogonal * signs).T, toward[toward.shape[1] :]])
    chosen: Tensor = toward * sizes
    return chosen.reshape(rows.shape)


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Train mode, after which modes and buffers are what they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        yield
    finally:
        in_modes(model, modes)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
