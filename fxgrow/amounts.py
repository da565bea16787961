"""How much to grow: one amount, or amounts for parts of a model."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from fxgrow.errors import AmountError, did_you_mean

_REMEDY = 'pass a factor of at least 1 such as 1.5, or a string such as "+32" (32 more) or "=96" (exactly 96)'


@dataclass(frozen=True)
class Amount:
    """A factor, a number of further units, or an exact size.

    >>> Amount.parse(1.5).apply(64), Amount.parse("+32").apply(64), Amount.parse("=96").apply(64)
    (96.0, 96, 96)
    """

    kind: Literal["factor", "add", "exact"]
    value: float

    @classmethod
    def parse(cls, amount: Any, where: str | None = None) -> Amount:
        """Read a number (a factor) or a string ("1.5", "+32", "=96").

        Raises
        ------
        AmountError: it is not an amount, or it would shrink the model.
        """
        bad = AmountError(f"{amount!r} is not an amount to grow by", where=where, remedy=_REMEDY)
        if isinstance(amount, bool) or not isinstance(amount, (Real, str)):
            raise bad
        if isinstance(amount, str) and (match := re.fullmatch(r"\s*([+=])\s*(\d{1,18})\s*", amount)):
            return cls("add" if match[1] == "+" else "exact", int(match[2]))
        if isinstance(amount, str) and amount.strip().startswith(("+", "=")):
            raise bad
        try:
            factor = float(amount)
        except (ValueError, OverflowError):
            raise bad from None
        if not math.isfinite(factor):
            raise bad
        if factor < 1:
            raise AmountError(f"a factor of {amount} would shrink the model", where=where, remedy=_REMEDY)
        return cls("factor", factor)

    def apply(self, size: int) -> float:
        """The size aimed at, before rounding.

        Raises
        ------
        AmountError: an exact size below the present one.
        """
        if self.kind == "factor":
            return size * self.value
        if self.kind == "add":
            return size + self.value
        if self.value < size:
            raise AmountError(
                f"exactly {self.value} units were asked for, which is fewer than the {size} there are",
                remedy=_REMEDY,
            )
        return self.value


@dataclass(frozen=True)
class Amounts:
    """One amount for all of a model, or amounts by module path, prefix or glob; the more specific wins.

    prefix: put before every path that is asked about, where a part of a model is planned by itself.
    """

    by_key: tuple[tuple[str, Amount], ...]
    prefix: str = ""

    @classmethod
    def parse(cls, amounts: Any) -> Amounts:
        """Read what users pass as `width`.

        Raises
        ------
        AmountError: an amount is none, or the mapping is empty or has keys that are not strings.
        """
        if not isinstance(amounts, Mapping):
            return cls((("", Amount.parse(amounts)),))
        if not amounts:
            raise AmountError("the mapping of amounts is empty", remedy='name a part, as in {"layer3": 2.0}')
        for key in amounts:
            if not isinstance(key, str) or not key:
                raise AmountError(f"{key!r} is not a module path", remedy='name a part, as in {"layer3": 2.0}')
        return cls(tuple((key, Amount.parse(value, key)) for key, value in amounts.items()))

    def match(self, path: str) -> tuple[str, Amount] | None:
        """The most specific key that covers a module path, and its amount.

        Raises
        ------
        AmountError: two keys are equally specific and disagree.
        """
        path = self.prefix + path
        covering = [(key, amount) for key, amount in self.by_key if covers(key, path)]
        if not covering:
            return None
        best = max(specificity(key) for key, _ in covering)
        winners = [(key, amount) for key, amount in covering if specificity(key) == best]
        first, amount = winners[0]
        rival = next((key for key, asked in winners if asked != amount), None)
        if rival is not None:
            raise AmountError(
                f"{first!r} and {rival!r} cover it with different amounts",
                where=path,
                remedy="make one of the keys more specific",
            )
        return winners[0]

    def check_all_used(self, paths: Iterable[str]) -> None:
        """Raise an AmountError for a key that covers none of the module paths."""
        known_paths = list(paths)
        for key, _ in self.by_key:
            if key and not any(covers(key, path) for path in known_paths):
                remedy = did_you_mean(key, known_paths) or "name a module of the model, or a glob over them"
                raise AmountError("the key matches no module of the model", where=key, remedy=remedy)


def plain_int(value: Any) -> Any:
    """A whole number, such as one of numpy's, as an int of Python's; anything else as it is.

    >>> import numpy
    >>> plain_int(numpy.int64(3)), plain_int("+3"), plain_int(True)
    (3, '+3', True)
    """
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def covers(key: str, path: str) -> bool:
    """Whether a key (path, dotted prefix or glob) covers a module path.

    >>> covers("layer4", "layer4.0.conv2"), covers("layer4.*.conv2", "layer4.0.conv2"), covers("layer", "layer4")
    (True, True, False)
    """
    if key == "" or path == key or path.startswith(key + "."):
        return True
    parts = path.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:k]), key) for k in range(1, len(parts) + 1))


def within(key: str, outer: str) -> bool:
    """Whether a key names a part of what another key names.

    >>> within("layer4.0", "layer4"), within("layer4", "layer4.0"), within("layer4.0", "layer*")
    (True, False, True)
    """
    return key != outer and covers(outer, key) and specificity(key) >= specificity(outer)


def specificity(key: str) -> tuple[int, int]:
    """How specific a key is: how many characters it spells out, plain paths before globs."""
    literal = len(re.sub(r"[*?]|\[[^]]*\]", "", key))
    return literal, int(not any(c in key for c in "*?["))


def parse_command_line(texts: list[str]) -> float | str | dict[str, float | str]:
    """Amounts from `--width 1.5`, or from `--width layer3=2 --width layer4=+32 --width fc==96`.

    Raises
    ------
    AmountError: a plain amount is mixed with amounts for parts, or given twice.
    """
    plain = [text for text in texts if "=" not in text[1:]]
    if plain and len(texts) > 1:
        raise AmountError(
            "one amount for the whole model is mixed with others",
            where=" ".join(texts),
            remedy="pass one amount, or PATH=AMOUNT for each part",
        )
    if plain:
        return plain[0]
    parts = [(key, value) for key, _, value in (text.partition("=") for text in texts)]
    twice = next((key for k, (key, _) in enumerate(parts) if key in dict(parts[:k])), None)
    if twice is not None:
        raise AmountError("two amounts for one part", where=twice, remedy="pass one PATH=AMOUNT for each part")
    return dict(parts)
