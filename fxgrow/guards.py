"""Guards: reductions over the old units only, and other functions for growth that no native op does exactly.

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

from fxgrow import fused
from fxgrow.errors import SettledError

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
    exact = _accurate(x)

    def steps(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        centred, scale = _statistic(x, -1, -1, eps, core)
        return _affine(centred * scale, weight, bias)

    return _over_core(exact, weight, bias, eps, core, True, steps).to(x.dtype)


@whole
def rms_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, eps: float | None, core: Ranges
) -> Tensor:
    """RMSNorm over the last axis whose mean square is that of the units in `core`."""
    exact = _accurate(x)
    eps = torch.finfo(exact.dtype).eps if eps is None else eps

    def steps(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        mean_square = _take(x, -1, core).square().mean(-1, keepdim=True)
        return _affine(x * torch.rsqrt(mean_square + eps), weight, bias)

    return _over_core(exact, weight, None, eps, core, False, steps).to(x.dtype)


@whole
def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, core: Ranges
) -> Tensor:
    """GroupNorm of `[batch, channels, ...]` whose statistics, in each group, are those of the units in `core`."""
    grouped = _accurate(x).reshape(x.shape[0], num_groups, x.shape[1] // num_groups, -1)
    centred, scale = _statistic(grouped, 2, (2, 3), eps, core)
    weight, bias = (None if t is None else t.reshape(num_groups, -1, 1) for t in (weight, bias))
    if weight is not None:
        scale = scale * weight
    return (centred * scale if bias is None else torch.addcmul(bias, centred, scale)).reshape(x.shape).to(x.dtype)


@whole
def settling(
    x: Tensor,
    norm: str,
    shape: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
    core: Ranges,
    share: float,
) -> Tensor:
    """A norm on its way from old units to all: units in `core` count 1 in its statistic, the others `share`.

    Parameters
    ----------
    norm: "layer_norm", "rms_norm" or "group_norm". shape: its normalized_shape, or its number of groups.
    """
    exact = _accurate(x)
    eps = torch.finfo(exact.dtype).eps if eps is None else eps
    groups = int(shape) if norm == "group_norm" else 1
    grouped = (
        exact.reshape(x.shape[0], groups, x.shape[1] // groups, -1) if norm == "group_norm" else exact.unsqueeze(-1)
    )
    counts = _counts(grouped, core, share)
    total = float(sum(stop - start for start, stop in core))
    total = (total + share * (grouped.shape[-2] - total)) * grouped.shape[-1]
    if norm != "rms_norm":
        grouped = grouped - (grouped * counts).sum((-2, -1), keepdim=True) / total
    square = (grouped.square() * counts).sum((-2, -1), keepdim=True) / total
    weight, bias = (None if t is None else t.reshape(groups, -1, 1) for t in (weight, bias))
    return _affine(grouped * torch.rsqrt(square + eps), weight, bias).reshape(x.shape).to(x.dtype)


def _counts(x: Tensor, core: Ranges, share: float) -> Tensor:
    """How much each unit of axis -2 counts, `[units, 1]`."""
    pieces, end = [], 0
    for start, stop in core:
        pieces += [x.new_full((start - end, 1), share), x.new_ones((stop - start, 1))]
        end = stop
    return torch.cat([*pieces, x.new_full((x.shape[-2] - end, 1), share)])


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


def _over_core(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, core: Ranges, centred: bool, steps: fused.Steps
) -> Tensor:
    """What `steps` computes, in few passes over memory where that counts."""
    if not fused.applies(x, weight, bias):
        return steps(x, weight, bias)
    weight, bias = (None if t is None else t.to(x.dtype) for t in (weight, bias))
    return fused.over_core(x, weight, bias, eps, core, centred, steps)


def _accurate(x: Tensor) -> Tensor:
    """Half-precision inputs in float32, as torch's own norms take their statistics."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _statistic(x: Tensor, dim: int, over: int | tuple[int, ...], eps: float, core: Ranges) -> tuple[Tensor, Tensor]:
    """`x` less the mean of its units in the ranges `core` of axis `dim`, over some axes, and one by their deviation.

    On a CPU, `torch.var_mean` takes several times as long as the mean and the mean square of what is centred anyway.
    """
    centred = x - _take(x, dim, core).mean(over, keepdim=True)
    variance = _take(centred, dim, core).square().mean(over, keepdim=True)
    return centred, torch.rsqrt(variance + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None and bias is not None:
        return torch.addcmul(bias, x, weight)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


_take = core


def in_place_of(guard: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The guarded norm in place of a call of torch's function with these arguments; `guard`: as a plan says.

    Raises
    ------
    SettledError: the call normalises other axes than the one that grew, or other groups.
    """
    x = args[0] if args else kwargs["input"]

    def given(place: int, keyword: str, default: Any = None) -> Any:
        return args[place] if len(args) > place else kwargs.get(keyword, default)

    _refuse_other_axes(guard, x, given)
    function, arguments = guarded_call(guard, x, given)
    return function(*arguments)


def _refuse_other_axes(guard: Mapping[str, Any], x: Tensor, given: Callable[..., Any]) -> None:
    """Refuse a call of a norm over other axes or groups: where its old units are is not known."""
    name, before, other = guard["function"], guard["arguments"], ""
    if name in ("layer_norm", "rms_norm") and len(shape := given(1, "normalized_shape")) != 1:
        other = f"normalized_shape={tuple(shape)}"
    elif name == "group_norm" and x.shape[1] == before["num_groups"] * guard["size"]:  # else it grew again since
        groups = given(1, "num_groups")
        other = f"num_groups={groups}" if groups != before["num_groups"] else ""
    elif name == "normalize" and (dim := given(2, "dim", 1)) % x.ndim != before["dim"] % x.ndim:
        other = f"dim={dim}"
    if other:
        raise SettledError(f"{name} has grown for another axis than that of {other}", remedy=_AS_AT_GROWTH)


_AS_AT_GROWTH = "call the model as it was called when it grew, or grow the original with example inputs of this call"


def guarded_call(
    guard: Mapping[str, Any], x: Any, parameter: Callable[[int, str], Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and the arguments of a guarded norm; `parameter` gives one of those of the norm, by place and name.

    Its numbers are as the norm is given them: they may be another at the next call.
    """
    name, core = guard["function"], tuple(tuple(part) for part in guard["core"])
    first = 3 if name == "standardize" else 2

    def number(place: int, key: str) -> Any:
        given = parameter(place, key)
        return guard["arguments"][key] if given is None else given

    eps = number(_EPS.get(name, 4), "eps")
    if name == "normalize":
        return normalize, (x, number(1, "p"), guard["arguments"]["dim"], eps, core)
    weight, bias = parameter(first, "weight"), parameter(first + 1, "bias")
    if name == "standardize":
        return standardize, (x, weight, bias, eps, core)
    shape = guard["arguments"]["num_groups"] if name == "group_norm" else (guard["size"],)
    return settled_call(name, (x, shape, weight, bias, eps, core), guard.get("share", 0.0))


_EPS = {"rms_norm": 3, "normalize": 3, "standardize": 7}
"""The place of eps among the arguments of what is guarded, where it is not behind a weight and a bias."""


def settled_call(
    norm: str, arguments: tuple[Any, Any, Any, Any, Any, Any], share: float
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and the arguments of a norm in whose statistic new units count `share`; 1: torch's own.

    arguments: what it normalises, its shape or number of groups, weight, bias, eps and core.
    """
    x, shape, weight, bias, eps, core = arguments
    affine = (weight,) if norm == "rms_norm" else (weight, bias)
    if share == 1:
        return getattr(torch.nn.functional, norm), (x, shape, *affine, eps)
    if share:
        return settling, (x, norm, shape, weight, bias, eps, core, share)
    return NORMS[norm], (x, shape, *affine, eps, core)


NORMS: dict[str, Callable[..., Tensor]] = {"layer_norm": layer_norm, "rms_norm": rms_norm, "group_norm": group_norm}
"""The guards that `fxgrow.settle` settles, by the name of torch's function."""
