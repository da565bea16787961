"""What fxgrow raises: what was wrong, where in the model, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class FxgrowError(Exception):
    """Base of every error fxgrow raises on purpose. Its text is `what (at where): remedy`; the parts are attributes.

    Parameters
    ----------
    what: what was wrong, one sentence without a full stop.
    where: the place in the model or file (a module path, a graph node), if there is one.
    remedy: what the caller can do about it, one sentence without a full stop.

    >>> print(FxgrowError("width is 0.5", where="layer3", remedy="use a factor of at least 1"))
    width is 0.5 (at layer3): use a factor of at least 1
    """

    exit_code = 1
    """Of a command that fails with it; 2 where what was asked for means nothing, whatever the model and the machine."""

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        text = what
        if where:
            text += f" (at {where})"
        if remedy:
            text += f": {remedy}"
        super().__init__(text)


class CaptureError(FxgrowError):
    """The model, or the inputs given for it, cannot be captured as a graph."""


class UntraceableError(CaptureError):
    """The model's own forward cannot be a graph, though its parts may be."""


class SettledError(CaptureError, ValueError):
    """A grown graph is called with other inputs than those that its capture settled."""


class AmountError(FxgrowError, ValueError):
    """An argument such as a width, a rounding or an initialisation means nothing here."""

    exit_code = 2


OTHER_MODEL = "apply a plan to the model it was made for"
"""What to do where a plan names what a model does not have."""


class PlanError(FxgrowError):
    """A plan does not fit the model it is applied to, nothing would grow, or a text is not a plan."""


class ScheduleError(FxgrowError, ValueError):
    """Numbers do not make a schedule, or a schedule does not apply."""

    exit_code = 2


class RuleError(FxgrowError):
    """A rule is malformed, registered twice, or claims something its op does not do."""


class VerificationError(FxgrowError):
    """The grown model does not compute what the original computed."""


class TrainingError(FxgrowError):
    """An optimizer, or an option given for it, does not fit the model."""


class FileError(FxgrowError):
    """A file is not a saved fxgrow model, or is damaged, or belongs to another model."""


def first_line(error: BaseException) -> str:
    """The first line of what an exception of another library says.

    >>> first_line(KeyError("format")), first_line(FileNotFoundError(2, "No such file or directory", "x"))
    ("KeyError: 'format'", 'No such file or directory')
    """
    said = f"KeyError: {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
    text = str(said).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(". ")


@contextmanager
def as_error(
    kind: type[FxgrowError],
    what: str,
    *,
    where: str | None = None,
    remedy: str | None = None,
    of: tuple[type[Exception], ...] = (Exception,),
    but: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Let what other code raises, a user's own or a library's, be an error that says what failed.

    of: the errors that become one; left out, all. but: those that stay what they are.

    >>> try:
    ...     with as_error(CaptureError, "the model does not run", where="Net", remedy="pass other inputs"):
    ...         1 / 0
    ... except FxgrowError as error:
    ...     print(error)
    the model does not run: division by zero (at Net): pass other inputs
    """
    try:
        yield
    except but:
        raise
    except of as error:
        raise kind(f"{what}: {first_line(error)}", where=where, remedy=remedy) from error


MISREAD = (KeyError, TypeError, ValueError, AttributeError)
"""What is raised where a document is not of the form that is read."""


def reading(noun: str, kind: type[FxgrowError] = FxgrowError) -> AbstractContextManager[None]:
    """Let what goes wrong while a document is read from JSON be an error that says so.

    >>> try:
    ...     with reading("plan"):
    ...         {}["model"]
    ... except FxgrowError as error:
    ...     print(error)
    the text is not a plan: KeyError: 'model': pass what Plan.to_json() wrote
    """
    return as_error(
        kind, f"the text is not a {noun}", remedy=f"pass what {noun.capitalize()}.to_json() wrote", of=MISREAD
    )


def check_one_of(allowed: Collection[str], asked: Any, what: str, kind: type[FxgrowError]) -> None:
    """Raise an error that says what is asked for and what may be, where it is none of that."""
    if not isinstance(asked, str) or asked not in allowed:
        raise kind(what, remedy=f"use one of {', '.join(allowed)}")


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """A question after the names that are like a word; "" where none is.

    >>> did_you_mean("miror", ["zero", "mirror", "replicate"])
    'did you mean mirror?'
    """
    return question(difflib.get_close_matches(word, names, n=3))


def question(meant: Sequence[str], between: str = ", ") -> str:
    """The question whether one of some names was meant; "" where there are none."""
    return f"did you mean {between.join(meant)}?" if meant else ""
