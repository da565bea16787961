"""Reductions over the old units only, and what else growth puts into a graph where no native form stays exact.

Each function is a leaf of the graph. `core` names the units that the statistic is taken over, as half-open
ranges of the axis; all units, old and new, are then normalised with that statistic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

Ranges = Sequence[Sequence[int]]
Function = TypeVar("Function", bound=Callable[..., Any])


def whole(function: Function) -> Function:
    """Make a function one op to tracers and modes, as torch's own functions are."""

    @functools.wraps(function)
    def dispatched(*args: Any, **kwargs: Any) -> Any:
        relevant = tuple(a for a in (*args, *kwargs.values()) if hasattr(type(a), "__torch_function__"))
        if has_torch_function(relevant):
            return handle_torch_function(dispatched, relevant, *args, **kwargs)
        return function(*args, **kwargs)

    return dispatched  # type: ignore[return-value]


@whole
def core(x: Tensor, dim: int, core: Ranges) -> Tensor:
    """The units of `x` in the ranges `core` of axis `dim`.

    >>> core(torch.arange(6), 0, ((0, 2), (4, 5)))
    tensor([0, 1, 4])
    """
    pieces = [x.narrow(dim, start, stop - start) for start, stop in core]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)


@whole
def readout(x: Tensor, weight: Tensor, dim: int, core: Ranges) -> Tensor:
    """The units of `x` in the ranges `core` of axis `dim`, plus a linear map of all its units.

    Parameters
    ----------
    weight: `[core units, units]`. It starts at zero.

    >>> readout(torch.arange(3.0), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 10.0]]), 0, ((0, 2),))
    tensor([ 0., 21.])
    """
    return _take(x, dim, core) + torch.nn.functional.linear(x.movedim(dim, -1), weight).movedim(-1, dim)


@whole
def multiplied(x: Tensor, factor: float) -> Tensor:
    """`x` times a number that makes up for weights rescaled at growth; `fxgrow.fold` puts it into the weights."""
    return x * factor


@whole
def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    core: Ranges,
) -> Tensor:
    """LayerNorm over the last axis whose mean and variance are those of the units in `core`."""
    return _affine(_standard(_accurate(x), -1, -1, eps, core), weight, bias).to(x.dtype)


@whole
def rms_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, eps: float | None, core: Ranges
) -> Tensor:
    """RMSNorm over the last axis whose mean square is that of the units in `core`."""
    exact = _accurate(x)
    eps = torch.finfo(exact.dtype).eps if eps is None else eps
    mean_square = _take(exact, -1, core).square().mean(-1, keepdim=True)
    return _affine(exact * torch.rsqrt(mean_square + eps), weight, None).to(x.dtype)


@whole
def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, core: Ranges
) -> Tensor:
    """GroupNorm of `[batch, channels, ...]` whose statistics, in each group, are those of the units in `core`."""
    grouped = _accurate(x).reshape(x.shape[0], num_groups, x.shape[1] // num_groups, -1)
    normal = _standard(grouped, 2, (2, 3), eps, core).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return _affine(
        normal,
        None if weight is None else weight.reshape(shape),
        None if bias is None else bias.reshape(shape),
    ).to(x.dtype)


@whole
def normalize(x: Tensor, p: float, dim: int, eps: float, core: Ranges) -> Tensor:
    """`x` over its p-norm along axis `dim`, which is that of the units in `core`.

    >>> normalize(torch.tensor([3.0, 4.0, 10.0]), 2.0, 0, 1e-12, ((0, 2),))
    tensor([0.6000, 0.8000, 2.0000])
    """
    norm: Tensor = torch.linalg.vector_norm(_take(x, dim, core), p, dim, keepdim=True)
    return x / norm.clamp_min(eps)


@whole
def standardize(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, core: Ranges) -> Tensor:
    """A weight `[1, filters, entries]`, each filter to mean 0 and variance 1 over the entries in `core`.

    The other entries are divided by the same deviation and not shifted, so that zeros among them stay zeros.
    """
    exact, shape = _accurate(x), (1, -1, 1)
    variance, mean = torch.var_mean(_take(exact, -1, core), -1, correction=0, keepdim=True)
    inside = torch.zeros(x.shape[-1], dtype=exact.dtype, device=x.device)
    for start, stop in core:
        inside[start:stop] = 1.0
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight.reshape(shape)
    # nothing of the size of the weight is kept for the backward pass but the weight
    standard = torch.addcmul(exact * scale, mean * scale, inside, value=-1)
    return (standard if bias is None else standard + bias.reshape(shape)).to(x.dtype)


def _accurate(x: Tensor) -> Tensor:
    """Half-precision inputs in float32, as torch's own norms take their statistics."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _standard(x: Tensor, dim: int, over: int | tuple[int, ...], eps: float, core: Ranges) -> Tensor:
    """`x` less the mean, by the deviation, of its units in the ranges `core` of axis `dim`, over some axes.

    On a CPU, `torch.var_mean` takes several times as long as the mean and the mean square of what is centred anyway.
    """
    centred = x - _take(x, dim, core).mean(over, keepdim=True)
    variance = _take(centred, dim, core).square().mean(over, keepdim=True)
    return centred * torch.rsqrt(variance + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None and bias is not None:
        return torch.addcmul(bias, x, weight)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


_take = core


def in_place_of(guard: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The guarded norm in place of a call of torch's function with these arguments; `guard`: as a plan says."""
    function, arguments = guarded_call(
        guard, args[0] if args else kwargs["input"], lambda k, name: _given(args, kwargs, k, name)
    )
    return function(*arguments)


def guarded_call(
    guard: Mapping[str, Any], x: Any, given: Callable[[int, str], Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and the arguments of a guarded norm; `given`: the weight or bias, by its place and name."""
    name, core = guard["function"], tuple(tuple(part) for part in guard["core"])
    first = 3 if name == "standardize" else 2
    eps = guard["arguments"]["eps"]
    if name == "normalize":
        return normalize, (x, guard["arguments"]["p"], guard["arguments"]["dim"], eps, core)
    weight, bias = given(first, "weight"), given(first + 1, "bias")
    if name == "layer_norm":
        return layer_norm, (x, (guard["size"],), weight, bias, eps, core)
    if name == "rms_norm":
        return rms_norm, (x, (guard["size"],), weight, eps, core)
    if name == "standardize":
        return standardize, (x, weight, bias, eps, core)
    return group_norm, (x, guard["arguments"]["num_groups"], weight, bias, eps, core)


def _given(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)
