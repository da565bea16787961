"""Models of a user's own class that refuse calls with arguments for which they did not grow."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from fxgrow.capture.call_guards import in_words
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
        named = {(refusal.method, refusal.argument): refusal for refusal in (*before, *refusals)}
        if not isinstance(model, Refusing) or len(named) > len(before):
            kind: Any = class_to_change(model)
            model.__class__ = refusing(kind, frozenset(method for method, _ in named))
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
        defaults = {parameter.name: parameter.default for parameter in parameters}
        left_out = inspect.Parameter.empty

        @functools.wraps(plainly)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            for refusal in self.refusals:
                argument = refusal.argument
                if refusal.method == name and "." in argument:
                    kind_of_part, _, attribute = argument.rpartition(".")
                    for part in parts_of(self, kind_of_part):
                        _check(refusal, value_of(part, attribute, left_out), kind)
                elif refusal.method == name:
                    place = places.get(argument, len(args))
                    value = args[place] if place < len(args) else kwargs.get(argument, defaults.get(argument, left_out))
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
    said = in_words(plain(value))
    if not isinstance(value, fx.Proxy) and said not in refusal.allowed:
        raise SettledError(
            f"{refusal.argument} is {said}, for which the model did not grow: {refusal.why}",
            where=kind.__name__,
            remedy=_REMEDIES["." in refusal.argument].format(" or ".join(refusal.allowed), refusal.argument),
        )


_REMEDIES = (
    "call it with {}, or grow the model with example_inputs that hold {} as it is called",
    "set it to {}, or grow the model with {} set as it is to be",
)
"""Of an argument, and of an attribute."""
