"""What notebooks and pages show: tables as HTML, and pages that stand by themselves in one file."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fxgrow.printing import as_text

MOST_ROWS = 12
"""Longer tables are folded: their title opens them."""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --dim: #5b6472; --paper: #ffffff; --line: #d5d9df; --shade: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --dim: #a2abb9; --paper: #101318; --line: #343a45; --shade: #1a1e25; }
}
body { font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; color: var(--ink);
       background: var(--paper); max-width: 1000px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin-bottom: .25rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .82rem; margin: .4rem 0 1rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
section { overflow-x: auto; }
thead th { background: var(--shade); }
summary { cursor: pointer; }
details { font-size: .85rem; }
svg, img { max-width: 100%; height: auto; }
.plot { background: #ffffff; border-radius: 8px; padding: .5rem; }
footer { color: var(--dim); font-size: .8rem; margin-top: 2.5rem; }
@media print {
  body { margin: 0; max-width: none; }
  h2 { break-after: avoid; }
  tr, svg { break-inside: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""


def as_html(shown: Any) -> str:
    """What a terminal shows as HTML: tables as tables, groups part by part, everything else as text.

    >>> table = Table("size", title="held")
    >>> table.add_row("<8>")
    >>> as_html(table)
    '<table><caption>held</caption><thead><tr><th style="text-align:left">size</th></tr></thead><tbody><tr><td \
style="text-align:left">&lt;8&gt;</td></tr></tbody></table>'
    """
    if isinstance(shown, Group):
        return "\n".join(map(as_html, shown.renderables))
    if isinstance(shown, Table):
        return _table(shown)
    if isinstance(shown, (Text, str)):
        return f"<p>{escape(_plain(shown))}</p>"
    return f"<pre>{escape(as_text(shown))}</pre>"


class Shown:
    """What prints as a terminal shows it (`__rich__`), and shows itself in notebooks as HTML of the same."""

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def __str__(self) -> str:
        return as_text(self.__rich__())

    def _repr_html_(self) -> str:
        return as_html(self.__rich__())


def titled(title: str, *left: str, right: Iterable[str] = ()) -> Table:
    """A table without rows: its headings, of which the last may be those of numbers."""
    table = Table(title=title, title_justify="left")
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def folded(title: str, inside: str) -> str:
    """A title that opens what is inside."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def _table(table: Table) -> str:
    title = _plain(table.title or "")
    heads = "".join(f"<th{_aligned(c.justify)}>{escape(_plain(c.header))}</th>" for c in table.columns)
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_aligned(column.justify)}>{escape(_plain(cell))}</td>"
            for column, cell in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    long = table.row_count > MOST_ROWS
    caption = f"<caption>{escape(title)}</caption>" if title and not long else ""
    markup = f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return folded(f"{title or 'table'} ({table.row_count} rows)", markup) if long else markup


def _aligned(justify: str) -> str:
    return f' style="text-align:{"right;white-space:nowrap" if justify == "right" else "left"}"'


def _plain(cell: Any) -> str:
    """A cell without the marks that colour it on a terminal."""
    if isinstance(cell, Text):
        return cell.plain
    return Text.from_markup(cell).plain if isinstance(cell, str) else as_text(cell)


def page(title: str, parts: Iterable[tuple[str, str]], footer: str) -> str:
    """A page of HTML in one file, which loads nothing: a heading, and HTML under a heading of its own for each part."""
    body = "\n".join(f"<section>\n<h2>{escape(heading)}</h2>\n{inside}\n</section>" for heading, inside in parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n"
        f"<footer>{escape(footer)}</footer>\n</body>\n</html>\n"
    )
