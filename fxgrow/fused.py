"""LayerNorm and RMSNorm over old units for eager training: few passes over memory, written in place.

Autograd would keep the result of each step in memory. Compilers, exporters and transforms get the steps themselves and
fuse them in their own way: `guards` asks `applies`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

Ranges = Sequence[Sequence[int]]
Steps = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def applies(*tensors: Tensor | None) -> bool:
    """Whether tensors with values are computed with at once: nothing traces, compiles, transforms or shards them."""
    return (
        all(t is None or (type(t) in (Tensor, nn.Parameter) and not t.is_meta) for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._get_tracing_state()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def over_core(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, core: Ranges, centred: bool, steps: Steps
) -> Tensor:
    """`x` normalised along its last axis by the statistics of the units in the ranges `core`, times weight, plus bias.

    centred: less the mean, as in LayerNorm. steps: the same by ops that autograd knows, for gradients of gradients.
    """
    result: Tensor = _OverCore.apply(x, weight, bias, eps, core, centred, steps)
    return result


class _OverCore(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        core: Ranges,
        centred: bool,
        steps: Steps,
    ) -> Tensor:
        size = sum(stop - start for start, stop in core)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)  # contiguous, whatever the strides of x, as torch's
        mean = None
        if centred:
            mean = _sum([part.sum(-1, keepdim=True) for part in _parts(x, core)]).div_(size)
            torch.sub(x, mean, out=y)
        squares = [
            torch.linalg.vector_norm(part, dim=-1, keepdim=True).square_() for part in _parts(y if centred else x, core)
        ]
        scale = _sum(squares).div_(size).add_(eps).rsqrt_()
        if centred:
            y.mul_(scale)
        else:
            torch.mul(x, scale, out=y)
        if weight is not None and bias is not None:
            torch.addcmul(bias, y, weight, out=y)
        elif weight is not None:
            y.mul_(weight)
        elif bias is not None:
            y.add_(bias)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.size, ctx.core, ctx.steps = size, core, steps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        saved = x, weight, bias, mean, _ = ctx.saved_tensors  # under checkpointing they may be read once only
        if torch.is_grad_enabled():
            inputs = [t for t, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            input_gradients = iter(torch.autograd.grad(ctx.steps(x, weight, bias), inputs, gradient, create_graph=True))
            return *(next(input_gradients) if needed else None for needed in ctx.needs_input_grad[:3]), *(None,) * 4
        of_inputs = (_backward if mean is None else _backward_by_native)(ctx, saved, gradient)
        return *of_inputs, *(None,) * 4


def _backward_by_native(
    ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a guarded LayerNorm, made of those of torch's own over all N units, given the statistics of n.

    Through the statistics torch sends a share t/N to every unit, beside g: g + t/N. The n old units get g + t/n, which
    is N/n of torch's less (N/n - 1) of g, and new units get g.
    """
    x, weight, bias, mean, scale = saved
    shape, mask = x.shape[-1:], ctx.needs_input_grad[:3]
    by_x, by_weight, by_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, x, shape, mean, scale, weight, bias, mask
    )
    if not mask[0]:
        return None, by_weight, by_bias
    straight = _straight(gradient, weight, scale)
    for part, all_counted in zip(_parts(straight, ctx.core), _parts(by_x, ctx.core), strict=True):
        torch.lerp(all_counted, part, 1.0 - shape[0] / ctx.size, out=part)
    return straight, by_weight, by_bias


def _backward(
    ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a guarded RMSNorm."""
    x, weight, _, _, scale = saved
    to_x, to_weight, _ = ctx.needs_input_grad[:3]
    normal = x * scale
    product = normal * gradient
    by_weight = product.sum(tuple(range(x.ndim - 1))) if to_weight else None
    if not to_x:
        return None, by_weight, None
    along = (product.sum(-1, keepdim=True) if weight is None else _dot(product, weight)).div_(ctx.size)
    straight = _straight(gradient, weight, scale)
    for part, of_normal in zip(_parts(straight, ctx.core), _parts(normal, ctx.core), strict=True):
        part.sub_(of_normal.mul_(along * scale))
    return straight, by_weight, None


def _straight(gradient: Tensor, weight: Tensor | None, scale: Tensor) -> Tensor:
    """The gradient of what is normalised, but for what goes through the statistics; a new tensor."""
    return gradient * scale if weight is None else (gradient * weight).mul_(scale)


def _parts(x: Tensor, core: Ranges) -> list[Tensor]:
    return [x.narrow(-1, start, stop - start) for start, stop in core]


def _sum(tensors: list[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total.add_(tensor)
    return total


def _dot(x: Tensor, weight: Tensor) -> Tensor:
    """The sum over the last axis, each entry times its weight; in full precision also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.matmul(x, weight).unsqueeze(-1)
