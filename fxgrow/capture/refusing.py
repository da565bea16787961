"""Calls that a recorder does not see, and calls that it refuses whatever the forward does with the result."""

from __future__ import annotations

import functools
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from fxgrow.capture.contexts import Settled
from fxgrow.errors import CaptureError


class Refusals:
    """A recorder's refusals.

    originals: the names of the tensors of the model that is recorded in a copy, by their identities.

    Attributes
    ----------
    settled: what the record settles.
    """

    def __init__(self, originals: Mapping[int, str]) -> None:
        self.originals = originals
        self.settled: list[Settled] = []
        self._refused: Callable[[], CaptureError] | None = None
        self._thread, self._quiet = threading.get_ident(), False

    @abstractmethod
    def where(self) -> str:
        """Whose forward is running."""

    @abstractmethod
    def running_hook(self) -> str | None:
        """The name of the hook that runs; None where none does."""

    @property
    def quiet(self) -> bool:
        """Whether calls are none of the forward's: those inside what is one node, and those of other threads."""
        return self._quiet or threading.get_ident() != self._thread

    @quiet.setter
    def quiet(self, quiet: bool) -> None:
        self._quiet = quiet

    @contextmanager
    def refusals(self, path: str | None = None) -> Iterator[None]:
        """Remember what is refused inside: a forward that catches all errors must not make another course of it."""
        try:
            yield
        except CaptureError as error:
            raise self.refusal(error, path) from error

    def refusal(self, error: CaptureError, path: str | None = None) -> CaptureError:
        """What was refused first; `path`: where, unless it says so itself."""
        if self._refused is None:  # made anew each time: an error that was raised holds all frames up to the user's
            where, what, remedy = error.where or path, error.what, error.remedy
            if (hook := self.running_hook()) is not None:
                what, remedy = f"{what}, in the hook {hook}", "take the hook off to grow, and put it on what comes back"
            self._refused = functools.partial(type(error), what, where=where, remedy=remedy)
        return self._refused()

    def check_refused(self) -> None:
        """Refuse again what was refused, whatever the forward made of it."""
        if self._refused is not None:
            raise self._refused()

    def met_outside(self, tensor: Tensor) -> None:
        """Refuse what a copy of the model would share with it, and note other parameters, which a graph would copy."""
        if id(tensor) in self.originals:
            raise CaptureError(
                f"the forward reads {self.originals[id(tensor)]} past the model, where copies of it share this tensor",
                where=self.where(),
                remedy="read it through self, not through an object that holds the model or its tensors",
            )
        if isinstance(tensor, nn.Parameter):
            self.settled.append(Settled("a parameter that is not the model's own", self.where(), lost=True))
