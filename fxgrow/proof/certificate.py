"""What a proof is: a tree of claims, each with its rule, its conditions and a verdict."""

from __future__ import annotations

import enum
import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from fxgrow.errors import reading
from fxgrow.printing import as_text


class Verdict(enum.Enum):
    """How far a claim is established, weakest first; `str()` is the word.

    >>> str(Verdict.PROVED), min([Verdict.PROVED, Verdict.UNKNOWN])
    ('PROVED', <Verdict.UNKNOWN: 'UNKNOWN'>)
    """

    REFUTED = "REFUTED"
    UNKNOWN = "UNKNOWN"
    TESTED = "TESTED"
    PROVED = "PROVED"

    def __str__(self) -> str:
        return self.value

    def __lt__(self, other: Verdict) -> bool:
        order = list(Verdict)
        return order.index(self) < order.index(other)


_WIDTH = 160
_COLOURS = {Verdict.PROVED: "green", Verdict.TESTED: "cyan", Verdict.UNKNOWN: "yellow", Verdict.REFUTED: "red"}
_ON_PAGES = dict(zip(Verdict, ("#d1383d", "#a87900", "#1587a0", "#218a3f"), strict=True))
"""The same, to be read on white and on black."""


@dataclass(frozen=True)
class Certificate:
    """A claim and why it holds: from its rule, whose conditions were checked, and from its children.

    `print` folds what is proved; `expanded` does not.

    Attributes
    ----------
    claim: what is said.
    rule: the rule it follows from.
    conditions: what was checked on actual values.
    verdict: PROVED, TESTED, UNKNOWN or REFUTED; that of a claim with children is its weakest child's.
    detail: for REFUTED the smallest witness, for UNKNOWN the reason, for TESTED the measurement.
    children: the claims that it rests on.

    >>> one = Certificate("x is zero", "values", ("all 4 entries are zero",))
    >>> two = Certificate("y equals the old y", "linear", (), Verdict.UNKNOWN, "no rule")
    >>> print(Certificate.of("the model computes what it did", [one, two]))
    UNKNOWN  the model computes what it did
    └── UNKNOWN  y equals the old y [linear]
        └── no rule
    """

    claim: str
    rule: str = ""
    conditions: tuple[str, ...] = ()
    verdict: Verdict = Verdict.PROVED
    detail: str = ""
    children: tuple[Certificate, ...] = ()
    scale_of: Callable[[], Any] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def scale(self) -> Any:
        """What growth does to the scale of activations and gradients, worked out when it is first looked at.

        None for certificates that were read, or made without the original.
        """
        return self.scale_of() if self.scale_of is not None else None

    @classmethod
    def of(cls, claim: str, children: Iterable[Certificate], rule: str = "") -> Certificate:
        """A claim that holds if all its children do."""
        held = tuple(children)
        return cls(claim, rule, verdict=min((c.verdict for c in held), default=Verdict.PROVED), children=held)

    def leaves(self) -> Iterator[Certificate]:
        """The claims that rest on no others, in order."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    @property
    def weakest(self) -> Certificate:
        """The first claim without children that has the verdict of the whole."""
        return next(leaf for leaf in self.leaves() if leaf.verdict is self.verdict)

    def tested(self, evidence: str) -> Certificate:
        """The same tree in which what is UNKNOWN counts as TESTED by a run of the whole model."""
        if self.children:
            children = [child.tested(evidence) for child in self.children]
            return replace(Certificate.of(self.claim, children, self.rule), scale_of=self.scale_of)
        if self.verdict is not Verdict.UNKNOWN:
            return self
        return replace(self, verdict=Verdict.TESTED, detail=f"{evidence}; no proof: {self.detail}")

    # -- as text -------------------------------------------------------------------------------------------

    def to_json(self, indent: int | None = None) -> str:
        """The tree as JSON text; `from_json` reads it back."""
        return json.dumps(self._data(), indent=indent)

    def _data(self) -> dict[str, Any]:
        data: dict[str, Any] = {"claim": self.claim, "verdict": str(self.verdict)}
        data |= {"rule": self.rule} if self.rule else {}
        data |= {"conditions": list(self.conditions)} if self.conditions else {}
        data |= {"detail": self.detail} if self.detail else {}
        return data | ({"children": [child._data() for child in self.children]} if self.children else {})

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """The certificate that `to_json` wrote.

        Raises
        ------
        FxgrowError: the text is not a certificate.
        """
        with reading("certificate"):
            return cls._read(json.loads(text))

    @classmethod
    def _read(cls, data: dict[str, Any]) -> Certificate:
        return cls(
            str(data["claim"]),
            str(data.get("rule", "")),
            tuple(map(str, data.get("conditions", ()))),
            Verdict(data["verdict"]),
            str(data.get("detail", "")),
            tuple(map(cls._read, data.get("children", ()))),
        )

    def expanded(self, depth: int | None = None) -> str:
        """The whole derivation as text, or as much as lies within `depth` levels."""
        return as_text(self.tree(depth), _WIDTH)

    def tree(self, depth: int | None = None) -> Tree:
        """The whole derivation as a rich tree."""
        root = Tree(_line(self))
        self._grow(root, depth)
        return root

    def _grow(self, branch: Tree, depth: int | None) -> None:
        for condition in self.conditions:
            branch.add(escape(condition), style="dim")
        if self.detail:
            branch.add(escape(self.detail))
        if depth == 0 and self.children:
            branch.add(f"… {_counted(self)}", style="dim")
            return
        for child in self.children:
            child._grow(branch.add(_line(child)), None if depth is None else depth - 1)

    def _folded(self, branch: Tree) -> None:
        """Only what decides: where all is proved, the top level with counts; else the way to what is not."""
        if self.detail:
            branch.add(escape(self.detail))
        for condition in self.conditions if not self.children else ():
            branch.add(escape(condition), style="dim")
        for child in self.children:
            if child.verdict is not Verdict.PROVED or (self.verdict is Verdict.PROVED and not child.children):
                child._folded(branch.add(_line(child)))
            elif self.verdict is Verdict.PROVED:
                branch.add(f"{_line(child)} [dim]… {_counted(child)}[/]")

    def __rich__(self) -> Tree:
        root = Tree(_line(self))
        self._folded(root)
        return root

    def __str__(self) -> str:
        return as_text(self.__rich__(), _WIDTH)

    def _repr_html_(self) -> str:
        return _as_html(self)


def _as_html(certificate: Certificate) -> str:
    """Nested <details>, folded where all is proved: what a notebook shows."""
    colour = _ON_PAGES[certificate.verdict]
    rule = f" <small>[{_html(certificate.rule)}]</small>" if certificate.rule else ""
    head = f'<span style="color:{colour}">{certificate.verdict}</span> {_html(certificate.claim)}{rule}'
    inside = [f"<div>{_html(text)}</div>" for text in (*certificate.conditions, certificate.detail) if text]
    inside += [_as_html(child) for child in certificate.children]
    opened = "" if certificate.verdict is Verdict.PROVED else " open"
    return f'<details{opened} style="margin-left:1em"><summary>{head}</summary>{"".join(inside)}</details>'


_html = partial(html.escape, quote=False)


def _line(certificate: Certificate) -> str:
    rule = f" [dim]{escape(f'[{certificate.rule}]')}[/]" if certificate.rule else ""
    colour = _COLOURS[certificate.verdict]
    return f"[{colour}]{certificate.verdict}[/]  {escape(certificate.claim)}{rule}"


def _counted(certificate: Certificate) -> str:
    steps = sum(1 for _ in certificate.leaves())
    return f"{steps} step{'s' if steps != 1 else ''}"


@dataclass(frozen=True)
class Step:
    """What was proved, or not, of one node, and where in the model it is."""

    place: str
    certificate: Certificate


def tree(claim: str, steps: Sequence[Step], said: str = "computes what it did") -> Certificate:
    """The steps of one graph as a tree that follows the modules of the model; `said`: of each of them."""
    root: dict[str, Any] = {}
    for step in steps:
        level = root
        for part in filter(None, step.place.split(".")):
            level = level.setdefault(part, {})
        level.setdefault("", []).append(step.certificate)

    def branch(name: str, level: dict[str, Any]) -> list[Certificate]:
        own = list(level.get("", []))
        inner = [
            certificate
            for part, below in level.items()
            if part
            for certificate in branch(f"{name}.{part}" if name else part, below)
        ]
        claims = [*own, *inner]
        return claims if len(claims) < 2 or not name else [Certificate.of(f"{name} {said}", claims)]

    return Certificate.of(claim, branch("", root))
