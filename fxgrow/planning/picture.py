"""A plan as a picture: the model before and after growth, as SVG.

Blocks are boxes. In a box is a bar for each dimension that is made there, as long as the square root of its size, so
that 64 and 4,096 go on one page; what growth adds is lighter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from fxgrow.planning.outline import Box, Dimension, Section, outline, spread
from fxgrow.planning.showing import short

if TYPE_CHECKING:
    from fxgrow.planning.plan import Plan

WIDTH = 960
LABELS, BETWEEN, SAID, MARGIN = 176, 44, 130, 18
"""Widths in pixels: of labels, of the space between before and after, of the sizes on the right, and of the rim."""

COLOURS = ("#4477aa", "#dd6655", "#228877", "#aa7722", "#8855aa", "#2299bb", "#bb4477", "#668833")
"""Of growth groups that go through a stretch of the model; groups inside a block have a mixture with grey."""

STAYS = "#8a8f98"
TALL = 760
"""Bars are thinner in pictures that would be taller than this."""

UNKNOWN = 120.0
"""Width of a box of which the plan says no sizes, as of all where depth alone grows."""

MOST = 24
"""Boxes of one run that are drawn; of longer runs some in the middle are left out."""

STYLE = """
.fxgrow-plan { max-width: 100%; height: auto; }
.fxgrow-plan { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }
.fxgrow-plan .card { fill: #ffffff; stroke: #d5d9df; }
.fxgrow-plan text { fill: #1f2430; }
.fxgrow-plan .dim { fill: #5b6472; }
.fxgrow-plan .head { font-size: 16px; font-weight: 600; }
.fxgrow-plan .name { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .fxgrow-plan .card { fill: #16191f; stroke: #343a45; }
  .fxgrow-plan text { fill: #e6e9ef; }
  .fxgrow-plan .dim { fill: #a2abb9; }
}
"""


def picture(plan: Plan) -> str:
    """SVG of the model before and after, with a tooltip on each bar that says what grows and what stays, and why."""
    return _Picture(plan).svg()


@dataclass(frozen=True)
class _Ink:
    """Thickness of bars and of the space around them."""

    thick: float
    thin: float
    gap: float
    rim: float

    def thinner(self, by: float) -> _Ink:
        return _Ink(self.thick * by, self.thin * by, self.gap * by, self.rim * by)

    def height(self, box: Box, lead: str) -> float:
        bars = sum(self.thick if _leads(dimension, lead) else self.thin for dimension in box.dimensions)
        return max(bars + self.gap * max(0, len(box.dimensions) - 1), self.thick) + 2 * self.rim


class _Picture:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sections = outline(plan)
        self.lines: list[str] = []
        boxes = [box for section in self.sections for box in section.boxes]
        largest = [max((root(d) for box in boxes for d in box.dimensions), default=1.0) for root in (_old, _new)]
        space = WIDTH - 2 * MARGIN - LABELS - BETWEEN - SAID
        self.scale = (space - 24) / sum(largest)
        self.left = MARGIN + LABELS, MARGIN + LABELS + BETWEEN + 12 + self.scale * largest[0]
        """Where boxes begin, before and after."""
        self.leads = self._leading()
        self.colours = self._coloured()
        self.ink = _Ink(6, 3.5, 1.5, 3)
        tall = sum(self._stack(section.boxes)[1] + 14 for section in self.sections)
        if tall > TALL:
            self.ink = self.ink.thinner(max(0.5, TALL / tall))

    def _leading(self) -> dict[str, str]:
        """Of each box the group that is in most others: what goes through it."""
        counts = spread(self.sections)
        return {
            box.path: max((d.group for d in box.dimensions if d.group), key=lambda group: counts[group], default="")
            for section in self.sections
            for box in section.boxes
        }

    def _coloured(self) -> Mapping[str, str]:
        """Colours of groups, and of sections by their path: of one hue where nothing goes through all its boxes."""
        counts, hues = spread(self.sections), itertools.cycle(COLOURS)
        colours: dict[str, str] = {}
        for section in self.sections:
            leads = [self.leads[box.path] for box in section.boxes]
            alone = section.is_run and all(counts.get(lead, 0) < 2 for lead in leads)
            if alone and any(leads):
                colours[section.path] = next(hues)
                colours |= {lead: colours[section.path] for lead in leads if lead}
            elif not any(box.dimensions for box in section.boxes):
                colours[section.path] = next(hues)
            for lead in leads:
                if lead and lead not in colours:
                    colours[lead] = next(hues)
            for box in section.boxes:
                inner = (
                    dimension.group
                    for dimension in box.dimensions
                    if dimension.group and dimension.group not in colours
                )
                for number, group in enumerate(inner):
                    colours[group] = _mixed(colours[self.leads[box.path]], STAYS, 0.35 + 0.2 * (number % 2))
        return colours

    # -- the page ----------------------------------------------------------------------------------------

    def svg(self) -> str:
        y = self._heading()
        for section in self.sections:
            y = self._section(section, y)
        if not self.sections:
            self._text(MARGIN, y + 14, "nothing grows", "dim")
            y += 26
        y = self._legend(y + 8)
        said = _said(f"{self.plan.model} before and after growth")
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" class="fxgrow-plan" role="img" aria-label="{said}" '
                f'viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}">',
                f"<style>{STYLE}</style>",
                f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1:.0f}" rx="8"/>',
                *self.lines,
                "</svg>",
            )
        )

    def _heading(self) -> float:
        totals = self.plan.totals
        amounts = (
            ("parameters", totals.parameters_before, totals.parameters_after),
            ("FLOPs a sample", totals.flops_before, totals.flops_after),
        )
        said = [f"{name} {short(old)} → {short(new)} (×{new / max(1, old):.2f})" for name, old, new in amounts]
        self._text(MARGIN, 30, self.plan.model, "head")
        self._text(MARGIN, 50, " · ".join(said), "dim")
        for x, word in zip(self.left, ("before", "after"), strict=True):
            self._text(x, 78, word, "dim")
        return 90.0

    def _section(self, section: Section, y: float) -> float:
        (_, tall_before), (_, tall_after) = self._stack(section.old), self._stack(section.boxes)
        counted = section.is_run and len(section.boxes) > 1
        height = max(tall_before, tall_after, 30.0 if counted else 15.0)
        colour = self.colours.get(self._lead_of(section) or section.path, STAYS)
        tops = [y + (height - tall) / 2 for tall in (tall_before, tall_after)]
        if section.old:
            self._band(section, tops, (tall_before, tall_after), colour)
        self._draw(section.old, self.left[0], tops[0], False, colour)
        self._draw(section.boxes, self.left[1], tops[1], True, colour)
        middle = y + height / 2 + 4 - (7 if counted else 0)
        self._text(MARGIN, middle, _shortened(section.path) or self.plan.model, "name", section.path)
        if counted:
            blocks = "× " + " → ".join(map(str, dict.fromkeys((len(section.old), len(section.boxes)))))
            self._text(MARGIN, middle + 15, blocks, "dim")
            if section.stays:
                self._pin(MARGIN + 7 * len(blocks) + 8, middle + 11, section.stays)
        self._sizes(section, y + height / 2 + 4, 2 if height >= 30 else 1)
        return y + height + 14

    def _lead_of(self, section: Section) -> str:
        return next((self.leads[box.path] for box in reversed(section.boxes) if self.leads[box.path]), "")

    def _sizes(self, section: Section, y: float, most: int) -> None:
        """The sizes that a section makes, on so many lines: first of what goes through it, then of what is inside."""
        lead = self._lead_of(section)
        dimensions = [dimension for box in section.boxes for dimension in box.dimensions]
        dimensions.sort(key=lambda d: (d.group != lead, not d.group))
        sizes = list(
            dict.fromkeys(f"{d.old:,} → {d.new:,}" if d.new != d.old else f"{d.new:,} stays" for d in dimensions)
        )
        lines = [*sizes[: most - 1], f"{sizes[most - 1]} …"] if len(sizes) > most else sizes
        for number, line in enumerate(lines):
            below = 15 * (number - (len(lines) - 1) / 2)
            self._text(WIDTH - MARGIN - SAID + 8, y + below, line, "" if "→" in line else "dim")

    # -- boxes -------------------------------------------------------------------------------------------

    def _stack(self, boxes: Sequence[Box]) -> tuple[list[Box | int], float]:
        """What is drawn of boxes, a number where some are left out, and how tall it is."""
        drawn: list[Box | int] = list(boxes)
        if len(boxes) > MOST:
            drawn = [*boxes[: MOST // 2], len(boxes) - MOST + 1, *boxes[len(boxes) - MOST // 2 + 1 :]]
        heights = [16.0 if isinstance(box, int) else self.ink.height(box, self.leads[box.path]) for box in drawn]
        return drawn, sum(heights) + 2 * self.ink.gap * max(0, len(drawn) - 1)

    def _draw(self, boxes: Sequence[Box], x: float, y: float, after: bool, colour: str) -> None:
        drawn, _ = self._stack(boxes)
        for box in drawn:
            if isinstance(box, int):
                self._text(x + 6, y + 12, f"⋮ {box} more", "dim")
                y += 16 + 2 * self.ink.gap
                continue
            y += self._box(box, x, y, after, colour) + 2 * self.ink.gap

    def _box(self, box: Box, x: float, y: float, after: bool, colour: str) -> float:
        ink, lead = self.ink, self.leads[box.path]
        height, width = ink.height(box, lead), self._width(box, after)
        colour = self.colours.get(lead, STAYS if box.dimensions else colour)
        dashed = ' stroke-dasharray="4 2.5"' if box.new else ""
        notes = "; ".join((*([f"{box.path}: a new block"] if box.new else [box.path]), *box.stays))
        self.lines.append(
            f'<g><title>{_said(notes)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="3" fill="{colour}" fill-opacity="{0.06 if box.new else 0.14}" stroke="{colour}" '
            f'stroke-opacity="0.7"{dashed}/></g>'
        )
        if after and box.stays:
            self._pin(x + width, y + height / 2, "; ".join(box.stays))
        below = y + ink.rim
        for dimension in box.dimensions:
            thick = ink.thick if _leads(dimension, lead) else ink.thin
            self._bar(dimension, x + 4, below, thick, after, box.new)
            below += thick + ink.gap
        return height

    def _bar(self, dimension: Dimension, x: float, y: float, thick: float, after: bool, new: bool) -> None:
        colour = self.colours.get(dimension.group, STAYS)
        old = 0.0 if new else self.scale * _old(dimension)
        length = self.scale * (_new(dimension) if after else _old(dimension))
        parts = (
            [f'<rect x="{x:.1f}" y="{y:.1f}" width="{old:.1f}" height="{thick:.1f}" fill="{colour}"/>'] if old else []
        )
        if length > old:
            parts.append(
                f'<rect x="{x + old:.1f}" y="{y:.1f}" width="{length - old:.1f}" height="{thick:.1f}" fill="{colour}" '
                f'fill-opacity="0.45"/>'
            )
        self.lines.append(f"<g><title>{_said(dimension.said)}</title>{''.join(parts)}</g>")
        if after and not dimension.group:
            self._pin(x + length + 4, y + thick / 2, dimension.said)

    def _width(self, box: Box, after: bool) -> float:
        if not box.dimensions:
            return UNKNOWN
        return self.scale * max((_new if after else _old)(dimension) for dimension in box.dimensions) + 8

    def _pin(self, x: float, y: float, said: str) -> None:
        """A mark where something stays, with the reason."""
        self.lines.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{STAYS}" stroke="#ffffff" stroke-width="0.8">'
            f"<title>{_said(said)}</title></circle>"
        )

    def _band(self, section: Section, tops: Sequence[float], tall: Sequence[float], colour: str) -> None:
        """From what was there to what it becomes."""
        start = self.left[0] + max(self._width(box, False) for box in section.old) + 4
        stop, (a, b), (c, d) = self.left[1] - 4, tops, tall
        middle = (start + stop) / 2
        self.lines.append(
            f'<path d="M{start:.1f} {a:.1f}C{middle:.1f} {a:.1f} {middle:.1f} {b:.1f} {stop:.1f} {b:.1f}V{b + d:.1f}'
            f'C{middle:.1f} {b + d:.1f} {middle:.1f} {a + c:.1f} {start:.1f} {a + c:.1f}Z" fill="{colour}" '
            f'fill-opacity="0.1"/>'
        )

    # -- words -------------------------------------------------------------------------------------------

    def _text(self, x: float, y: float, said: object, kind: str = "", tooltip: str = "") -> None:
        title = f"<title>{_said(tooltip)}</title>" if tooltip else ""
        self.lines.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{title}{_said(said)}</text>')

    def _legend(self, y: float) -> float:
        colour = COLOURS[0]
        boxes = [box for section in self.sections for box in section.boxes]
        dimensions = [dimension for box in boxes for dimension in box.dimensions]
        swatches: list[tuple[str, str]] = []
        if dimensions:
            bar = f'<rect x="0" y="-8" width="22" height="7" fill="{colour}"'
            swatches += [("units that were there", f"{bar}/>"), ("new units", f'{bar} fill-opacity="0.45"/>')]
        if any(box.new for box in boxes):
            outlined = f'fill="{colour}" fill-opacity="0.06" stroke="{colour}" stroke-dasharray="4 2.5"'
            swatches.append(("a new block", f'<rect x="0" y="-10" width="22" height="10" rx="2" {outlined}/>'))
        any_stays = any(box.stays for box in boxes) or any(section.stays for section in self.sections)
        if any_stays or not all(dimension.group for dimension in dimensions):
            bar = f'<rect x="0" y="-8" width="17" height="7" fill="{STAYS}"/>'
            pin = f'<circle cx="20" cy="-4.5" r="2.8" fill="{STAYS}"/>'
            swatches.append(("stays (point at the dot for the reason)", bar + pin))
        x = float(MARGIN)
        for words, drawn in swatches:
            self.lines.append(f'<g transform="translate({x:.1f} {y + 8:.1f})">{drawn}</g>')
            self._text(x + 28, y + 8, words, "dim")
            x += 28 + 6.1 * len(words) + 20
        said = "A bar is as long as the square root of the size." if dimensions else "Sizes stay as they are."
        self._text(MARGIN, y + 26, said if boxes else "", "dim")
        return y + 40


def _said(text: object) -> str:
    """Text as XML has it."""
    return escape("".join(letter for letter in str(text) if letter.isprintable()))


def _leads(dimension: Dimension, lead: str) -> bool:
    return dimension.group == lead and bool(lead)


def _old(dimension: Dimension) -> float:
    return math.sqrt(dimension.old)


def _new(dimension: Dimension) -> float:
    return math.sqrt(dimension.new)


def _mixed(colour: str, second: str, part: float) -> str:
    """A colour with a part of another."""
    channels = ([int(code[k : k + 2], 16) for k in (1, 3, 5)] for code in (colour, second))
    return "#" + "".join(f"{round(a * (1 - part) + b * part):02x}" for a, b in zip(*channels, strict=True))


def _shortened(path: str, most: int = 22) -> str:
    return path if len(path) <= most else f"…{path[-most + 1 :]}"
