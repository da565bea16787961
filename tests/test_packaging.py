"""What users get: one top-level package, typed, licensed, with the public names that were promised."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fxgrow

ROOT = Path(__file__).parent.parent
PUBLIC = [
    *("Birth", "FxgrowError", "Plan", "Schedule", "births", "certify", "coordinate_check", "grow", "load", "plan"),
    *("grow_files", "grow_sharded", "report", "rule"),
    *("save", "settle", "adapt_rates", "fold", "param_groups", "replace_parameters", "transfer_state", "vitality"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources, with what is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("fxgrow", "transforms", "zoo"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", "out", "."]
    subprocess.run(command, cwd=folder, check=True)
    return zipfile.ZipFile(next((folder / "out").glob("fxgrow-*.whl")))


def test_the_wheel_brings_one_package(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"fxgrow", f"fxgrow-{fxgrow.__version__}.dist-info"}


def test_the_wheel_holds_every_module_the_types_and_the_licence(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for folder, inside in (("fxgrow", "fxgrow"), ("transforms", "fxgrow/transforms"), ("zoo", "fxgrow/zoo")):
        sources = {f"{inside}/{path.relative_to(ROOT / folder)}" for path in (ROOT / folder).rglob("*.py")}
        assert sources <= names
    assert {"fxgrow/py.typed", "fxgrow/zoo/sizes.csv"} <= names
    assert any(name.endswith("LICENSE") for name in names)


def test_the_public_names_are_those_promised() -> None:
    assert sorted(fxgrow.__all__) == sorted(PUBLIC)
    assert all(hasattr(fxgrow, name) for name in PUBLIC)
