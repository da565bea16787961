"""Places that files are written to: refused before the work, and never left with half a file."""

from __future__ import annotations

import os
import resource
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from fxgrow.errors import FileError
from fxgrow.writing import checked_folder, checked_target, write_text, written_whole
from tests.commands import run_script, started


def refusal(check: Callable[[Path], Path], path: Path | str) -> str:
    with pytest.raises(FileError) as caught:
        check(Path(path))
    return str(caught.value)


def test_a_text_takes_the_place_of_another_at_once(tmp_path: Path) -> None:
    target = tmp_path / "page"
    write_text(target, "old")
    with written_whole(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left"), SafetensorError("x")])
def test_nothing_is_left_of_what_was_not_filled(error: BaseException | type, tmp_path: Path) -> None:
    target = tmp_path / "page"
    write_text(target, "old")
    with pytest.raises((KeyboardInterrupt, RuntimeError, FileError)), written_whole(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link_and_rights_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    write_text(target, "old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_new_file_has_the_rights_that_new_files_have(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with written_whole(tmp_path / "ours") as partial:
        partial.unlink()  # as safetensors does, which renames a file that the owner alone can read
        partial.touch(0o600)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_places_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    assert refusal(checked_target, tmp_path).startswith("there is a folder of that name")
    assert refusal(checked_target, tmp_path / "pipe").startswith("it is a device or a pipe")
    assert refusal(checked_target, tmp_path / "loop").startswith("that is no place for a file")
    assert refusal(checked_target, tmp_path / ("x" * 300)).startswith("that is no place for a file: File name too long")
    assert refusal(checked_target, tmp_path / "none" / "x").startswith("the folder does not exist")
    assert refusal(checked_target, tmp_path / "file" / "x")
    assert refusal(checked_folder, tmp_path / "file" / "x").startswith("there is a file of that name")
    assert checked_folder(tmp_path / "none" / "deeper") == tmp_path / "none" / "deeper"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop", "pipe"]


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="a folder that even root cannot write to is needed")
def test_a_folder_that_cannot_be_written_to() -> None:
    assert refusal(checked_target, "/sys/x").startswith("the folder cannot be written to: ")
    assert refusal(checked_folder, "/sys/x/y").startswith("the folder cannot be written to: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_write_protected(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o400)
    assert refusal(checked_target, tmp_path / "file").startswith("the file is write-protected")
    (tmp_path / "folder").mkdir(0o500)
    assert refusal(checked_target, tmp_path / "folder" / "x").startswith("the folder cannot be written to: ")


GROW = ["fxgrow", "grow", "timm/test_resnet", "-w", "layer4=2", "-o", "grown.safetensors"]


def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    """Files of this process may have 100 kB: the writer sees what it sees on a full disk."""
    (tmp_path / "grown.safetensors").write_text("old")
    ran = run_script(
        *GROW,
        "--no-verify",
        cwd=tmp_path,
        first=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert ran.returncode == 1
    complaints = [line for line in ran.stderr.splitlines() if line.startswith("fxgrow: error:")]
    assert len(complaints) == 1 and "Traceback" not in ran.stderr
    assert "it cannot be written: " in complaints[0] and "(at grown.safetensors)" in complaints[0]
    assert [path.name for path in tmp_path.iterdir()] == ["grown.safetensors"]
    assert (tmp_path / "grown.safetensors").read_text() == "old"


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_ctrl_c_is_one_line_and_leaves_no_half_file(moment: float, tmp_path: Path) -> None:
    process = started(*GROW, cwd=tmp_path)
    assert process.stderr is not None and "random" in process.stderr.readline()
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    complete = (tmp_path / "grown.safetensors").exists()
    said = [line for line in errors.splitlines() if line.startswith("fxgrow: ")]
    if process.returncode == 0:  # it was done before
        assert complete
        return
    assert process.returncode == 130
    assert said == [
        f"fxgrow: stopped by Ctrl-C; {'written before: grown.safetensors' if complete else 'nothing was written'}"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["grown.safetensors"] * complete
