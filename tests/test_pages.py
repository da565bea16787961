"""Tables of the terminal as HTML, and pages in one file."""

from __future__ import annotations

from html.parser import HTMLParser

from rich.console import Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from fxgrow.pages import MOST_ROWS, as_html, page

VOID = {"meta", "br"}


class Checked(HTMLParser):
    """Reads a page, sees that tags close in order and that nothing is loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert tag not in ("script", "link", "iframe")
        for name, value in attrs:
            assert name not in ("src", "href") or (value or "").startswith(("#", "data:"))
            assert not name.startswith("on")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def table(rows: int) -> Table:
    result = Table("name", title="all <of> them")
    result.add_column("size", justify="right")
    for number in range(rows):
        result.add_row(f"conv{number}.weight[0]", f"[bold]{number}[/]")
    return result


def test_a_table_becomes_a_table() -> None:
    checked = Checked(as_html(table(2)))
    assert checked.seen.count("td") == 4 and checked.seen.count("th") == 2
    assert checked.text == "all <of> themnamesizeconv0.weight[0]0conv1.weight[0]1"


def test_a_long_table_is_folded_under_its_title() -> None:
    checked = Checked(as_html(table(MOST_ROWS + 1)))
    assert checked.seen[:2] == ["details", "summary"]
    assert checked.text.startswith(f"all <of> them ({MOST_ROWS + 1} rows)")


def test_groups_texts_and_whatever_else_there_is() -> None:
    tree = Tree("a")
    tree.add("b < c")
    markup = as_html(Group(Text("1 & 2"), tree))
    assert markup == "<p>1 &amp; 2</p>\n<pre>a\n└── b &lt; c</pre>"


def test_a_page_stands_by_itself() -> None:
    text = page("a & b", [("first <part>", as_html(table(1)))], "made by <x>")
    checked = Checked(text)
    assert text.startswith("<!DOCTYPE html>")
    assert checked.seen.count("section") == 1
    assert "first <part>" in checked.text and "made by <x>" in checked.text
