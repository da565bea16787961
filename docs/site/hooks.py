"""Hooks of the site: links out of docs/ lead to pages of their own, and names of fxgrow lead to the reference."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
OUTSIDE = "repository"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#])")
NO_RUN = re.compile(r"^```python no-run$", re.MULTILINE)


class Names(Extension):
    """Make `fxgrow.grow` a link to its entry in the reference, if it has one."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(_Name(r"`(fxgrow\.[\w.]+)`", md), "fxgrow-names", 195)  # before code spans


class _Name(InlineProcessor):
    ANCESTOR_EXCLUDES = ("a",)

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element, int, int]:  # type: ignore[override]
        reference = Element("autoref", {"identifier": m[1], "optional": ""})
        SubElement(reference, "code").text = AtomicString(m[1])
        return reference, m.start(0), m.end(0)


def on_config(config: MkDocsConfig) -> None:
    config.markdown_extensions.append(Names())  # type: ignore[arg-type]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add a page for each file of the repository outside docs/ that a page links to, as far as links lead."""
    waiting = [(file.content_string, Path(config.docs_dir, file.src_uri)) for file in files.documentation_pages()]
    while waiting:
        text, place = waiting.pop()
        for target in LINK.findall(text):
            path = _place(target, place)
            page = _page_of(path, config)
            if path.is_file() and page.startswith(OUTSIDE) and page not in files.src_uris:
                content = path.read_text()
                if path.suffix == ".md":
                    waiting.append((content, path))
                else:
                    content = f"# {path.name}\n\n`{path.relative_to(ROOT)}`\n\n```{path.suffix[1:]}\n{content}```\n"
                files.append(File.generated(config, page, content=content))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to the places that files have on the site; what only looks like a link stays."""
    uri = page.file.src_uri
    inside = uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(OUTSIDE) else None
    place = ROOT / inside if inside is not None else Path(config.docs_dir, uri)

    def relinked(match: re.Match[str]) -> str:
        path = _place(match[1], place)
        outside = inside is not None or not path.is_relative_to(config.docs_dir)
        leads = outside and path.exists()
        return os.path.relpath(_page_of(path, config), Path(uri).parent) if leads else match[1]

    return LINK.sub(relinked, NO_RUN.sub("```python", markdown))


def _place(target: str, place: Path) -> Path:
    return Path(os.path.normpath(place.parent / target))


def _page_of(path: Path, config: MkDocsConfig) -> str:
    """Where a file of the repository is on the site, as the name of a source."""
    if path.is_relative_to(config.docs_dir):
        return str(path.relative_to(config.docs_dir))
    name = path.relative_to(ROOT)
    return f"{OUTSIDE}/{name}" if path.suffix == ".md" else f"{OUTSIDE}/{name}.md"
