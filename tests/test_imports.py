"""What is imported when: told by the modules of a fresh process, not by its times."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fxgrow
from tests.pairing import slow

SLOW = ["torch", "timm", "torchvision", "sympy", "networkx", "safetensors"]
"""What no command line needs to print its help."""

OWN = Path(fxgrow.__file__).parent


def printed(code: str) -> str:
    """What a fresh process prints that runs some code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plan", "--help"], ["grow", "--wdith", "2"]])
def test_the_command_line_answers_before_anything_slow_is_imported(arguments: list[str]) -> None:
    code = f"""
import sys
from fxgrow.cli import main
try:
    main({arguments})
except SystemExit:
    print("slow:", *(set({SLOW}) & sys.modules.keys()))
"""
    assert printed(code).splitlines()[-1] == "slow:"


def test_what_is_there_once_fxgrow_is_imported_and_once_something_grows() -> None:
    """In one fresh process, step by step: Python takes seconds to import torch."""
    code = f"""
import random, sys, fxgrow
random.seed(0)
before = "torch" in sys.modules
for name in fxgrow.__all__:
    getattr(fxgrow, name)
print(before, *(set({SLOW}) & sys.modules.keys() - {{"safetensors"}}))
"""
    code += """
import fxgrow.coordinates, fxgrow.schedule, fxgrow.measure.scale, fxgrow.training.vitality, fxgrow.plots
print("matplotlib" in sys.modules)
import torch
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
grown = fxgrow.grow(model, 2, example_inputs=torch.randn(1, 4))
print(fxgrow.report(grown).certificate.verdict, {"timm", "torchvision", "networkx"} & sys.modules.keys())
drawn = random.random()
random.seed(0)
print(drawn == random.random())

from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import law_of_module, rows
before = {target.__module__.partition(".")[0] for target in rows() if hasattr(target, "__module__")}
print({"timm", "torchvision"} & before, {"timm", "torchvision"} & sys.modules.keys())
import timm.layers, torchvision.ops
print(type(law_of_module(timm.layers.DropPath())).__name__)
print(type(law_of_module(torchvision.ops.StochasticDepth(0.5, "row"))).__name__)
try:
    fxgrow.rule(timm.layers.Mish, Pointwise("zero"))
except fxgrow.FxgrowError as error:
    print(error)
"""
    public, drawn, growth, random_numbers, *rules = printed(code).splitlines()
    assert (public, drawn) == ("False torch", "False")  # matplotlib is imported when a plot is drawn
    assert growth == "PROVED set()"
    assert random_numbers == "True"
    assert rules[:3] == ["set() set()", "Pointwise", "Pointwise"]
    assert rules[3].startswith("Mish already has a rule")


def test_what_is_imported_late_is_what_type_checkers_see() -> None:
    tree = ast.parse((OWN / "__init__.py").read_text())
    typed = {
        alias.name: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    late = {name: f"fxgrow.{home}" for home, names in fxgrow._HOMES.items() for name in names}
    assert late == typed
    assert sorted(late) == sorted(fxgrow.__all__)
    assert set(fxgrow.__all__) <= set(dir(fxgrow))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fxgrow.nothing  # noqa: B018


def test_no_module_stands_in_the_place_of_a_public_name() -> None:
    beside = {path.stem for path in OWN.iterdir()} | {"transforms", "zoo"}
    assert not beside & set(fxgrow.__all__)


@pytest.mark.parametrize("every", [4, slow(1)])
def test_modules_can_be_imported_in_any_order(every: int) -> None:
    """Those with public names, and some that rules are written with, each first in a process."""
    homes = (*fxgrow._HOMES, "capture", "rules.law", "rules.pointwise", "rules.table")
    first = [f"fxgrow.{home}" for home in homes[::every]]
    code = f"""
import importlib, os, torch, timm, torchvision, rich.table, safetensors.torch
import fxgrow
for name in {first}:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    assert printed(code) == ""
