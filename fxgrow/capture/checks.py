"""Models that cannot be captured at all, told apart before anything is tried."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fxgrow.errors import CaptureError

_WRAPPERS = {
    "DistributedDataParallel": "pass model.module",
    "DataParallel": "pass model.module",
    "FullyShardedDataParallel": "grow the model before wrapping it",
    "OptimizedModule": "pass the model from before torch.compile (model._orig_mod)",
}


def refuse_uncapturable(model: nn.Module) -> None:
    """Raise a CaptureError for what is not an ordinary model with its weights in place."""
    if not isinstance(model, nn.Module):
        raise CaptureError(f"a {type(model).__name__} is not a model", remedy="pass a torch.nn.Module")
    for path, module in model.named_modules():
        where = path or None
        kind = type(module).__name__
        if kind in _WRAPPERS and type(module).__module__.startswith("torch."):
            raise CaptureError(f"the model is wrapped in {kind}", where=where, remedy=_WRAPPERS[kind])
        if "ScriptModule" in {base.__name__ for base in type(module).__mro__}:
            raise CaptureError(
                "the model is a TorchScript module",
                where=where,
                remedy="pass the model from before torch.jit.script",
            )
        if "quantized" in type(module).__module__.split(".") and type(module).__module__.startswith("torch."):
            raise CaptureError(
                f"{kind} is quantised",
                where=where,
                remedy="grow the floating-point model and quantise afterwards",
            )
        computed = next((n for n, v in vars(module).items() if isinstance(v, Tensor) and v.grad_fn is not None), None)
        if computed is not None:
            raise CaptureError(
                f"{computed} of {kind} is computed from other parameters by a hook",
                where=where,
                remedy="take the pruning or old-style weight norm off, or use torch.nn.utils.parametrizations",
            )
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise CaptureError(
                f"{kind} is lazy and has no shape yet",
                where=where,
                remedy="run the model once on an example first",
            )
