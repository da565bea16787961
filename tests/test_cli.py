"""The command line, called in-process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from fxgrow.zoo.recipes import RECIPES
from fxgrow.zoo.train import RECIPE_NAMES

import fxgrow
from fxgrow import cli
from fxgrow.cli import main, options
from fxgrow.planning.depth import STARTS
from fxgrow.planning.parameterization import PARAMETERIZATIONS
from fxgrow.planning.plan import CLASS_STARTS, FORMS
from fxgrow.rules.knowledge import Way
from tests.commands import run_script
from tests.pairing import few, slow

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


ESCAPE = r"\x1b\[[0-9;]*m"
"""What makes a terminal show bold letters, or colours."""


class Ran:
    """A command's exit status and what it printed."""

    def __init__(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        self.status = stop.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def complaint(self) -> str:
        assert self.status in (1, 2), self.out + self.err
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
    document = json.loads(ran.out)
    assert document["totals"]["parameters_after"] == 5 * 10 + 10 + 10 * 3 + 3
    assert document["verification"]["verdict"] == "TESTED"
    assert document["file"] == ""


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
        "Invalid value for '--parameterization': 'mu' is not one of standard, mup, variance-transfer, rms: "
        "did you mean mup?"
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
    drawn = Ran(["plot"], capsys)
    assert (drawn.status, drawn.err) == (0, "")
    assert all(command in drawn.out for command in ("births", "plan", "scale", "schedule"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["plan", "timm/resnet81", "-w", "2"], "there is no model 'timm/resnet81': did you mean "),
        (["plan", "resnet18", "-w", "2"], "'resnet18' is not the name of a model: did you mean timm/resnet18 or torch"),
        (["plan", "timm/vit_tiny", "-w", "2"], "there is no model 'timm/vit_tiny': did you mean timm/vit_tiny_patch16"),
        (["plan", "OWN", "-w", "2"], "the shape of the inputs of Sequential cannot be derived: pass --input"),
        (["grow", "OWN", "-w", "2", "--pretrained"], "'own_models:make' is not a model of a library"),
        (["grow", "OWN", "-w", "2", "-o", "no/x"], "the folder does not exist (at no): make it first"),
        (["grow", "OWN", "-w", "2", "-o", "/dev/null"], "it is a device or a pipe (at /dev/null): name a file"),
        (["grow", "OWN", "-w", "2", "-o", "own_models.py/"], "there is a file of that name (at own_models.py): name"),
        (["grow", "own_models:number", "-w", "2"], "'own_models:number' gives a int"),
        (["grow", "own_models:none", "-w", "2"], "'own_models:none' cannot be imported: module 'own_models' has no"),
        (["grow", "gone.safetensors", "-w", "2"], "there is no such file (at gone.safetensors): check the path"),
        (["grow", ".", "-w", "2"], "the folder has no model.safetensors (at .): name what `fxgrow grow -o` wrote"),
        (["grow", "own_models.py", "-w", "2"], "the file is not readable as safetensors: "),
        (["inspect", "nothing"], "there is no such file (at nothing): check the path"),
        (["fold", "nothing", "-o", "x"], "there is no such file (at nothing): check the path"),
        (["plot", "schedule", "nothing", "-o", "x.png"], "the schedule cannot be read: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_clear_line(
    arguments: list[str], complaint: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran([own if argument == "OWN" else argument for argument in arguments], capsys)
    assert ran.complaint.startswith(complaint)
    assert ran.status == 1
    assert not Path("no").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["plan", "OWN", "-w", "2", "--input", "a"], "an input shape is not a list of whole numbers (at a): write"),
        (["plan", "OWN", "-w", "wide", "--input", "1,5"], "'wide' is not an amount to grow by: pass a factor"),
        (["plan", "OWN", "-w", "laier=2", "--input", "1,5"], "the key matches no module of the model (at laier): "),
        (["plan", "OWN", "-w", "0=2", "-w", "0=3"], "two amounts for one part (at 0): pass one PATH=AMOUNT"),
        (["plan", "OWN", "-w", "2", "-w", "0=3"], "one amount for the whole model is mixed with others (at 2 0=3)"),
        (["plan", "OWN", "-w", "2", "--like", "OWN"], "--like gives every size: leave --width and --depth out"),
        (["grow", "OWN", "-w", "2", "--original", "OWN"], "--original goes with a file (at own_models:make): leave it"),
        (["grow", "OWN", "-w", "2", "--init", "miror"], "Invalid value for '--init': 'miror' is not one of zero, mirr"),
        (["grow", "OWN"], "no amount to grow by was given: pass --width 1.5, --depth 1.5, PATH=AMOUNT for a part, "),
        (["grow", "OWN", "--wide", "2"], "No such option: --wide"),
        (["shrink"], "No such command 'shrink'."),
        (["grow"], "Missing argument"),
        (["plot", "plan", "x", "-o", "x.png"], "a plan is drawn as SVG (at x.png): end the name with .svg"),
        (["plot", "births", "x", "y", "-o", "x"], "the name has no ending (at x): end the name with one of ."),
        (["plot", "births", "x", "y", "-o", "x.txt"], ".txt is not a kind of picture (at x.txt): end the name with on"),
        (["zoo", "--library", "tim"], "Invalid value for '--library': 'tim' is not one of timm, torchvision: did you "),
        (["train", "run", "--set", "lr=abc"], "lr='abc' is not a number: pass one, such as 0.1"),
        (["train", "run", "--set", "epochs=2.5"], "epochs=2.5 is not a whole number: pass one, such as 160"),
        (["train", "run", "--set", "widths=[1,true]"], "widths=(1, True) is not a list, each entry a number: pass one"),
        (["train", "run", "--set", "verify=1"], "verify=1 is not true or false: pass one, such as True"),
        (["train", "run", "--set", "options=3"], "options=3 is not an object: pass one"),
        (["train", "run", "--set", "model=3"], "model=3 is not a string: pass one, such as 'fxgrow.zoo.networks:resne"),
        (["train", "run", "--set", "threads=two"], "threads='two' is not a whole number or null: pass one, such as 1"),
        (["train", "run", "--set", "epoch=2"], "there is no setting 'epoch': did you mean epochs, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_means_nothing_exits_with_2(
    arguments: list[str], complaint: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran([own if argument == "OWN" else argument for argument in arguments], capsys)
    assert ran.complaint.startswith(complaint)
    assert ran.status == 2
    assert not Path("run").exists()


def test_the_reference_has_every_command_and_every_option() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference" / "command-line.md").read_text()
    sections = {part.split("\n")[0].removeprefix("fxgrow "): part for part in page.split("\n## ")}
    app: Any = typer.main.get_command(cli.app)
    drawn = app.commands["plot"].commands
    for name, command in {**app.commands, **{f"plot {kind}": subcommand for kind, subcommand in drawn.items()}}.items():
        assert f"fxgrow {name}" in page
        section = sections.get(name.partition(" ")[0], page)
        for option in command.params:
            for flag in (flag for flag in option.opts if flag.startswith("--") and flag != "--help"):
                assert flag in section, (name, flag)


# -- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def grown(own: str, capsys: pytest.CaptureFixture[str]) -> str:
    """A file of a model that has grown once."""
    assert Ran(["grow", own, "-w", "2", "--input", "1,5", "-o", "grown.safetensors"], capsys).status == 0
    return "grown.safetensors"


def test_a_file_grows_on(own: str, grown: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = Ran(["grow", grown, "-w", "1.5"], capsys)
    assert refused.complaint.startswith(f"the file names {own!r} as its original, which no file makes fxgrow import")
    assert refused.complaint.endswith(f"pass --original {own}")
    ran = Ran(["grow", grown, "-w", "1.5", "--original", own, "-o", "twice.safetensors", "--json"], capsys)
    assert json.loads(ran.out)["totals"]["parameters_after"] == 5 * 24 + 24 + 24 * 3 + 3
    from own_models import make

    twice = fxgrow.load("twice.safetensors", make())
    assert str(fxgrow.certify(twice, make()).verdict) == "PROVED"
    x = torch.randn(4, 5)
    torch.testing.assert_close(twice(x), make()(x))
    assert len(json.loads(Ran(["inspect", "twice.safetensors", "--json"], capsys).out)["steps"]) == 2
    assert Ran(["plan", "twice.safetensors", "-w", "2", "--original", own], capsys).status == 0


def test_a_file_of_a_library_s_model_says_itself_what_it_grew_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = ["grow", "timm/test_resnet", "-w", "layer4=2", "--no-verify"]
    assert Ran([*first, "-o", "a.safetensors"], capsys).status == 0
    ran = Ran(["grow", "a.safetensors", "-w", "layer3=2", "--no-verify", "-o", "a.safetensors"], capsys)
    assert ran.status == 0
    assert "random" not in ran.err  # they are the file's
    header = json.loads(Ran(["inspect", "a.safetensors", "--json"], capsys).out)
    assert header["base"] == "timm/test_resnet" and len(header["steps"]) == 2
    assert Ran(["grow", "a.safetensors", "-w", "2", "--pretrained"], capsys).complaint == (
        "the weights come from the file (at a.safetensors): leave --pretrained out"
    )


def test_how_a_model_grew_is_how_it_grows_on(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--input", "1,5", "--parameterization", "mup"]
    Ran(["grow", own, "-w", "2", *common, "-o", "mup.safetensors"], capsys)
    planned = json.loads(Ran(["plan", "mup.safetensors", "-w", "2", "--original", own, "--json"], capsys).out)
    assert planned["parameterization"] == "mup"


def test_multipliers_are_folded(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    rescaled = ["--parameterization", "variance-transfer", "--input", "1,5"]
    Ran(["grow", own, "-w", "2", *rescaled, "-o", "rescaled.safetensors"], capsys)
    ran = Ran(["fold", "rescaled.safetensors", "--original", own, "-o", "folded.safetensors"], capsys)
    assert (ran.status, ran.out) == (0, "written to folded.safetensors\n")
    from own_models import make

    folded, x = fxgrow.load("folded.safetensors", make()), torch.randn(4, 5)
    assert "multiplied" in str(fxgrow.load("rescaled.safetensors", make())) and "multiplied" not in str(folded)
    torch.testing.assert_close(folded(x), make()(x))


@pytest.mark.parametrize("kind", few(("png", "svg", "pdf"), "svg"))
def test_births_are_drawn(kind: str, grown: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(["plot", "births", grown, "2.weight", "-o", f"births.{kind}"], capsys)
    assert (ran.status, ran.out) == (0, f"written to births.{kind}\n")
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert Path(f"births.{kind}").read_bytes().startswith(begins)
    assert Ran(["plot", "births", grown, "2.wieght", "-o", "x.png"], capsys).complaint == (
        "there is no parameter '2.wieght': did you mean 2.weight, 0.weight?"
    )


def test_plans_scales_and_schedules_are_drawn(own: str, grown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(["plot", "plan", grown, "-o", "plan.svg"], capsys).status == 0
    assert Path("plan.svg").read_text().startswith("<svg") and "Sequential" in Path("plan.svg").read_text()
    assert Ran(["plot", "plan", grown, "-o", "plan.svg", "--growth", "2"], capsys).complaint == (
        "there is no growth 2 (at grown.safetensors): use one of 1 to 1"
    )
    assert Ran(["plot", "scale", grown, own, "-o", "scale.png"], capsys).status == 0
    Path("schedule.json").write_text(fxgrow.Schedule.linear(epochs=8).to_json())
    assert Ran(["plot", "schedule", "schedule.json", "-o", "schedule.png"], capsys).status == 0
    assert all(Path(f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("scale", "schedule"))


def test_a_refutation_beside_other_random_weights_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Ran(["grow", "timm/test_resnet", "-w", "layer4=2", "-o", "a.safetensors"], capsys)
    ran = Ran(["certify", "a.safetensors", "timm/test_resnet"], capsys)
    assert ran.status == 1 and ran.out.startswith("REFUTED")
    hint = "was built anew, with other random weights than the model grew from: pass --pretrained"
    assert hint in ran.err
    assert hint in Ran(["report", "a.safetensors", "timm/test_resnet"], capsys).err
    drawn = Ran(["plot", "scale", "a.safetensors", "timm/test_resnet", "-o", "x.png"], capsys)
    assert hint in drawn.err and drawn.complaint.startswith("nothing is known of the scale of new units")
    assert Ran(["certify", "a.safetensors"], capsys).status == 0


# -- terminals ---------------------------------------------------------------------------------------------


def test_help_shows_what_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    def words(*command: str) -> str:
        return re.sub(r"[\s│]+", " ", Ran([*command, "--help"], capsys).out)

    grow, train = words("grow"), words("train")
    assert "zero, mirror or replicate" in grow and "copy, random or stack" in grow
    assert "standard, mup, variance-transfer or rms" in grow and "auto, module or graph" in grow
    assert all(name in train for name in RECIPE_NAMES)


def test_names_that_the_command_line_repeats_are_the_library_s() -> None:
    assert {way.value for way in Way} == set(options.INITS)
    assert (STARTS, PARAMETERIZATIONS) == (options.DEPTH_INITS, options.PARAMETERIZATIONS)
    assert (FORMS, CLASS_STARTS) == (options.FORMS, options.CLASS_INITS)
    assert tuple(RECIPES) == RECIPE_NAMES
    assert len(options.catalogue()) > 1000 and "timm/resnet18" in options.catalogue()


@pytest.mark.parametrize("columns", few(("30", "40", "200"), "30"))
def test_narrow_terminals_lose_no_letters(columns: str) -> None:
    narrow = {"COLUMNS": columns, "NO_COLOR": "1", "FORCE_COLOR": "1"}
    command = [sys.executable, "-m", "fxgrow", "grow", "--help"]  # lays help out when it is imported
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **narrow}).stdout
    plain = re.sub(ESCAPE, "", shown)
    assert "--parameterization" in plain and "--depth-init" in plain
    planned = run_script("fxgrow", "plan", "timm/test_resnet", "-w", "layer4=2", environment=narrow)
    assert "…" not in planned.stdout
    assert not re.search(r"\x1b\[[0-9;]*\b3[0-7]m", shown + planned.stdout)  # bold, perhaps, and no colour
    assert max(map(len, re.sub(ESCAPE, "", planned.stdout).splitlines())) <= int(columns)
    assert planned.stderr == ""


def test_who_reads_a_pipe_may_leave(own: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as gone:
        ran = run_script("fxgrow", "plan", own, "-w", "2", "--input", "1,5", stdout=gone)
    assert (ran.returncode, ran.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_that_cannot_be_written_is_one_line(own: str) -> None:
    with Path("/dev/full").open("w") as full:
        ran = run_script("fxgrow", "plan", own, "-w", "2", "--input", "1,5", "--json", stdout=full)
    assert (ran.returncode, ran.stderr) == (1, "fxgrow: error: No space left on device\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("grow timm/vit_tiny_patch16_2", "timm/vit_tiny_patch16_224"), slow("grow x --init mi", "mirror"), ("fo", "fold")],
)
def test_a_shell_completes_without_torch(typed: str, offered: str) -> None:
    env = {**os.environ, "_FXGROW_COMPLETE": "complete_bash", "COMP_WORDS": f"fxgrow {typed}"}
    env["COMP_CWORD"] = str(len(typed.split()))
    code = "import sys; sys.argv[0] = 'fxgrow'; sys.modules['torch'] = None; from fxgrow.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert offered in ran.stdout.split(), ran.stderr


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "fxgrow", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("fxgrow ")


def test_ctrl_c_is_one_line_also_while_the_command_line_is_imported(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "fxgrow", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ran.returncode, ran.stdout) == (130, "")
    assert ran.stderr == "fxgrow: stopped by Ctrl-C; nothing was written\n"


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
