"""The reference in docs/ has an entry for every public name, and for nothing that is not there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import fxgrow
from fxgrow.errors import FxgrowError

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)
ENTRIES = [entry for page in sorted(REFERENCE.glob("*.md")) for entry in ENTRY.findall(page.read_text())]


@pytest.mark.parametrize("package", ["fxgrow", "fxgrow.testing", "fxgrow.zoo", "fxgrow.transforms"])
def test_every_public_name_has_an_entry(package: str) -> None:
    public = [f"{package}.{name}" for name in importlib.import_module(package).__all__]
    assert [name for name in public if name not in ENTRIES] == []


def test_every_error_has_an_entry() -> None:
    errors = [value for value in vars(fxgrow.errors).values() if isinstance(value, type)]
    names = {error.__name__ for error in errors if issubclass(error, FxgrowError)}
    assert names - {entry.rpartition(".")[2] for entry in ENTRIES} == set()


def test_the_callback_has_an_entry() -> None:
    assert "fxgrow.lightning.Growth" in ENTRIES


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry != "fxgrow.lightning.Growth"])
def test_an_entry_is_there_and_says_what_it_is(entry: str) -> None:
    home, _, name = entry.rpartition(".")
    assert getattr(importlib.import_module(home), name).__doc__
    assert ENTRIES.count(entry) == 1
