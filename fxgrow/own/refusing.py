"""Models of a user's own class that refuse calls with arguments for which they did not grow."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from fxgrow.capture.call_guards import Starred, in_words
from fxgrow.capture.flags import parts_of, value_of
from fxgrow.capture.numbers import plain
from fxgrow.errors import SettledError
from fxgrow.own.edited import Remade, class_to_change, subclass
from fxgrow.planning.plan import Refusal


class Refusing(Remade):
    """A model whose forward refuses some values of its arguments by name."""

    refusals: tuple[Refusal, ...]


def with_refusals(model: Any, refusals: tuple[Refusal, ...]) -> None:
    """Let a model refuse calls, also those that it refuses already."""
    if refusals:
        before = model.refusals if isinstance(model, Refusing) else ()
        named = {refusal.place: refusal for refusal in (*before, *refusals)}
        if not isinstance(model, Refusing) or len(named) > len(before):
            kind: Any = class_to_change(model)
            model.__class__ = refusing(kind, frozenset(refusal.method for refusal in named.values()))
        model.refusals = tuple(named.values())


@functools.cache
def refusing(kind: Any, methods: frozenset[str] = frozenset({"forward"})) -> type[nn.Module]:
    """The subclass of a class of models whose instances refuse calls of some of their methods.

    >>> refusing(nn.Softmax).__name__
    'RefusingSoftmax'
    """

    def checking(name: str) -> Callable[..., Any]:
        plainly = getattr(kind, name)
        parameters = list(inspect.signature(plainly).parameters.values())
        places = {parameter.name: place for place, parameter in enumerate(parameters[1:])}
        keywords = {parameter.name for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD}
        several = next((parameter.name for parameter in parameters if parameter.kind is parameter.VAR_POSITIONAL), None)
        defaults = {parameter.name: parameter.default for parameter in parameters}
        left_out = inspect.Parameter.empty

        @functools.wraps(plainly)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            def values(argument: str) -> list[Any]:
                if "." in argument:
                    kind_of_part, _, attribute = argument.rpartition(".")
                    return [value_of(part, attribute, left_out) for part in parts_of(self, kind_of_part)]
                if argument in keywords:
                    return [key for key in kwargs if key not in places]
                place = places.get(argument, len(args))
                if argument == several:
                    return [Starred(map(plain, args[place:]))]
                return [args[place] if place < len(args) else kwargs.get(argument, defaults.get(argument, left_out))]

            for refusal in self.refusals:
                if refusal.method == name and (
                    not refusal.beside or refusal.said in map(_in_words, values(refusal.beside))
                ):
                    for value in values(refusal.argument):
                        _check(refusal, value, kind)
            return plainly(self, *args, **kwargs)

        return method

    return subclass(Refusing, refusing, kind, methods, **{name: checking(name) for name in methods})


def _check(refusal: Refusal, value: Any, kind: Any) -> None:
    if not refusal.argument:
        raise SettledError(
            f"the model did not grow for calls of {refusal.method}: {refusal.why}",
            where=kind.__name__,
            remedy="call it on the model that was grown, or grow with widths that leave this dimension out",
        )
    said = _in_words(value)
    if said not in (*refusal.allowed, None):
        raise SettledError(
            f"{refusal.argument} is {said}{refusal.company}, for which the model did not grow: {refusal.why}",
            where=kind.__name__,
            remedy=_REMEDIES["." in refusal.argument].format(" or ".join(refusal.allowed), refusal.argument),
        )


def _in_words(value: Any) -> str | None:
    """A value in words; None of what stands for values as a graph is made."""
    return None if isinstance(value, fx.Proxy) else in_words(plain(value))


_REMEDIES = (
    "call it with {}, or grow the model with example_inputs that hold {} as it is called",
    "set it to {}, or grow the model with {} set as it is to be",
)
"""Of an argument, and of an attribute."""
