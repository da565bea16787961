"""Functions whose nodes refuse a call that differs from the one that a graph was captured with."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from fxgrow.capture.numbers import holds
from fxgrow.capture.relations import Formula, comes_out
from fxgrow.capture.relations import in_words as relation_in_words
from fxgrow.errors import SettledError
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.holders import fields_of
from fxgrow.modules.libraries import home_of


def compared(
    tensor: Any,
    name: str,
    question: str,
    number: int,
    outcome: bool,
    axis: int = 0,
    steps: tuple[tuple[str, int], ...] = (),
) -> None:
    """Refuse an input of as many samples, or of such a size, as make a comparison come out otherwise.

    question: the name of the operator between the size along an axis, which is that of samples, and `number`. steps: as
    of `Comparison`.

    >>> compared(torch.ones(2, 3), "x", "eq", 1, False)
    """
    if not isinstance(tensor, fx.Proxy) and holds(question, tensor.shape[axis], number, steps) is not outcome:
        many = "samples" if axis == 0 else f"entries along axis {axis}"
        raise SettledError(
            f"{name} has {tensor.shape[axis]} {many}, for which the forward takes another course than when it was "
            f"captured: it asks whether they{''.join(f' {_STEPS.get(s, s)} {n}' for s, n in steps)} are "
            f"{_ASKED[question]}{number}",
            remedy=f'grow the model in its own class (form="module"), or with example_inputs of as many {many}',
        )


def related(question: str, left: Formula, right: Formula, outcome: bool, **tensors: Any) -> None:
    """Refuse inputs of a size for which a comparison of what is computed from sizes comes out otherwise.

    tensors: those whose sizes it is about, by name.

    >>> related("ne", ("mod", ("size", "x", 1), 2), 0, True, x=torch.ones(2, 3))
    """
    if any(isinstance(tensor, fx.Proxy) for tensor in tensors.values()):
        return
    if comes_out(question, left, right, lambda tensor, axis: tensors[tensor].shape[axis]) is not outcome:
        asked = relation_in_words(question, left, right)
        raise SettledError(
            f"the forward takes another course than when it was captured, for inputs of this size: {asked} is "
            f"{not outcome}",
            remedy='grow the model in its own class (form="module"), or with example_inputs of this size',
        )


def other_than(tensor: Any, name: str, asked: str, other: Any) -> None:
    """Refuse an input with a property for which the forward takes another course.

    >>> other_than(torch.ones(2, 3), "x", "ndim", 3)
    """
    if isinstance(tensor, fx.Proxy):
        return
    answer = getattr(tensor, asked)
    if (answer() if inspect.isroutine(answer) else answer) == other:
        raise SettledError(
            f"{name}.{asked} is {other}, for which the forward takes another course than when it was captured",
            remedy="call it as it was captured, or grow the model with example_inputs as it is called",
        )


_STEPS = {"mod": "%", "floordiv": "//", "add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}
_ASKED = {"eq": "", "ne": "other than ", "lt": "fewer than ", "le": "at most ", "gt": "more than ", "ge": "at least "}


def structured(value: Any, captured: int | Iterable[Any], name: str) -> None:
    """Refuse a collection of tensors of another length, or with other keys, than at capture.

    captured: the length or the keys that it had then.

    >>> structured(["a tensor", "another"], 2, "images")
    """
    if isinstance(value, fx.Proxy):
        return
    if value is None:
        raise _another(name, "held tensors when the model was captured, and is None now")
    if not hasattr(value, "__getitem__"):
        raise _another(name, f"was indexed when the model was captured, and is a {type(value).__name__} now")
    before, now = (captured, len(value)) if isinstance(captured, int) else (list(captured), list(value))
    if now != before:
        noun = "entries" if isinstance(captured, int) else "as its keys"
        raise _another(name, f"had {before} {noun} when the model was captured, and has {now} now")


def still_tensor(value: Any, name: str) -> None:
    """Refuse a call without a tensor that there was at capture.

    >>> still_tensor(torch.ones(2), "mask")
    """
    if not isinstance(value, (fx.Proxy, torch.Tensor)):
        raise _another(name, f"was a tensor when the model was captured, and is {value!r} now")


def same_object(value: Any, called: str, name: str) -> None:
    """Refuse another function or object as an argument; None stands for the one that is the default.

    >>> same_object(torch.sigmoid, name_of_object(torch.sigmoid), "act")
    """
    if value is None or isinstance(value, fx.Proxy):
        return
    if name_of_object(value) != called:
        raise _another(name, f"was {called} when the model was captured, and is {name_of_object(value)} now")


def _another(name: str, what: str) -> SettledError:
    remedy = f"grow the model with example_inputs that hold {name} as it is called"
    return SettledError(f"{name} {what}", remedy=remedy)


def name_of_object(value: Any) -> str:
    """What a function or a member of an Enum is called, with its module; of any other object, its class.

    Of an object of a user's own also the numbers and texts that it holds. Functions without a name are told apart by
    their line, partial ones by what they are given, modules by their text.

    >>> name_of_object(print), name_of_object(slice(2)), name_of_object(torch.nn.Softmax(1))
    ('builtins.print', 'slice(None, 2, None)', 'Softmax(dim=1)')
    """
    if isinstance(value, enum.Enum):
        return f"{type(value).__module__}.{value}"
    if isinstance(value, torch.nn.Module):
        return repr(value)
    if isinstance(value, functools.partial):
        given = [in_words(item) for item in value.args] + [f"{k}={in_words(v)}" for k, v in value.keywords.items()]
        return f"partial({', '.join([name_of_object(value.func), *given])})"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__} of {', '.join(sorted(map(in_words, value)))}"
    if isinstance(value, (range, slice, complex, bytes, torch.device)):
        return repr(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    plain = ", ".join(_plain_items(value).values())
    line = f" of line {value.__code__.co_firstlineno}" if getattr(value, "__name__", "") == "<lambda>" else ""
    name = f"{home_of(named) or 'torch'}.{named.__qualname__}{line}"
    return f"{name}({plain})" if plain else name


def _plain_items(value: Any) -> dict[str, str]:
    """The numbers, texts and members of an Enum that an object holds, in words, by name."""
    held = {name: item for name, item in fields_of(value).items() if writable(item) or isinstance(item, enum.Enum)}
    return {name: f"{name}={in_words(item)}" for name, item in held.items()}


class Starred(tuple[Any, ...]):
    """What a parameter such as `*images` is given."""


def in_words(value: Any) -> str:
    """An argument in words, the same for values that a forward cannot tell apart.

    >>> in_words(torch.ones(2)), in_words("mean"), in_words(print), in_words({"x": torch.ones(2)})
    ('a tensor', "'mean'", 'builtins.print', "a dictionary of 'x'")
    """
    if value is inspect.Parameter.empty or (isinstance(value, Starred) and not value):
        return "left out"
    if isinstance(value, Starred):
        return ", ".join(map(in_words, value))
    if isinstance(value, torch.Tensor):
        return "a tensor"
    if isinstance(value, dict) and not writable(value):
        return f"a dictionary of {', '.join(sorted(map(repr, value)))}"
    if (held := fields_of(value)) and holds_tensor(value):
        plain = _plain_items(value)
        named = [plain.get(name, repr(name)) for name, item in held.items() if item is not None]
        return f"a {type(value).__name__} of {', '.join(sorted(named))}"
    if isinstance(value, (tuple, list)) and holds_tensor(value):
        return f"[{', '.join(map(in_words, value))}]"
    return repr(value) if writable(value) else name_of_object(value)


def writable(value: Any) -> bool:
    """Whether generated code can hold a value: plain numbers, strings and containers of them."""
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list) and all(map(writable, value))
    if isinstance(value, dict):
        return type(value) is dict and all(map(writable, value.values()))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


CALL_GUARDS: tuple[Callable[..., Any], ...] = (compared, related, other_than, structured, still_tensor, same_object)
