"""The comparison of ways to grow: each trains, its lines are kept, and what is there is not run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fxgrow.zoo.data import load
from fxgrow.zoo.packed import ImageSplit, write
from typer.testing import CliRunner

from benchmarks import growth
from benchmarks.ways import LONGER, NETWORKS, RESNET18, SCALES, WAYS, cut, settings_of
from tests.zoo.test_pack import jpeg


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like CIFAR-10's, of 64 images to train on and 40 to test with."""
    files = [torch.frombuffer(bytearray(jpeg(number, 32)), dtype=torch.uint8) for number in range(64)]
    part = ImageSplit.joined(files, [number % 10 for number in range(64)])
    path = tmp_path_factory.mktemp("data") / "cifar10.safetensors"
    write(path, part, part.some(range(40)), [str(number) for number in range(10)], flip=True)
    return path


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_way_has_settings_that_fit(network: str, scale: str) -> None:
    epochs = NETWORKS[network].settings(scale).epochs
    for way in WAYS[network]:
        settings = settings_of(network, way, scale, 3)
        schedule = settings.schedule()
        assert settings.seed == 3
        others = ("half the epochs", "twice", "operations")
        assert schedule.epochs == epochs or way in {**LONGER, **RESNET18} or any(words in way for words in others), way
        assert settings.lr_curve == (
            "cosine" if "cosine" in way or way in growth.PAPER or way == "small" else "plateau"
        )
        assert schedule[len(schedule) - 1].fraction == 1


def test_epochs_are_cut_in_proportion_and_never_to_none() -> None:
    assert cut(24, (8, 10, 12, 14, 17, 20, 24, 29, 26)) == (1, 2, 1, 3, 2, 3, 4, 4, 4)
    assert sum(cut(60, (0.7, 0.3))) == 60
    assert min(cut(2, (1.0, 1.0, 1.0, 1.0))) == 1


SLOW = pytest.mark.slow
TRIED = [
    *(("resnet20", way) for way in ("small", "half then whole, random padding")),
    *(pytest.param(network, way, marks=SLOW) for network in NETWORKS for way in WAYS[network]),
]


@pytest.mark.parametrize(("network", "way"), TRIED)
def test_a_way_trains_for_two_steps_a_stage(network: str, way: str, cifar: Path, tmp_path: Path) -> None:
    settings = settings_of(network, way, "cpu", 1, epochs=2)
    sizes = tuple(size * 32 // settings.batch_size for size in settings.batch_sizes)
    settings = replace(settings, samples=64, batch_size=32, batch_sizes=sizes)
    data = load(f"packed:{cifar}", samples=64, side=16)
    run = WAYS[network][way].kind(settings, tmp_path, data=data, evaluate_every=0)
    row = run.train()
    assert 0 <= row["test_accuracy"] <= 1
    line = growth.line_of(growth.Task(network, way, 1, "cpu", "cpu"), run, 1, "abc")
    assert 0 < line["flops"] <= 1
    assert json.loads(json.dumps(line))["method"] == way


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(growth.app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


def line(way: str, seed: int, **more: Any) -> dict[str, Any]:
    return {
        "benchmark": "cifar10, 16x16, 8,000 images", "network": "resnet20", "method": way, "seed": seed, "epochs": 24,
        "accuracy": 0.6 + seed / 100, "loss": 1.25, "flops": 0.5, "seconds": 100.0 * seed, "device": "cpu",
        "settings": {"seconds_of": "processor", "at_once": 1}, "commit": "abc", **more,
    }  # fmt: skip


def test_results_are_added_line_by_line_and_not_run_again(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "WANTED", (("resnet20", ("large, plateau", "half then whole, zero"), (1,)),))
    tiny = {
        name: replace(net, scaled=replace(net.scaled, samples=64, epochs=2, batch_size=32))
        for name, net in NETWORKS.items()
    }
    monkeypatch.setattr("benchmarks.ways.NETWORKS", tiny)
    monkeypatch.setattr(growth, "NETWORKS", tiny)
    results, work = tmp_path / "results", tmp_path / "work"
    arguments = ("run", "--scale", "cpu", "--device", "cpu", "--data", cifar, "--folder", results, "--work", work)
    assert "large, plateau, seed 1:" in invoke(*arguments, "--commit", "abc", "--most", 1)
    file = results / "resnet20-cpu.jsonl"
    first_line = file.read_text()
    assert first_line.count("\n") == 1
    assert set(json.loads(first_line)) == {
        "benchmark", "network", "method", "seed", "epochs", "accuracy", "loss", "flops", "seconds", "device",
        "settings", "commit",
    }  # fmt: skip
    assert json.loads(first_line)["flops"] == 1.0
    printed = invoke(*arguments)
    assert "half then whole, zero, seed 1:" in printed
    assert "large, plateau, seed 1:" not in printed
    assert file.read_text().startswith(first_line)
    again = json.loads(file.read_text().splitlines()[1])
    assert 0.5 < again["flops"] < 0.8
    assert again["commit"] not in ("", "unknown")
    assert invoke(*arguments) == ""
    assert invoke(*arguments, "--minutes", 0, "--epochs", 1) == ""


def test_the_table_has_means_and_shares(tmp_path: Path) -> None:
    lines = [line("half then whole, zero", seed) for seed in (1, 2, 3)] + [line("large, plateau", 2, flops=1.0)]
    lines += [
        line("large, plateau", 101, accuracy=0.1),
        line("large, cosine", 2, settings={"seconds_of": "clock", "at_once": 4}),
    ]
    (tmp_path / "resnet20-cpu.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    text = invoke("table", "resnet20", "--scale", "cpu", "--folder", tmp_path)
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for cells in (row.split("│")[1:-1] for row in text.splitlines() if row.startswith("│"))
    }
    assert rows["half then whole, zero"] == ["3", "62.00 ± 1.00", "1.250 ± 0.000", "50.0%", "200", "100.0%", "cpu", ""]
    assert rows["large, cosine"][-1] == "92.62 ± 0.15"  # the paper's
    assert rows["large, plateau"][:3] == ["1", "62.00", "1.250"]
    assert rows["large, cosine"][4:6] == ["", ""]
    assert "the machine was shared" in text
    assert "10.00" in invoke("table", "resnet20", "--scale", "cpu", "--choosing", "--folder", tmp_path)
    assert "no runs" in invoke("table", "vit", "--folder", tmp_path)
    picture = tmp_path / "picture.png"
    invoke("plot", "resnet20", picture, "--scale", "cpu", "--folder", tmp_path)
    assert picture.stat().st_size > 10_000
