"""The documentation site builds without a warning, and what its own hooks do is seen in its pages."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocstrings_handlers.python", reason="the site needs fxgrow[docs]")

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parent.parent
ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def text_of(page: str) -> str:
    """What a reader sees, without line breaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


@pytest.mark.parametrize("name", ["api", "values"])
def test_every_entry_of_the_reference_is_rendered(site: Path, name: str) -> None:
    page = (site / "reference" / name / "index.html").read_text()
    entries = ENTRY.findall((ROOT / "docs" / "reference" / f"{name}.md").read_text())
    assert [entry for entry in entries if f'id="{entry}" class="doc doc-heading"' not in page] == []
    text = text_of(page)
    assert "----------" not in text  # sections are lists, not underlined headings
    assert "# doctest:" not in text


def test_parameters_errors_and_examples_are_rendered(site: Path) -> None:
    page = (site / "reference" / "api" / "index.html").read_text()
    entry = page[page.index('id="fxgrow.grow"') : page.index('id="fxgrow.plan"')]
    text = text_of(entry)
    assert "Parameters: model (nn.Module) – any module whose forward can be recorded as a graph" in text
    assert "Raises: AmountError –" in text
    assert '>>> grown.get_submodule("0") Linear(in_features=4, out_features=16, bias=True)' in text


def test_names_that_share_an_item_have_their_types(site: Path) -> None:
    text = text_of((site / "reference" / "values" / "index.html").read_text())
    assert "old, new (int) – sizes before and after." in text
    assert "parameters, flops (int | None) – of the model" in text


def test_names_of_fxgrow_lead_to_their_entries(site: Path) -> None:
    page = (site / "how-to" / "save-and-load" / "index.html").read_text()
    assert re.search(r'href="../../reference/api/#fxgrow.save"><code>fxgrow.save</code>', page)


def test_links_out_of_the_folder_lead_to_pages_of_the_site(site: Path) -> None:
    page = (site / "explanation" / "certificates" / "index.html").read_text()
    assert 'href="../../repository/tests/test_layers.py/"' in page
    assert "def test_" in text_of((site / "repository" / "tests" / "test_layers.py" / "index.html").read_text())
    contributing = (site / "repository" / "CONTRIBUTING" / "index.html").read_text()
    assert 'href="../../ARCHITECTURE/"' in contributing
