"""Every example in README.md, docs/ and docstrings runs and is true."""

from __future__ import annotations

import doctest
import importlib
import linecache
import pkgutil
import re
from pathlib import Path

import pytest

import fxgrow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python *(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share their names, as a reader who types them in would."""
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        if block[1] != "no-run":
            line = text[: block.start()].count("\n") + 1
            exec(compile("\n" * line + block[2], str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_contributing_names_tests_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in LINK.findall(text) if not (ROOT / target).exists()] == []
    commands = re.findall(r"pytest (?:-n 0 )?(tests/\S+?)(?: -k (\w+))?`", text)
    assert len(commands) == 2
    for path, word in commands:
        assert (ROOT / path).exists(), path
        assert not word or re.search(rf"^def test_\w*{word}", (ROOT / path).read_text(), re.MULTILINE), word


MODULES = [
    info.name for info in pkgutil.walk_packages(fxgrow.__path__, "fxgrow.") if not info.name.endswith("__main__")
]
ZOO = [f"fxgrow.zoo.{name}" for name in ("checkpoints", "data", "networks", "recipes", "train", "training")]


@pytest.mark.parametrize("name", [*MODULES, "fxgrow.transforms", "fxgrow.catalogue", *ZOO])
def test_the_examples_of_a_module_run(name: str) -> None:
    module = importlib.import_module(name)
    linecache.clearcache()  # doctest looks at every file in it for every docstring; torch.fx puts one in for each graph
    docstrings = [docstring for docstring in doctest.DocTestFinder().find(module) if docstring.examples]
    runner = doctest.DocTestRunner()
    assert [docstring.name for docstring in docstrings if runner.run(docstring).failed] == []
