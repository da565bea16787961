"""Growth from files to files: what `grow` and `save` write, bit for bit, in less memory than the model takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fxgrow
from fxgrow.cli import main
from fxgrow.errors import AmountError, FileError, PlanError
from fxgrow.files.saving import header_of
from tests.growth.test_parts import Settling
from tests.models import PLAIN, Decoder, lively, perceptron
from tests.pairing import in_turn, slow

ROW = torch.randn(2, 5)
ROOT = Path(__file__).parent.parent


def shards(model: nn.Module, folder: Path, size: int = 4000) -> Path:
    """The state of a model as Hugging Face writes it."""
    folder.mkdir()
    save_torch_state_dict(dict(model.state_dict()), folder, max_shard_size=size)
    return folder


def on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """Read as those do who know nothing of fxgrow."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = {name: load_file(folder / name) for name in set(index["weight_map"].values())}
    assert index["metadata"]["total_size"] == sum(t.nbytes for file in files.values() for t in file.values())
    assert {path.name for path in folder.iterdir()} == {*files, "model.safetensors.index.json"}
    return {name: files[file][name] for name, file in index["weight_map"].items()}


def assert_as_saved(folder: Path, grown: nn.Module, **of_save: Any) -> None:
    """What is in a folder is what `save` writes of a grown model."""
    file = folder.parent / "saved.safetensors"
    fxgrow.save(grown, file, **of_save)
    streamed, expected = tensors_in(folder), load_file(file)
    assert streamed.keys() == expected.keys()
    assert all(
        streamed[name].dtype == expected[name].dtype and torch.equal(streamed[name], expected[name])
        for name in expected
    )
    assert header_of(folder) == header_of(file)


LONG = ("encoder", "encoder-prenorm", "masked", "tagger", "detector")


@pytest.mark.parametrize(
    ("name", "form"), in_turn(PLAIN, ("auto", "graph"), [name for name in PLAIN if name not in LONG])
)
def test_shards_hold_what_grow_and_save_give(name: str, form: str, tmp_path: Path) -> None:
    make, inputs = PLAIN[name]
    model = lively(make()).eval()
    options: dict[str, Any] = {"example_inputs": inputs, "init": "mirror", "form": form, "seed": 3}
    bare = on_meta(make).eval()
    if any(b.is_meta for n, b in bare.named_buffers() if n not in bare.state_dict()):
        bare = lively(make(), seed=9).eval()
    source, target = shards(model, tmp_path / "source"), tmp_path / "target"
    meta = fxgrow.grow_files(source, target, bare, 1.5, shard_size=3000, **options)
    grown = fxgrow.grow(model, 1.5, verify=False, **options)
    assert_as_saved(target, grown)
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert fxgrow.report(meta) == fxgrow.report(grown)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        slow("test_vit", {"depth": 1.5}),
        ("test_resnet", {"width": 1.5, "depth": 1.5, "classes": "+3"}),
        slow("test_convnext", {"width": 2, "parameterization": "variance-transfer", "in_chans": "+1"}),
        ("test_efficientnet", {"width": {"blocks*": 1.5}, "init": "replicate", "parameterization": "mup"}),
    ],
)
def test_every_way_of_growing(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = lively(timm.create_model(name)).to(torch.bfloat16)
    bare = on_meta(lambda: timm.create_model(name))  # in float32: the precision is the checkpoint's
    fxgrow.grow_files(shards(model, tmp_path / "source", 10**5), tmp_path / "target", bare, **options)
    assert_as_saved(tmp_path / "target", fxgrow.grow(model, verify=False, **options))


def test_backbones_whose_outputs_are_read_out(tmp_path: Path) -> None:
    model = lively(timm.create_model("test_vit", num_classes=0, depth=2))
    fxgrow.grow_files(shards(model, tmp_path / "source"), tmp_path / "target", model, 1.5)
    grown = fxgrow.grow(model, 1.5, verify=False)
    assert fxgrow.report(grown).plan.readouts
    assert_as_saved(tmp_path / "target", grown)


def test_a_model_that_grows_in_parts_is_refused(tmp_path: Path) -> None:
    """Without values `Settling` stops before its body, which then would not grow."""
    source = shards(lively(Settling()), tmp_path / "source")
    with pytest.raises(PlanError, match="which of them it runs is seen where it has values"):
        fxgrow.grow_files(source, tmp_path / "target", Settling(), 1.5, example_inputs=torch.randn(5, 3))
    assert not (tmp_path / "target").exists()


def test_tied_weights_stay_tied_whichever_name_a_file_has_them_under(tmp_path: Path) -> None:
    model, inputs = lively(Decoder()), torch.zeros(1, 12, dtype=torch.long)
    state = dict(model.state_dict())
    for dropped in ("head.weight", "embed.weight"):
        file = tmp_path / f"without-{dropped}.safetensors"
        save_file({name: tensor.clone() for name, tensor in state.items() if name != dropped}, file)
        fxgrow.grow_files(file, tmp_path / dropped, model, 2, example_inputs=inputs)
        assert_as_saved(tmp_path / dropped, fxgrow.grow(model, 2, example_inputs=inputs, verify=False))
        loaded = fxgrow.load(tmp_path / dropped, Decoder())
        assert loaded.get_submodule("head").weight is loaded.get_submodule("embed").weight


def test_what_fxgrow_wrote_grows_on(tmp_path: Path) -> None:
    model = lively(timm.create_model("test_resnet", num_classes=7))
    of_save: dict[str, Any] = {"base": "timm/test_resnet", "base_kwargs": {"num_classes": 7}}
    once = fxgrow.grow(model, 1.5, verify=False).eval()
    once.get_parameter("fc.bias").requires_grad_(False)
    fxgrow.save(once, tmp_path / "once.safetensors", **of_save)
    fxgrow.grow_files(tmp_path / "once.safetensors", tmp_path / "twice", depth=1.5, shard_size=10**5)
    twice = fxgrow.grow(once, depth=1.5, verify=False)
    assert_as_saved(tmp_path / "twice", twice, **of_save)
    fxgrow.grow_files(tmp_path / "twice", tmp_path / "thrice", width=4 / 3)
    loaded = fxgrow.load(tmp_path / "thrice")
    assert {stage for birth in fxgrow.births(loaded).values() for stage in birth.counts()} == {0, 1, 2, 3}
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before, after = once(images), loaded(images)
    assert (after - before).abs().max() <= 1e-10 * before.abs().max()


def test_the_command_line_grows_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lively(timm.create_model("test_resnet"))
    source, target = shards(model, tmp_path / "source", 10**6), tmp_path / "target"
    (tmp_path / "new").touch()
    options = ["grow", "timm/test_resnet", "--width", "1.5", "--seed", "4", "--stream", str(source)]
    with pytest.raises(SystemExit) as ended:
        main([*options, "-o", str(target)])
    assert ended.value.code in (0, None)
    told = capsys.readouterr()
    assert "not verified" in told.out
    assert "are random" not in told.err
    assert_as_saved(target, fxgrow.grow(model, 1.5, seed=4, verify=False), base="timm/test_resnet")
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {(tmp_path / "new").stat().st_mode & 0o777}
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(target)])
    assert "from timm/test_resnet" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert "--stream writes shards, and there is no folder for them" in capsys.readouterr().err


# -- memory -------------------------------------------------------------------------------------------------

CAPPED = """
import os, resource, sys, torch
from torch import nn
import fxgrow
torch.set_num_threads(1)
WIDTH, LAYERS = 512, 96
class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x
def allocated():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
with torch.device("meta"):
    model = Plain()
x = torch.empty(1, WIDTH, device="meta")
fxgrow.grow(model, {"layers.0": "+1"}, example_inputs=x)  # what is imported late has been
size = sum(parameter.nbytes for parameter in model.parameters())
cap = allocated() + int(sys.argv[3]) * size // 100
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
if os.fork() == 0:
    try:
        Plain()
    except (MemoryError, RuntimeError):
        print("out of memory", flush=True)
    os._exit(0)
os.wait()
given = {"example_inputs": x, "shard_size": 4 * 2**20}
grown = fxgrow.grow_files(sys.argv[1], sys.argv[2], model, {"layers.*": "+64"}, **given)
print(size, sum(p.nbytes for p in grown.parameters()))
"""


def test_a_model_grows_in_less_memory_than_it_takes(tmp_path: Path) -> None:
    """A cap on what the process may allocate, beyond what it had: 60% of the model, too little for its tensors."""
    width, layers = 512, 96
    state = {}
    for number in range(layers):
        state[f"layers.{number}.weight"] = torch.full((width, width), float(number))
        state[f"layers.{number}.bias"] = torch.full((width,), -float(number))
    (tmp_path / "source").mkdir()
    save_torch_state_dict(state, tmp_path / "source", max_shard_size=4 * 2**20)
    del state

    command = [sys.executable, "-c", CAPPED, str(tmp_path / "source"), str(tmp_path / "target"), "60"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, sizes = done.stdout.splitlines()
    assert refused == "out of memory"
    size, grown = map(int, sizes.split())
    assert grown > 1.2 * size
    index = json.loads((tmp_path / "target" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == grown
    last = load_file(tmp_path / "target" / index["weight_map"]["layers.95.weight"])["layers.95.weight"]
    assert torch.equal(last[:, :width], torch.full((width, width), 95.0))
    assert len(list((tmp_path / "target").glob("*.safetensors"))) > 8


# -- what stops in the middle, or never starts --------------------------------------------------------------


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    source = shards(lively(perceptron()), tmp_path / "source", 200)
    last = sorted(source.glob("*.safetensors"))[-1]
    content = last.read_bytes()
    fxgrow.grow_files(source, tmp_path / "once", perceptron(), 2, example_inputs=ROW, shard_size=1)
    last.write_bytes(content[:-8])
    with pytest.raises(FileError, match="not readable"):
        fxgrow.grow_files(source, tmp_path / "target", perceptron(), 2, example_inputs=ROW, shard_size=1)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "once"}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"target": "source"}, "there is something of that name"),
        ({"target": "missing/target"}, "the folder does not exist"),
        ({"source": "nothing"}, "there is no such file"),
        ({"source": "."}, "the folder holds 0 files that could be meant"),
        ({"model": None}, "the checkpoint does not say what it is of"),
        ({"model": nn.Linear(5, 8)}, "do not have the same tensors"),
        ({"model": nn.Sequential(nn.Linear(5, 9), nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 3))}, "tensors"),
    ],
)
def test_what_cannot_be_grown_is_refused_before_the_work(wrong: dict[str, Any], text: str, tmp_path: Path) -> None:
    shards(lively(perceptron()), tmp_path / "source")
    arguments = {"source": "source", "target": "target", "model": perceptron(), **wrong}
    with pytest.raises(FileError, match=text):
        fxgrow.grow_files(
            tmp_path / arguments["source"], tmp_path / arguments["target"], arguments["model"], 2, example_inputs=ROW
        )
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize(
    "options", [{"verify": "full"}, {"calibrate": ROW}, {"loss": len}, {"shard_size": 0}, {"shard_size": "5GB"}]
)
def test_options_that_need_the_whole_model(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AmountError):
        fxgrow.grow_files(tmp_path, tmp_path / "target", perceptron(), 2, **options)


class Table(nn.Module):
    """A buffer that checkpoints leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("shift", torch.linspace(0, 1, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.enter(x)) + self.shift)


class Held(Table):
    """A tensor that no module has registered."""

    def __init__(self) -> None:
        super().__init__()
        del self.shift
        self.shift = torch.linspace(0, 1, 8, dtype=torch.float64)


def test_plain_tensors_come_from_the_model_and_from_then_on_from_the_file(tmp_path: Path) -> None:
    model = lively(Held())
    source = shards(model, tmp_path / "source")
    fxgrow.grow_files(source, tmp_path / "target", model, 2, example_inputs=ROW)
    grown = fxgrow.grow(model, 2, example_inputs=ROW, verify=False)
    assert_as_saved(tmp_path / "target", grown)
    assert "shift" in tensors_in(tmp_path / "target")
    fxgrow.grow_files(tmp_path / "target", tmp_path / "further", Held().double(), 2, example_inputs=ROW)
    loaded = fxgrow.load(tmp_path / "further", Held().double())
    assert torch.allclose(loaded(ROW.double()), model(ROW.double()))


def test_buffers_that_checkpoints_leave_out_come_from_the_model(tmp_path: Path) -> None:
    model = lively(Table())
    source = shards(model, tmp_path / "source")
    with pytest.raises(FileError, match="in the model it has no values"):
        fxgrow.grow_files(source, tmp_path / "target", on_meta(Table), 2, example_inputs=ROW)
    fxgrow.grow_files(source, tmp_path / "target", model, 2, example_inputs=ROW)
    assert_as_saved(tmp_path / "target", fxgrow.grow(model, 2, example_inputs=ROW, verify=False))
