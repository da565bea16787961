"""The coverage sweep: nothing is lost by an interruption, and a bad model is one failed row."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fxgrow.zoo.coverage import coverage
from fxgrow.zoo.examine import Row, Task, examine
from fxgrow.zoo.sizes import measured, parameters_of
from fxgrow.zoo.sweep import Findings, Limits, sweep
from rich.console import Console

from fxgrow.catalogue import Entry, entries
from fxgrow.cli import main
from fxgrow.documents import built
from fxgrow.errors import FileError
from tests.pairing import slow

SMALL = Task("timm/test_resnet", "resnet", "1.5", only_plan=True)
OTHER = Task("timm/test_vit", "vision_transformer", "1.5", only_plan=True)


def printed(rows: list[Row]) -> str:
    console = Console(width=200, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(coverage(rows))
    return capture.get()


def test_a_model_is_grown_compared_and_seen_learning() -> None:
    row = examine(Task("timm/test_resnet", "resnet", "2"))
    assert (row.status, row.tier) == ("grown", 1)
    assert row.eval_error is not None and row.eval_error <= 1e-10
    assert row.train_error is not None and row.train_error <= 1e-10
    assert row.ratio > 3.2
    assert row.share > 0.99
    assert built(Row, json.loads(json.dumps(asdict(row)))) == row


@pytest.mark.slow
def test_findings_are_kept_and_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "findings.jsonl"
    first = list(sweep([SMALL], Findings(path), Limits()))
    assert [row.status for row in first] == ["planned"]
    findings = Findings(path)
    second = list(sweep([SMALL, OTHER], findings, Limits()))
    assert [row.task for row in second] == [OTHER]
    assert [json.loads(line)["task"]["model"] for line in path.read_text().splitlines()] == [SMALL.model, OTHER.model]
    assert findings.rows[SMALL] == first[0]


def test_a_line_cut_off_by_an_interruption_is_examined_again(tmp_path: Path) -> None:
    path = tmp_path / "findings.jsonl"
    row = Row(SMALL, "planned")
    line = json.dumps(asdict(row)) + "\n"
    path.write_text(line + json.dumps(asdict(Row(OTHER, "planned")))[:40])
    assert Findings(path).rows == {SMALL: row}
    assert path.read_text() == line


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("shopping\nlist\n")
    with pytest.raises(FileError) as caught:
        Findings(path)
    text = f"line 1 is not a finding of the sweep (JSONDecodeError) (at {path}): name another file, or delete the line"
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("model", "status", "cause"),
    [
        ("tests.zoo.bad:crashes", "crashed", "killed by signal 11"),
        ("tests.zoo.bad:hangs", "timed out", "not done after 6 seconds"),
        slow("tests.zoo.bad:eats", "out of memory", ""),
        ("tests.zoo.bad:raises", "failed", "RuntimeError: no such day"),
    ],
)
def test_a_bad_model_is_one_failed_row(model: str, status: str, cause: str) -> None:
    bad = Task(model, "bad", "2")
    limits = Limits(seconds=6 if "hangs" in model else 120, memory=3 * 2**30)
    row, good = sweep([bad, SMALL], Findings(None), limits)
    assert (row.status, good.status) == (status, "planned")
    assert cause in row.cause
    assert f"{model} (width 2): {status}" in printed([row, good])


def test_depth_alone_counts_blocks() -> None:
    task = Task("timm/test_vit", "test_vit", "1", depth="1.5", only_plan=True)
    row = examine(task)
    assert (row.status, row.blocks, row.held) == ("planned", (6, 9), ())
    assert built(Row, json.loads(json.dumps(asdict(row)))) == row
    assert "6 → 9" in printed([row])
    idle = examine(Task("torchvision/squeezenet1_1", "squeezenet", "1", depth="1.5", only_plan=True))
    assert (idle.status, idle.blocks) == ("not grown", (0, 0))
    assert idle.cause == "its blocks stay as many as they are: Conv2d changes the shape of its input"


def test_an_interrupted_sweep_leaves_no_process_behind() -> None:
    running = sweep([Task("tests.zoo.bad:hangs", "bad", "2"), SMALL], Findings(None), Limits(), jobs=2)
    assert next(running).task == SMALL
    running.close()


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_behind() -> None:
    code = (
        "from fxgrow.zoo.examine import Task; from fxgrow.zoo.sweep import Findings, Limits, sweep\n"
        "if __name__ == '__main__': list(sweep([Task('tests.zoo.bad:hangs', 'bad', '2')], Findings(None), Limits()))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as sweeping:
        examining = _wait_for(
            lambda: _processes_below(sweeping.pid)[-1:] if len(_processes_below(sweeping.pid)) > 2 else []
        )
        sweeping.kill()
    _wait_for(lambda: not Path(f"/proc/{examining[0]}").exists())


def _processes_below(process: int) -> list[int]:
    """Process numbers of children, and of theirs."""
    processes = []
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        processes += [int(child), *_processes_below(int(child))]
    return processes


def _wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    until = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)
    return answer


def test_the_shipped_sizes_are_true() -> None:
    for entry in (*entries("timm", "test_*"), *entries("torchvision", "squeezenet*")):
        assert parameters_of(entry) == measured(entry)


@pytest.mark.parametrize(
    ("library", "name", "family"),
    [
        ("timm", "resnet18", "resnet"),
        ("timm", "skresnet18", "sknet"),
        ("torchvision", "resnet18", "tv.resnet"),
        ("torchvision", "quantized_resnet18", "tv.resnet"),
        ("torchvision", "fcn_resnet50", "tv.fcn"),
        ("torchvision", "r3d_18", "tv.resnet"),
    ],
)
def test_families(library: str, name: str, family: str) -> None:
    assert Entry(library, name, None).family == family


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.jsonl"
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            main(["zoo", "--filter", "test_resnet", "--width", "2", "--only-plan", "--json", str(path)])
        assert stopped.value.code == 0
        assert "1 of 1 models, 1 families; parameter ratio: median family 3.57" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) == 1


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["zoo", "--filter", "test_resnet", "--device", "nothing"])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("fxgrow: error: there is no device 'nothing' here: ")
    assert "leave --device out, or name another" in error
