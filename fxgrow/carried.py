"""What a grown module carries of its past, in one attribute; a pickled module can be read where there is no fxgrow."""

from __future__ import annotations

import functools
import pickle
from typing import Any

from torch import nn

ATTRIBUTE = "_fxgrow"


class Carried:
    """A value that is bytes in the pickle of the module that carries it, so that reading this asks for no fxgrow."""

    def __reduce__(self) -> Any:
        return bytes, (pickle.dumps((type(self), self.__dict__)),)

    def __copy__(self) -> Any:
        return self  # a value: copies of a model share it

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


def carried_by(model: nn.Module) -> Any:
    """What a module carries of its past; None where fxgrow has not made it."""
    value = getattr(model, ATTRIBUTE, None)
    return _read(value) if isinstance(value, bytes) else value


@functools.lru_cache(maxsize=16)
def _read(pickled: bytes) -> Any:
    kind, attributes = pickle.loads(pickled)
    value = object.__new__(kind)
    value.__dict__.update(attributes)
    return value
