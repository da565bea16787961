"""Modules that compute a little differently from their class: norms and reductions of old units, multipliers.

Each is an instance of a subclass of its former class, with the same parameters under the same names.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import _symbolic_trace
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from fxgrow import guards
from fxgrow.capture.expansions import attention
from fxgrow.capture.methods import (
    calling_function,
    held_forward,
    kind_before_growth,
    kinds_called,
    modules_called,
)
from fxgrow.capture.operators import operator_of
from fxgrow.capture.outputs import taken_apart
from fxgrow.errors import FxgrowError
from fxgrow.guarded_norms import PLAIN
from fxgrow.own.again import keep_for_again
from fxgrow.transforms.graph_edits import put


class SpelledOutAttention(nn.MultiheadAttention):
    """Multi-head attention whose heads together are not as wide as its input, or whose scale is that of fewer units.

    Where growth rescaled one of its weights, what this one reads is multiplied by a number (`in_proj_factor`, ...).
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return attention(self, *args, **kwargs)


def fit_attention(module: nn.MultiheadAttention, head_dim: int) -> None:
    """Let the sizes that torch's attention keeps follow its weights; it is spelled out where torch cannot hold them.

    head_dim: what it was before; torch's scale hangs on it.
    """
    packed = module.in_proj_weight
    weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight) if packed is None else (packed,) * 3
    inner = module.num_heads * module.head_dim
    query, module.kdim, module.vdim = (weight.shape[1] for weight in weights)
    module.embed_dim = query
    module.out_proj.in_features, module.out_proj.out_features = inner, module.out_proj.weight.shape[0]
    if (query, module.out_proj.out_features, module.head_dim) != (inner, inner, head_dim):
        spell_out(module, head_dim)


def spell_out(module: nn.MultiheadAttention, head_dim: int) -> None:
    """Let an attention of torch's run as it is captured, with the scale of heads of that width."""
    module.__class__, module.scale = SpelledOutAttention, getattr(module, "scale", float(head_dim) ** -0.5)


def leave_fast_path(layer: nn.TransformerEncoderLayer) -> None:
    """Keep torch's fused kernel, which looks at weights alone, off a layer some of whose modules compute otherwise."""
    layer.activation_relu_or_gelu = 0


FORWARD = "forward"


@dataclass(frozen=True)
class CallEdit:
    """What a call that a forward makes becomes.

    target: the function, or the name of the method. index: which of the calls of it; None: each. change: "guard",
    "core_input" or another number ("literal", "ratio") at `path`. value: what the plan says of it. method: in which
    method, whose calls are counted. within: the methods inside it that make the call, and are not edited if they run by
    themselves. caller: the name of the function whose calls alone are counted, if not all are. mode: "eval" or "train",
    if only that mode changes it. inside: as of `fxgrow.own.sites.Site`.
    """

    target: Any
    index: int | None
    change: str
    path: tuple[Any, ...]
    value: Any
    method: str = FORWARD
    within: tuple[str, ...] = ()
    caller: str = ""
    mode: str = ""
    inside: str = ""

    def apply(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that the call gets in place of these."""
        if self.change == "core_input":
            place = self.value.get("operand", 0)
            taken = guards.core(args[place], self.value["axis"], self.value["core"])
            return (*args[:place], taken, *args[place + 1 :]), kwargs
        if self.path[0] == "args":
            return tuple(put(list(args), self.path[1:], self.value)), kwargs
        return args, put(dict(kwargs), self.path[1:], self.value)


class _Editing(TorchFunctionMode):
    """Lets calls be others while a method of a module runs.

    together: the modes of this run, to which it adds itself.
    """

    def __init__(self, module: nn.Module, edits: Iterable[CallEdit], together: list[Any]) -> None:
        super().__init__()
        self.module, self.owner, self.together = module, module, together
        together.append(self)
        self.edits: dict[Any, dict[tuple[str, str], dict[int | None, list[CallEdit]]]] = {}
        for edit in edits:
            by_place = self.edits.setdefault(edit.target, {})
            by_place.setdefault((edit.caller, edit.inside), {}).setdefault(edit.index, []).append(edit)
        self.count = {(target, *place): 0 for target, by_place in self.edits.items() for place in by_place}
        self.modules = modules_called()

    def _seeing(self, function: Any) -> Any:
        def seen(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return seen

    def again(self, count: dict[Any, int], owner: Any, together: list[Any]) -> _Editing:
        """Another one, for calls that are made again after so many."""
        twin = copy.copy(self)
        twin.count, twin.modules, twin.owner, twin.together = count, modules_called(), owner, together
        together.append(twin)
        return twin

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = func if func in self.edits else operator_of(func, args, kwargs)
        if target not in self.edits:
            if torch.compiler.is_compiling() and getattr(func, "__name__", "") == "checkpoint":
                # what is compiled is one call to modes, with all that it runs
                return func(self._seeing(args[0]), *args[1:], **kwargs)
            return func(*args, **kwargs)
        kinds = kinds_called(self.modules) if modules_called() > self.modules else ""
        for (caller, inside), by_index in self.edits[target].items():
            if not _ends_in(kinds, inside) or (caller and caller != calling_function()):
                continue
            if not torch.compiler.is_compiling():
                keep_for_again(self.together, self.owner)
            index = self.count[target, caller, inside]
            self.count[target, caller, inside] += 1
            for edit in (*by_index.get(index, ()), *by_index.get(None, ())):
                if edit.change == "guard":
                    return guards.in_place_of(edit.value, args, kwargs)
                args, kwargs = edit.apply(args, kwargs)
        return func(*args, **kwargs)


def _ends_in(kinds: str, inside: str) -> bool:
    """Whether these modules are called there, or any around them; none are for the module's own calls."""
    return f"/{kinds}".endswith(f"/{inside}") if inside else not kinds


_traced_by_fx: Callable[[], bool] = getattr(_symbolic_trace, "is_fx_symbolic_tracing", _symbolic_trace.is_fx_tracing)


def _refuse_symbolic_trace(module: nn.Module, edits: Iterable[CallEdit]) -> None:
    """Refuse to be traced symbolically where a mode would not see a call: methods and operators of proxies are hidden
    from it, and so is what goes on in layers that a tracer does not enter.
    """
    if not _traced_by_fx() or get_proxy_mode() is not None:
        return
    leaves = [type(part) for part in module.modules() if type(part).__module__.startswith("torch.nn.")]
    called = {name for kind in leaves for method in vars(kind).values() for name in _names_in(method)}
    for edit in edits:
        name = getattr(edit.target, "__name__", edit.target)
        if name is edit.target or edit.target.__module__ == "_operator" or name in called:
            raise FxgrowError(
                f"torch.fx.symbolic_trace does not see the call of {name} that growth changed, and would leave it out",
                where=plain_kind(module).__name__,
                remedy='grow the model with form="graph", which can be traced, or use torch.export',
            )


def _names_in(method: Any) -> tuple[str, ...]:
    return method.__code__.co_names if inspect.isfunction(method) else ()


_OF_KIND = "_fxgrow_state_of_kind"


class Remade(nn.Module):
    """A module of a class that is made when it is needed: `origin` says by what function, from what class.

    So that it can be pickled; a class that is made itself has an origin in place of a class. What else the function is
    given comes behind.
    """

    _fxgrow_origin: tuple[Any, ...]

    def __reduce_ex__(self, protocol: Any) -> Any:
        state: Any = self.__dict__
        says_its_own: Any = getattr(type(self), "__getstate__", None)
        if says_its_own is not getattr(object, "__getstate__", None):  # such as einops' layers, which are made anew
            ours = {
                name
                for kind in type(self).__mro__
                if issubclass(kind, Remade)
                for name in inspect.get_annotations(kind)
            }
            state = {_OF_KIND: says_its_own(self), **{name: state[name] for name in ours if name in state}}
        return _bare, (self._fxgrow_origin,), state

    def __setstate__(self, state: Any) -> None:
        ours = dict(state) if _OF_KIND in state else {}
        super().__setstate__(ours.pop(_OF_KIND, state))  # type: ignore[no-untyped-call]
        self.__dict__.update(ours)


def subclass(mixin: type[Remade], maker: Any, kind: Any, *rest: Any, **names: Any) -> type[Any]:
    """A class of a mixin and a kind of modules with more names; `maker` makes it of the kind and the rest."""
    origin = (maker, getattr(kind, "_fxgrow_origin", kind), *rest)
    return type(
        f"{mixin.__name__}{kind.__name__}",
        (mixin, kind),
        {"__module__": kind.__module__, "_fxgrow_origin": origin, **names},
    )


def _bare(origin: Any) -> nn.Module:
    made: nn.Module = object.__new__(_class_of(origin))
    return made


def _class_of(origin: Any) -> Any:
    return origin[0](_class_of(origin[1]), *origin[2:]) if isinstance(origin, tuple) else origin


class Assigned(Remade):
    """A module that was given one of its methods, or another, as its forward."""


@functools.cache
def assigned(kind: Any, forward: Any) -> type[nn.Module]:
    """The subclass of a class of modules whose forward is one of their methods, whatever that becomes, or another."""

    @functools.wraps(forward)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, forward.__name__)(*args, **kwargs)

    is_method = getattr(kind, forward.__name__, None) is forward
    return subclass(Assigned, assigned, kind, forward, forward=method if is_method else forward)


def class_to_change(module: nn.Module) -> Any:
    """The class of a module, to be given a subclass; a forward that it holds, which would hide that one's, moves.

    >>> import types
    >>> layer = nn.Identity()
    >>> layer.forward = types.MethodType(lambda self, x: -x, layer)
    >>> class_to_change(layer).__name__, "forward" in vars(layer)
    ('AssignedIdentity', False)
    """
    forward = held_forward(module)
    kind: Any = type(module)
    if forward is None:
        return kind
    del module.__dict__["forward"]
    return assigned(kind, forward)


class Edited(Remade):
    """A module some of whose calls are others than its class makes.

    edits: for each growth that edited it, which calls, and what they become; each goes on from what those before left.
    """

    edits: tuple[tuple[CallEdit, ...], ...]

    def extra_repr(self) -> str:
        edits = [edit for growth in self.edits for edit in growth]
        changes = ", ".join(f"{edit.change} of {getattr(edit.target, '__name__', edit.target)}" for edit in edits)
        inside = super().extra_repr()
        return f"{inside}, {changes}" if inside else changes


def is_norm_over_old_units(module: nn.Module) -> bool:
    """Whether a module differs from its class only in that its norm goes over old units."""
    if not isinstance(module, Edited):
        return type(module) in PLAIN
    edits = [edit for growth in module.edits for edit in growth]
    guarded = [edit for edit in edits if is_norm_guard(edit)]
    targets = [guards.NORMS[edit.value["function"]] for edit in guarded]
    return len(guarded) == 1 and all(edit in guarded or edit.target in targets for edit in edits)


def is_norm_guard(edit: CallEdit) -> bool:
    """Whether a call of a norm is to go over old units instead."""
    return edit.change == "guard" and edit.value["function"] in guards.NORMS


@functools.cache
def edited(kind: Any, methods: frozenset[str] = frozenset({FORWARD})) -> type[nn.Module]:
    """The subclass of a class of modules whose instances make other calls in some of their methods.

    >>> issubclass(edited(nn.Softmax), nn.Softmax), edited(nn.Softmax).__name__
    (True, 'EditedSoftmax')
    """

    def editing(name: str) -> Callable[..., Any]:
        plainly = getattr(kind, name)

        @functools.wraps(plainly)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            _refuse_alone(self, name)
            together: list[Any] = []
            with ExitStack() as stack:
                modes = ("", "train" if self.training else "eval")
                for growth in reversed(self.edits):  # what is innermost sees a call first
                    edits = [edit for edit in growth if edit.method == name and edit.mode in modes]
                    if edits:
                        _refuse_symbolic_trace(self, edits)
                        stack.enter_context(_Editing(self, edits, together))
                return plainly(self, *args, **kwargs)

        return method

    return subclass(Edited, edited, kind, methods, **{name: editing(name) for name in methods})


def _refuse_alone(module: Any, name: str) -> None:
    """Refuse to run a method that makes the calls of the growth only as a part of another one."""
    around = {edit.method for growth in module.edits for edit in growth if name in edit.within}
    if around and not any(getattr(mode, "module", None) is module for mode in _get_current_function_mode_stack()):
        raise FxgrowError(
            f"{name} was grown as a part of {' and '.join(sorted(around))}, and computes something else by itself",
            where=plain_kind(module).__name__,
            remedy=f'call {min(around)}, or grow the model with form="graph"',
        )


def with_methods(kind: Any, methods: Iterable[str]) -> type[nn.Module]:
    """A class of modules whose instances make other calls in these methods, and in those where they do so already.

    >>> with_methods(edited(nn.Softmax), ["extra_repr"]) is edited(nn.Softmax, frozenset({"forward", "extra_repr"}))
    True
    """
    if not issubclass(kind, Edited):
        return edited(kind, frozenset(methods))
    maker, inside, *rest = kind._fxgrow_origin
    if maker is edited:
        made: type[nn.Module] = edited(_class_of(inside), frozenset(methods).union(*rest or ({FORWARD},)))
    else:
        made = maker(with_methods(_class_of(inside), methods), *rest)
    return made


def unedited(module: nn.Module) -> None:
    """Give a module without edits its class back."""
    maker, kind, *_ = type(module)._fxgrow_origin  # type: ignore[attr-defined]
    if maker is edited:
        del module.edits
        module.__class__ = _class_of(kind)


class Multiplied(Remade):
    """A layer whose input is multiplied by `factor`, which makes up for weights that growth rescaled."""

    plain_kind: type[nn.Module]
    factor: float

    def forward(self, x: Tensor, *rest: Any) -> Any:
        return self.plain_kind.forward(self, guards.multiplied(x, self.factor), *rest)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, multiplied by {self.factor:.4g}"


@functools.cache
def multiplied(kind: Any) -> type[nn.Module]:
    """The subclass of a class of layers whose instances multiply their input.

    >>> issubclass(multiplied(nn.Linear), nn.Linear), multiplied(nn.Linear).__name__
    (True, 'MultipliedLinear')
    """
    return subclass(Multiplied, multiplied, kind, plain_kind=kind)


@dataclass(frozen=True)
class OutputRead:
    """An output that is a stream, and is read through a weight of its own.

    path: where it is in what the forward returns. weight: the path of the weight. axis, core: as in `guards.readout`.
    """

    path: tuple[Any, ...]
    weight: str
    axis: int
    core: guards.Ranges


HEAD = "forward_head"
"""What models of timm's call the end of their forward."""


class ReadOut(Remade):
    """A model whose outputs are streams that grew: each is read through a layer that starts as its old units.

    reading: the method at whose end they are read, `forward` or what it ends in.
    """

    outputs_read: tuple[OutputRead, ...]
    reading: str = "forward"


@functools.cache
def read_out(kind: Any) -> type[nn.Module]:
    """The subclass of a class of models whose instances read their outputs out."""

    def reading(name: str) -> Callable[..., Any]:
        plainly = getattr(kind, name)

        @functools.wraps(plainly)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            value = plainly(self, *args, **kwargs)
            return _read(self, value) if self.reading == name else value

        return method

    return subclass(
        ReadOut, read_out, kind, **{name: reading(name) for name in ("forward", HEAD) if hasattr(kind, name)}
    )


def _read(model: Any, value: Any) -> Any:
    output, form = taken_apart(value)
    for read in model.outputs_read:
        weight = getattr(model, read.weight)  # under `torch.func` no parameter
        try:
            stream = functools.reduce(lambda value, key: value[key], read.path, output)
        except (KeyError, IndexError, TypeError):  # another call, which gives other things
            continue
        if _is_stream(stream, read.axis, weight):
            output = put(output, read.path, guards.readout(stream, weight, read.axis, read.core))
    return output if form is None else form.put_around(output)


def _is_stream(value: Any, axis: int, weight: Tensor) -> bool:
    """Whether it has all units there; a head that was put there since gives others."""
    return isinstance(value, Tensor) and -value.ndim <= axis < value.ndim and value.shape[axis] == weight.shape[1]


def plain_kind(module: nn.Module) -> type[nn.Module]:
    """The class of which a module was before growth made it compute otherwise.

    >>> from fxgrow.guarded_norms import GuardedLayerNorm
    >>> plain_kind(GuardedLayerNorm(3)).__name__, plain_kind(edited(nn.Softmax)()).__name__
    ('LayerNorm', 'Softmax')
    """
    if isinstance(module, Remade):
        return kind_before_growth(type(module))
    if isinstance(module, SpelledOutAttention):
        return nn.MultiheadAttention
    return PLAIN.get(type(module), type(module))
