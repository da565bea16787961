"""Modules that compute a little differently from their class: norms and reductions of old units, multipliers.

Each is an instance of a subclass of its former class, with the same parameters under the same names.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from fxgrow import guards
from fxgrow.capture.expansions import attention
from fxgrow.capture.methods import held_forward, kind_before_growth
from fxgrow.capture.outputs import taken_apart
from fxgrow.errors import FxgrowError
from fxgrow.guarded_norms import PLAIN
from fxgrow.opaque import NotScripted
from fxgrow.own.call_edits import FORWARD, CallEdit, Editing, refuse_symbolic_trace
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


_OF_KIND = "_fxgrow_state_of_kind"


class Remade(NotScripted):
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
                        refuse_symbolic_trace(self, edits)
                        stack.enter_context(Editing(self, edits, together))
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
