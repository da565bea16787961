"""The command line, called in-process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fxgrow
from fxgrow.cli import main

OWN = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's own model, in a module of the folder the command runs in."""
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_models", None)
    return "own_models:make"


class Ran:
    """A command's exit status and what it printed."""

    def __init__(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        self.status = stop.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def complaint(self) -> str:
        assert self.status == 1, self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("fxgrow: error: ")]
        assert len(lines) == 1
        return lines[0].removeprefix("fxgrow: error: ")


def test_grow_shows_what_changed_and_writes_a_file(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["grow", own, "--width", "2", "--input", "1,5", "-o", "grown.safetensors"], capsys)
    assert ran.status == 0
    assert "75" in ran.out and "147" in ran.out and "x1.96" in ran.out
    assert "TESTED: relative error 0.0e+00 in eval, 0.0e+00 in train" in " ".join(ran.out.split())
    from own_models import make  # type: ignore[import-not-found]

    assert fxgrow.load("grown.safetensors", make()).get_submodule("0").out_features == 16


def test_grow_as_json(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["grow", own, "-w", "0=+2", "--input", "1,5", "--init", "mirror", "--json"], capsys)
    found = json.loads(ran.out)
    assert found["totals"]["parameters_after"] == 5 * 10 + 10 + 10 * 3 + 3
    assert found["verification"]["verdict"] == "TESTED"
    assert found["file"] == ""


def test_parameterizations_are_planned_and_grown(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = [own, "-w", "2", "--input", "1,5", "--parameterization", "variance-transfer"]
    ran = Ran(["plan", *common, "--json"], capsys)
    assert [(r["name"], r["kind"], r["factor"]) for r in json.loads(ran.out)["rescalings"]] == [
        ("2.weight", "output", 0.5)
    ]
    ran = Ran(["grow", *common, "--json"], capsys)
    assert json.loads(ran.out)["verification"]["verdict"] == "TESTED"
    common[-1] = "mu"
    assert Ran(["grow", *common], capsys).complaint == (
        "parameterization='mu' is not a parameterization: use one of standard, mup, variance-transfer, rms"
    )


def test_the_seed_decides_the_bytes(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for name, seed in (("one", "7"), ("two", "7"), ("three", "8")):
        Ran(["grow", own, "--width", "2", "--input", "1,5", "--seed", seed, "-o", name], capsys)
        files.append(Path(name).read_bytes())
    assert files[0] == files[1] != files[2]


def test_verbose_says_how_long_each_step_took(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["grow", own, "-w", "2", "--input", "1,5", "--json", "--verbose"], capsys)
    steps = [line.rpartition(":")[0] for line in ran.err.splitlines() if line.endswith(" s")]
    within = ["capturing", "planning", "growing", "proving", "testing"]
    assert steps == [f"building {own}", *within, "growing and verifying"]
    assert json.loads(ran.out)["model"] == own
    assert "capturing:" not in Ran(["grow", own, "-w", "2", "--input", "1,5"], capsys).err


def test_a_test_in_full_is_asked_for(own: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("fxgrow.measure.quick.ENOUGH", 0.0)
    for more, quick in ([], "1 sample in eval, which is as train"), (["--full"], ""):
        ran = Ran(["grow", own, "-w", "2", "--input", "1,5", "--json", *more], capsys)
        assert json.loads(ran.out)["verification"]["quick"] == quick


def test_without_verification(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not verified" in Ran(["grow", own, "--width", "2", "--input", "1,5", "--no-verify"], capsys).out


def test_plan_prints_tables(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["plan", own, "--width", "2", "--input", "1,5"], capsys)
    assert ran.status == 0
    assert "8 → 16" in ran.out and "zero-out" in ran.out and "parameters 75 → 147 (x1.96)" in ran.out


def test_plan_as_json_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["plan", "timm/test_resnet", "--width", "1.5", "--json"], capsys)
    assert fxgrow.Plan.from_json(ran.out).model == "ResNet"


def test_inspect_a_file(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    Ran(["grow", own, "--width", "2", "--input", "1,5", "-o", "grown"], capsys)
    ran = Ran(["inspect", "grown"], capsys)
    text = " ".join(ran.out.split())
    assert "Sequential, from own_models:make" in text
    assert "75 → 147" in text and "born at stage 0: 75, 1: 72" in text
    assert json.loads(Ran(["inspect", "grown", "--json"], capsys).out)["steps"][0]["seed"] == 0


def test_report_prints_paragraphs_and_writes_a_page(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    Ran(["grow", own, "--width", "2", "--input", "1,5", "-o", "grown"], capsys)
    assert Ran(["report", "grown"], capsys).out.startswith("Growth 1: Sequential, 75 → 147 parameters (x1.96)")
    ran = Ran(["report", "grown", own, "-o", "page.html"], capsys)
    assert (ran.status, ran.out) == (0, "written to page.html\n")
    text = Path("page.html").read_text()
    assert text.startswith("<!DOCTYPE html>") and "Certificate beside the original" in text
    assert Ran(["report", "grown", "-o", "none/page.html"], capsys).complaint == (
        "the folder does not exist (at none): make it first"
    )


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(["--version"], capsys).out == f"fxgrow {fxgrow.__version__}\n"
    bare = Ran([], capsys)
    assert bare.status == 0
    assert all(command in bare.out for command in ("grow", "plan", "inspect", "report"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["plan", "timm/resnet81", "-w", "2"], "there is no model 'timm/resnet81': did you mean "),
        (["plan", "resnet18", "-w", "2"], "'resnet18' is not the name of a model: write timm/NAME, torchvision/NAME"),
        (["plan", "OWN", "-w", "2"], "the shape of the inputs of Sequential cannot be derived: pass --input"),
        (["plan", "OWN", "-w", "2", "--input", "a"], "an input shape is not a list of whole numbers (at a): write"),
        (["plan", "OWN", "-w", "wide", "--input", "1,5"], "'wide' is not an amount to grow by: pass a factor"),
        (["plan", "OWN", "-w", "0=2", "-w", "0=3"], "two amounts for one part (at 0): pass one PATH=AMOUNT"),
        (["plan", "OWN", "-w", "2", "-w", "0=3"], "one amount for the whole model is mixed with others (at 2 0=3)"),
        (["grow", "OWN", "-w", "2", "--init", "x"], "init='x' is not a way to start new units: use one of zero"),
        (["grow", "OWN", "-w", "2", "--pretrained"], "'own_models:make' is not a model of a library"),
        (["grow", "OWN", "-w", "2", "-o", "no/x"], "the folder does not exist (at no): make it first"),
        (["grow", "own_models:number", "-w", "2"], "'own_models:number' gives a int"),
        (["grow", "own_models:none", "-w", "2"], "'own_models:none' cannot be imported: module 'own_models' has no"),
        (["inspect", "nothing"], "there is no such file (at nothing): check the path"),
        (["grow", "OWN"], "no amount to grow by was given: pass width=1.5, depth=1.5, or a mapping of module paths"),
        (["grow", "OWN", "--wide", "2"], "No such option: --wide"),
        (["shrink"], "No such command 'shrink'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_clear_line(
    arguments: list[str], complaint: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran([own if argument == "OWN" else argument for argument in arguments], capsys)
    assert ran.complaint.startswith(complaint)
    assert not Path("no").exists()


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "fxgrow", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("fxgrow ")


def test_the_machine_is_told_for_reports(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["env"], capsys)
    assert ran.status == 0
    assert f"fxgrow {fxgrow.__version__}" in ran.out
    assert f"torch {torch.__version__.partition('+')[0]}" in ran.out


def test_random_weights_are_said_to_be_random(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["grow", "timm/test_resnet", "--width", "1.5", "--no-verify"]
    assert "the weights of timm/test_resnet are random; --pretrained" in " ".join(Ran(command, capsys).err.split())


def test_input_channels_are_added(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["grow", own, "--in-chans", "+2", "--input", "1,5", "-o", "grown.safetensors"], capsys)
    assert ran.status == 0, ran.err
    assert "grown by in_chans +2" in ran.out
    from own_models import make

    assert fxgrow.load(Path("grown.safetensors"), make())(torch.ones(2, 7)).shape == (2, 3)


@pytest.mark.parametrize(("written", "classes"), [("+2", 5), ("4", 4)])
def test_classes_are_added(own: str, written: str, classes: int, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["grow", own, "--classes", written, "--input", "1,5", "-o", "grown.safetensors"], capsys)
    assert ran.status == 0, ran.err
    assert f"grown by classes {written}" in ran.out
    from own_models import make

    assert fxgrow.load(Path("grown.safetensors"), make())(torch.ones(2, 5)).shape == (2, classes)
