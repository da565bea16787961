"""Functions of torch that are others put together, spelled out in those, which have rows.

Each computes what torch's does: `tests/capture/test_composites.py` compares them on the samples of torch's own database
of operators. A function goes by its name; so does the method of tensors that is called the same.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxgrow.capture.indexing import picked, put


def addbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _added(x, beta, alpha * (batch1 @ batch2).sum(0))


def addcdiv(x: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Any:
    return x + value * tensor1 / tensor2


def addr(x: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _added(x, beta, alpha * torch.outer(vec1, vec2))


def _added(x: Tensor, beta: Any, product: Tensor) -> Tensor:
    return beta * x + product if beta else product  # infinite entries do not count, then


def _listed(tensors: Sequence[Any]) -> Sequence[Any]:
    """Tensors that may be given as one list."""
    return tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors


def at_least(rank: int, new: Sequence[int], *tensors: Any) -> Any:
    """Tensors of at least so many axes: of size one, inserted where `new` says for tensors of 0, 1, ... axes."""
    every = _listed(tensors)
    if every is not tensors or len(every) != 1:
        return tuple(at_least(rank, new, tensor) for tensor in every)
    (x,) = every
    while x.dim() < rank:
        x = x.unsqueeze(new[x.dim()])
    return x


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    every = _listed(tensors)
    sizes = [
        next((t.shape[k] for t in every if t.dim() >= -k and t.shape[k] != 1), 1)
        for k in range(-max((t.dim() for t in every), default=0), 0)
    ]
    return tuple(tensor.expand(sizes) for tensor in every)


def bucketize(x: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Any:
    if not isinstance(x, Tensor) or out_int32:
        return NotImplemented
    each = x.unsqueeze(-1)
    return (~(each < boundaries if right else each <= boundaries)).sum(-1)  # what is no number comes last


def cross(x: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    axis = next(k for k, size in enumerate(x.shape) if size == 3) if dim is None else dim
    first, second = (x.roll(-1, axis), x.roll(-2, axis)), (other.roll(-1, axis), other.roll(-2, axis))
    return first[0] * second[1] - first[1] * second[0]


def linalg_cross(x: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    return cross(x, other, dim)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.atleast_3d(tensor) for tensor in tensors], 2)


def fliplr(x: Tensor) -> Tensor:
    return x.flip(1)


def flipud(x: Tensor) -> Tensor:
    return x.flip(0)


def gradient(x: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> Any:
    if not isinstance(spacing, (int, float)) or edge_order != 1:
        return NotImplemented
    axes = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    return tuple(_slopes(x, axis) / spacing for axis in axes)


def _slopes(x: Tensor, axis: int) -> Tensor:
    """Central differences, and differences of neighbours at both ends."""
    before, after = _within(x, axis, None, -2), _within(x, axis, 2, None)
    first = _within(x, axis, 1, 2) - _within(x, axis, None, 1)
    last = _within(x, axis, -1, None) - _within(x, axis, -2, -1)
    return torch.cat([first, (after - before) / 2, last], axis)


def _within(x: Tensor, axis: int, start: int | None, stop: int | None) -> Tensor:
    return x[(slice(None),) * (axis % x.dim()) + (slice(start, stop),)]


def index_put(x: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Any:
    return index_put_(x.clone(), indices, values, accumulate)


def index_put_(x: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Any:
    if accumulate:
        return NotImplemented
    x[tuple(indices)] = values
    return x


def masked_select(x: Tensor, mask: Tensor) -> Tensor:
    x, mask = torch.broadcast_tensors(x, mask)
    return x[mask]


def msort(x: Tensor) -> Tensor:
    return torch.sort(x, dim=0)[0]


def multi_dot(*tensors: Any) -> Any:
    return functools.reduce(operator.matmul, _listed(tensors))


def new_full(x: Tensor, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, **others: Any) -> Any:
    if not isinstance(fill_value, Tensor) or others:
        return NotImplemented
    filled = fill_value.to(dtype=dtype or x.dtype, device=device or x.device)
    return filled.reshape([1] * len(size)).expand(size).clone()


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: Any = 0.0, padding_side: str = "right"
) -> Tensor:
    longest, rows = max(len(x) for x in sequences), []
    for x in sequences:
        rest = longest - len(x)
        ends = (rest, 0) if padding_side == "left" else (0, rest)
        rows.append(F.pad(x, (*(0, 0) * (x.dim() - 1), *ends), value=padding_value))
    return torch.stack(rows, 0 if batch_first else 1)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    slopes = weight.reshape(-1, *(1,) * (x.dim() - 2)) if x.dim() > 1 else weight.reshape(())
    return torch.relu(x) + slopes * x.clamp(max=0)


def renorm(x: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, [k for k in range(x.dim()) if k != dim % x.dim()], keepdim=True)
    return x * torch.where(norm > maxnorm, maxnorm / (norm + 1e-7), torch.ones_like(norm))


def rot90(x: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    first, second = dims
    if k % 2 == 0:
        return x.flip((first, second)) if k % 4 else x.clone()
    return x.transpose(first, second).flip(first if k % 4 == 1 else second)


def rsub(x: Tensor, other: Any, *, alpha: Any = 1) -> Any:
    return other - alpha * x


def select_scatter(x: Tensor, src: Tensor, dim: int, index: Any) -> Tensor:
    copied = x.clone()
    copied[(slice(None),) * (dim % x.dim()) + (index,)] = src
    return copied


def slice_scatter(x: Tensor, src: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    return select_scatter(x, src, dim, slice(start, end, step))


def split_along(axis: int, x: Tensor, cut: Any = None, **named: Any) -> Any:
    """`hsplit`, `vsplit`, `dsplit`; the argument has two names, by its type."""
    axis = 0 if x.dim() == 1 else axis
    (at,) = named.values() if cut is None else (cut,)
    return torch.tensor_split(x, at, dim=axis)


def take_along_dim(x: Tensor, indices: Tensor, dim: int | None = None) -> Any:
    if dim is None or x.dim() != indices.dim():
        return NotImplemented
    axes = range(x.dim())
    to, at = ([y.shape[k] if z.shape[k] == 1 else z.shape[k] for k in axes] for y, z in ((x, indices), (indices, x)))
    to[dim], at[dim] = indices.shape[dim], x.shape[dim]
    return x.expand(at).gather(dim, indices.expand(to).remainder(x.shape[dim]))  # places from the end, too


def to(x: Tensor, *others: Any, **kwargs: Any) -> Any:
    if len(others) != 1 or not isinstance(others[0], Tensor):
        return NotImplemented
    return x.to(dtype=others[0].dtype, device=others[0].device, **kwargs)


def normal(mean: Any, std: Any = 1.0, size: Any = None, **kwargs: Any) -> Any:
    if size is not None:
        return mean + std * torch.randn(size, **kwargs)
    tensors = [value for value in (mean, std) if isinstance(value, Tensor)]
    if kwargs or len({tensor.shape for tensor in tensors}) != 1:
        return NotImplemented
    return mean + std * torch.randn_like(tensors[0])


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = 1, dim: int = -1) -> Any:
    return _areas(y, dim).sum(dim) * dx if x is None else NotImplemented


def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = 1, dim: int = -1) -> Any:
    return _areas(y, dim).cumsum(dim) * dx if x is None else NotImplemented


def _areas(y: Tensor, axis: int) -> Tensor:
    """Means of neighbours."""
    return (_within(y, axis, 1, None) + _within(y, axis, None, -1)) / 2


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    return (x.conj() * y if x.is_complex() else x * y).sum(dim)


_NAMED: dict[str, Callable[..., Any]] = {
    **{spelled.__name__: spelled for spelled in (addbmm, addcdiv, addr, broadcast_tensors, dstack, fliplr, flipud)},
    **{spelled.__name__: spelled for spelled in (index_put, index_put_, masked_select, msort, new_full, prelu, renorm)},
    **{spelled.__name__: spelled for spelled in (rot90, rsub, select_scatter, slice_scatter, take_along_dim)},
    **{f"atleast_{n}d": functools.partial(at_least, n, new) for n, new in ((1, (0,)), (2, (0, 0)), (3, (0, 0, 2)))},
    **{f"{letter}split": functools.partial(split_along, axis) for letter, axis in (("v", 0), ("h", 1), ("d", 2))},
    **{spelled.__name__: spelled for spelled in (bucketize, cross, cumulative_trapezoid, gradient, trapezoid)},
    "chain_matmul": multi_dot,
    "trapz": trapezoid,
}

COMPOSITES: dict[Any, Callable[..., Any]] = {
    torch.linalg.multi_dot: multi_dot,
    torch.linalg.vecdot: vecdot,
    torch.normal: normal,
    torch._C._nn.pad_sequence: pad_sequence,
    torch.linalg.cross: linalg_cross,
    **dict.fromkeys((Tensor.to, Tensor.type_as), to),
    Tensor.__getitem__: picked,
    Tensor.__setitem__: put,
    **{
        getattr(home, name): spelled
        for name, spelled in _NAMED.items()
        for home in (torch, Tensor)
        if hasattr(home, name)
    },
}
"""What spells a function of torch out; it returns NotImplemented for arguments that it has no way for."""
