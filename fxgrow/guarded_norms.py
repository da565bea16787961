"""Norms over old units as modules: each is of a subclass of the norm that it replaces, with the same tensor names."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from fxgrow import guards
from fxgrow.opaque import NotScripted, hooked

Arguments = tuple[Any, Any, Any, Any, Any, Any]
"""What a norm normalises, its shape or number of groups, weight, bias, eps and core."""


class OverOldUnits(NotScripted):
    """A norm whose statistic is that of the units in `core`; share: what the others count in it."""

    core: guards.Ranges
    share: float = 0.0

    def _computed(self, x: Tensor) -> Tensor:
        function, arguments, _ = call_of(self, x, self.weight, getattr(self, "bias", None))
        return function(*arguments)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        share = f", share={self.share:g}" if self.share else ""
        return f"{super().extra_repr()}, core={self.core}{share}"


class GuardedLayerNorm(OverOldUnits, nn.LayerNorm):
    """LayerNorm whose mean and variance are those of the units in `core`."""

    def forward(self, input: Tensor) -> Tensor:
        return self._computed(input)


class GuardedRMSNorm(OverOldUnits, nn.RMSNorm):
    """RMSNorm whose mean square is that of the units in `core`."""

    def forward(self, x: Tensor) -> Tensor:
        return self._computed(x)


class GuardedGroupNorm(OverOldUnits, nn.GroupNorm):
    """GroupNorm whose statistics, in each group, are those of the units in `core`."""

    def forward(self, input: Tensor) -> Tensor:
        return self._computed(input)


NATIVE: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: GuardedLayerNorm,
    nn.RMSNorm: GuardedRMSNorm,
    nn.GroupNorm: GuardedGroupNorm,
}
"""Torch's own norms, and what stands in their place."""

PLAIN = {guarded: plain for plain, guarded in NATIVE.items()}
"""The other way round."""

_NAMES: dict[type[nn.Module], str] = {nn.LayerNorm: "layer_norm", nn.RMSNorm: "rms_norm", nn.GroupNorm: "group_norm"}
KINDS = {name: kind for kind, name in _NAMES.items()}
"""Torch's own norms, by what torch calls their functions."""

_BY_GRAPH = "_fxgrow_called_by_graph"


def by_graph(module: nn.Module) -> bool:
    """Whether a graph calls a norm as a module where the forward of its original called a function."""
    return bool(module.__dict__.get(_BY_GRAPH))


def name_of_function(module: nn.Module) -> str | None:
    """The name of torch's function for a norm over old units, or one that only a graph calls as a module."""
    kind: type[nn.Module] = type(module)
    if kind in PLAIN:
        return _NAMES[PLAIN[kind]]
    return _NAMES.get(kind) if by_graph(module) else None


def call_of(module: Any, x: Any, weight: Any, bias: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function that such a norm calls for `x`, and the arguments; weight, bias: what stands for its own.

    Its class may be a subclass that torch has made since (`fully_shard`, parametrizations).
    """
    guarded = next((kind for kind in PLAIN if isinstance(module, kind)), None)
    name = _NAMES[PLAIN[guarded] if guarded is not None else type(module)]
    shape = module.num_groups if name == "group_norm" else module.normalized_shape
    if guarded is None:
        affine = {"weight": weight} if name == "rms_norm" else {"weight": weight, "bias": bias}
        return _FUNCTIONS[name], (x, shape), {**affine, "eps": module.eps}
    function, arguments = guards.settled_call(name, (x, shape, weight, bias, module.eps, module.core), module.share)
    return function, arguments, {}


def read(node: fx.Node) -> tuple[str, Arguments, float] | None:
    """The norm that a node calls as a function, its arguments, and what new units count in it; 1: it has no core.

    Of calls of torch's own functions those that are written as `torch.nn.functional` hands them to tracers.
    """
    if node.op != "call_function":
        return None
    if node.target is guards.settling:
        x, name, *rest, share = node.args
        return str(name), (x, *rest), share  # type: ignore[return-value]
    guarded = next((name for name, function in guards.NORMS.items() if function is node.target), None)
    if guarded is not None:
        *operands, core = node.args
        return guarded, tuple((*operands[:3], None, operands[3], core) if guarded == "rms_norm" else node.args), 0.0  # type: ignore[return-value]
    native = next((name for name, function in _FUNCTIONS.items() if function is node.target), None)
    keys = ["weight", "eps"] if native == "rms_norm" else ["weight", "bias", "eps"]
    if native is None or len(node.args) != 2 or list(node.kwargs) != keys:
        return None
    return native, (*node.args, *(node.kwargs.get(name) for name in ("weight", "bias", "eps")), None), 1.0  # type: ignore[return-value]


_FUNCTIONS = {name: getattr(nn.functional, name) for name in KINDS}


def norm_of(part: Any, name: str, shape: Any, eps: float | None, core: guards.Ranges | None, share: float) -> nn.Module:
    """A norm for graphs to call, of the parameters of a part; where that is such a norm, with its attributes too.

    name: of the function. share: what new units count; 1: it has no core.
    """
    plain = KINDS[name]
    kind = plain if share == 1 else NATIVE[plain]
    norm: Any
    if type(part) in (plain, NATIVE[plain]) and not hooked(part):
        norm = object.__new__(kind)
        norm.__dict__.update({key: value for key, value in part.__dict__.items() if key not in ("core", "share")})
    else:
        channels = next((len(tensor) for tensor in part._parameters.values() if tensor is not None), None)
        sizes = (shape, channels or part.num_channels) if name == "group_norm" else (shape,)
        norm = kind(*sizes, eps, channels is not None, device="meta")
        norm.training = part.training
        norm._parameters = {**dict.fromkeys(norm._parameters), **part._parameters}
    norm.__dict__.update({"num_groups" if name == "group_norm" else "normalized_shape": shape, "eps": eps})
    norm.__dict__.update({_BY_GRAPH: True}, **({} if core is None else {"core": core}))
    norm.__dict__.update({"share": share} if 0 < share < 1 else {})
    return norm  # type: ignore[no-any-return]
