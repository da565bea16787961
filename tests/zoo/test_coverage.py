"""What several sweeps covered together: one row a model, a table of all, a file of models."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from fxgrow.zoo.coverage import newest, write_models
from fxgrow.zoo.examine import Row, Task
from fxgrow.zoo.sweep import Findings

from fxgrow.cli import main

DOCS = Path(__file__).parents[2] / "docs" / "reference"

TWICE = Row(
    Task("timm/resnet18", "resnet", "2", side=64),
    "grown",
    tier=1,
    parameters=100,
    grown_parameters=390,
    share=1.0,
    eval_error=2e-16,
    train_error=3e-15,
    plan_seconds=0.5,
    grow_seconds=1.0,
    verdict="PROVED",
)
WIDER = replace(TWICE, task=Task("timm/vit_tiny", "vision_transformer", "1.5"), grown_parameters=225)
FAILED = Row(Task("timm/resnet18", "resnet", "1.5"), "out of memory", cause="killed by signal 9")


def test_one_row_a_model_and_a_good_one_if_there_is_one() -> None:
    again = replace(TWICE, plan_seconds=0.7)
    assert newest([FAILED, TWICE, WIDER]) == newest([TWICE, FAILED, WIDER]) == [TWICE, WIDER]
    assert newest([TWICE, again]) == [again]
    assert newest([FAILED, replace(FAILED, cause="exit code 1")])[0].cause == "exit code 1"


def test_a_file_of_models(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    write_models([WIDER, FAILED], path)
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["model"], first["status"], first["cause"]) == ("timm/resnet18", "out of memory", "killed by signal 9")
    assert (second["model"], second["width"], second["verdict"]) == ("timm/vit_tiny", "1.5", "PROVED")
    assert (second["grown_parameters"], second["train_error"]) == ("225", "3e-15")


def test_several_sweeps_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for path, rows in zip(paths, ([FAILED, WIDER], [TWICE]), strict=True):
        for row in rows:
            Findings(path).keep(row)
    models = tmp_path / "models.csv"
    with pytest.raises(SystemExit) as stopped:
        main(["coverage", *map(str, paths), "--models", str(models)])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "2 of 2 models, 2 families" in printed
    assert (
        "at width 1.5: median family 2.25, worst model 2.25; parameter ratio at width 2: median family 3.90" in printed
    )
    assert len(models.read_text().splitlines()) == 3
    with pytest.raises(SystemExit) as stopped:
        main(["coverage", str(paths[0])])
    assert stopped.value.code == 1
    assert "timm/resnet18 (width 1.5): out of memory: killed by signal 9" in capsys.readouterr().out


@pytest.mark.parametrize("findings", ["coverage.jsonl", "coverage-gpu.jsonl"])
def test_the_findings_in_the_docs_make_the_table_there(findings: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["coverage", str(DOCS / findings)])
    assert stopped.value.code == 0
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert printed in (DOCS / "coverage.md").read_text()
