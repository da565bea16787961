"""Data sets as one file: what goes in comes out, and what is wrong is named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from fxgrow.zoo import pack
from fxgrow.zoo.data import InMemory, load
from fxgrow.zoo.packed import DataError, ImageSplit, read, write
from PIL import Image
from torchvision.io import decode_image

from tests.commands import run_here, run_script
from tests.zoo.test_data import check_batches, folder_of_images

SHARED = Path("/work/shared/data/cifar10.safetensors")


def jpeg(seed: int, side: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG")
    return target.getvalue()


def small_file(path: Path, count: int = 12) -> list[bytes]:
    """A file of some images of three classes; they are returned."""
    files = [jpeg(number) for number in range(count)]
    tensors = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    part = ImageSplit.joined(tensors, [number % 3 for number in range(count)])
    write(path, part, part.some(range(6)), ["ant", "bee", "cat"], flip=False)
    return files


def test_a_packed_file_is_a_data_set(tmp_path: Path) -> None:
    files = small_file(tmp_path / "some.safetensors")
    data = load(f"packed:{tmp_path / 'some.safetensors'}")
    assert isinstance(data, InMemory)
    assert (data.name, len(data), data.classes, data.shape, data.shift, data.flip) == (
        "some", 12, 3, (3, 16, 16), 2, False,
    )  # fmt: skip
    pixels = decode_image(torch.frombuffer(bytearray(files[7]), dtype=torch.uint8))
    assert torch.equal(data.pixels[7], pixels)
    assert data.labels.tolist() == [number % 3 for number in range(12)]
    check_batches(data, 4)
    few = load(f"packed:{tmp_path / 'some.safetensors'}", samples=5)
    assert isinstance(few, InMemory)
    assert len(few.pixels) == len(few) == 5
    assert all(any(torch.equal(image, candidate) for candidate in data.pixels) for image in few.pixels)
    assert len(set(few.labels.tolist())) > 1


def test_a_folder_is_packed_by_the_command(tmp_path: Path) -> None:
    """Images of several sizes are brought to one; JPEG files of that size go in byte by byte."""
    folder, file = folder_of_images(tmp_path / "images"), tmp_path / "images.safetensors"
    content = jpeg(3, 32)
    (folder / "train" / "bee" / "a.jpg").write_bytes(content)
    refused = run_here(pack.app, folder, file)
    assert "pixels, the first of" in refused.stderr
    assert "pass --side" in refused.stderr
    done = run_script("fxgrow.zoo.pack", folder, file, "--side", 32, "--no-flip")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("13 images to train on and 12 to test with, of 3 classes")
    train, test, classes, flip = read(file)
    assert (len(train.labels), len(test.labels), classes, flip) == (13, 12, 3, False)
    assert train.labels.tolist() == [0] * 4 + [1] * 5 + [2] * 4
    first = [train.files[a:b].numpy().tobytes() for a, b in zip(train.offsets, train.offsets[1:], strict=False)]
    assert content in first
    data = load(f"packed:{file}")
    assert data.shape == (3, 32, 32)


def test_torchvisions_sets_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Set(list[Any]):
        classes = ("nought, zero", "one")

    def made(folder: Path, train: bool, download: bool) -> Set:
        chance = np.random.default_rng(int(train))
        images = [Image.fromarray(chance.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in range(6)]
        return Set((image, number % 2) for number, image in enumerate(images))

    monkeypatch.setitem(pack.TORCHVISION, "MNIST", made)
    parts, classes = pack._source("torchvision/MNIST", tmp_path)
    assert classes == ["nought zero", "one"]
    part = pack._part(parts[0], None, 100)
    assert part.labels.tolist() == [0, 1, 0, 1, 0, 1]
    decoded = part.decoded("here")
    assert decoded.shape == (6, 3, 28, 28)
    original = torch.from_numpy(np.asarray(made(tmp_path, True, True)[2][0]).astype(np.int64))
    assert (decoded[2, 0] - original).abs().float().mean() < 2


def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(path: Path) -> str:
        with pytest.raises(DataError) as raised:
            load(f"packed:{path}")
        return str(raised.value)

    assert text(tmp_path / "none") == (
        f"there is no such file (at {tmp_path / 'none'}): make one: python -m fxgrow.zoo.pack --help"
    )
    (tmp_path / "text").write_text("no tensors here")
    assert text(tmp_path / "text").startswith("the file is not a packed data set: ")
    good = tmp_path / "good"
    small_file(good)
    train, test, _, _ = read(good)
    write(tmp_path / "few", train, test, ["ant"], flip=True)
    assert text(tmp_path / "few").startswith("images, offsets, labels and classes of the file do not belong together")
    broken = train.files.clone()
    broken[:] = 7
    write(tmp_path / "broken", ImageSplit(broken, train.offsets, train.labels), test, ["a", "b", "c"], flip=True)
    assert text(tmp_path / "broken").startswith("image 0 cannot be decoded: ")
    files = [torch.frombuffer(bytearray(jpeg(k, side)), dtype=torch.uint8) for k, side in ((0, 16), (1, 24))]
    write(tmp_path / "sizes", ImageSplit.joined(files, [0, 1]), test, ["a", "b", "c"], flip=True)
    assert text(tmp_path / "sizes").startswith("image 1 has shape [3, 24, 24], the first [3, 16, 16]")

    def offline(*arguments: Any, **options: Any) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    monkeypatch.setitem(pack.TORCHVISION, "CIFAR10", offline)
    with pytest.raises(DataError, match="CIFAR10 cannot be downloaded: no route to host"):
        pack._source("torchvision/CIFAR10", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nowhere", "out"), "the folder cannot be read: "),
        (("torchvision/MNISS", "out"), "'MNISS' is not among torchvision's: use one of CIFAR10, "),
        (("nowhere", "out", "--side", 0), "side=0 is not a number of pixels: pass 1 or more"),
        (("nowhere", "out", "--quality", 101), "quality=101 is not one of JPEG's: pass a number from 1 to 100"),
    ],
)
def test_the_command_fails_with_one_line(arguments: tuple[object, ...], text: str) -> None:
    done = run_here(pack.app, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fxgrow: error: {text}")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not here")
def test_the_shared_file_is_cifar10() -> None:
    data = load(f"packed:{SHARED}", samples=200, side=16)
    assert (len(data), data.classes, data.shape) == (200, 10, (3, 16, 16))
    assert sum(len(labels) for _, labels in data.test_batches(500)) == 10000
