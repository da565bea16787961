"""Data: every batch is a function of seed, epoch and position."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from fxgrow.zoo.data import Batch, Data, DataError, InMemory, load
from PIL import Image

from tests.pairing import slow


def same(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    return all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(list(first), list(second), strict=True)
    )


def folder_of_images(path: Path) -> Path:
    """Three classes of four images in each part, of several sizes."""
    chance = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("ant", "bee", "cat"):
            (path / part / label).mkdir(parents=True)
            for number in range(4):
                pixels = chance.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / part / label / f"{number}.png")
    return path


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's CIFAR-10 without its download."""

    def made(folder: Path, train: bool, download: bool) -> Any:
        chance = np.random.default_rng(int(train))
        count = 60 if train else 20
        return SimpleNamespace(
            data=chance.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), targets=list(range(10)) * (count // 10)
        )

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", made)


def check_batches(data: Data, size: int) -> None:
    batches = list(data.batches(0, 3, size))
    assert len(batches) == len(data) // size
    assert all(images.shape == (size, *data.shape) and labels.shape == (size,) for images, labels in batches)
    torch.rand(5)
    random.random()
    assert same(batches, data.batches(0, 3, size))
    assert same(batches[1:], data.batches(0, 3, size, skip=1))
    assert not same(batches, data.batches(0, 4, size))
    assert not same(batches, data.batches(1, 3, size))
    assert same(data.test_batches(size), data.test_batches(size))
    labels = torch.cat([labels for _, labels in data.test_batches(size)])
    assert set(labels.tolist()) == set(range(data.classes))


def test_digits() -> None:
    data = load("digits")
    assert (len(data), data.shape, data.classes) == (1000, (1, 8, 8), 10)
    check_batches(data, 100)
    assert sum(len(labels) for _, labels in data.test_batches(100)) == 797
    assert isinstance(data, InMemory)
    assert data.images.mean().item() == pytest.approx(0, abs=1e-6)
    assert data.images.std().item() == pytest.approx(1, abs=1e-3)
    few = load("digits", samples=30)
    assert isinstance(few, InMemory)
    assert torch.equal(few.labels, data.labels[:30])
    assert torch.equal(few.test_labels, data.test_labels)


def test_digits_move_by_a_pixel_at_most() -> None:
    data = load("digits", samples=40)
    assert isinstance(data, InMemory)
    images, labels = next(data.batches(0, 0, 40))
    padded = torch.nn.functional.pad(data.images, [1, 1, 1, 1])
    moved = torch.stack([padded[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)])
    for image, label in zip(images, labels, strict=True):
        shifts = (moved == image).all(dim=(2, 3, 4)).nonzero()
        assert len(shifts) >= 1
        assert data.labels[shifts[0, 1]] == label


def test_cifar(cifar: None, tmp_path: Path) -> None:
    data = load("cifar10", tmp_path)
    assert (len(data), data.shape, data.classes) == (60, (3, 32, 32), 10)
    check_batches(data, 20)
    assert len(load("cifar10", tmp_path, samples=40)) == 40


def test_images_are_mirrored_and_moved_on_bytes(cifar: None, tmp_path: Path) -> None:
    """Each batch is what mirroring, padding and cropping normalised images one by one gives."""
    data = load("cifar10", tmp_path)
    assert isinstance(data, InMemory)
    assert data.pixels.dtype == torch.uint8
    draws = data.draws(0, 2, 20)
    assert set(draws.mirrored.flatten().tolist()) == {0, 1}
    assert {int(draws.down.min()), int(draws.down.max())} == {0, 8}
    for number, (images, labels) in enumerate(data.batches(0, 2, 20)):
        for place, image in enumerate(images):
            chosen, mirrored, down, right = (int(part[number, place]) for part in draws)
            original = data.images[chosen]
            expected = torch.nn.functional.pad(original.flip(-1) if mirrored else original, [4] * 4)
            assert torch.equal(image, expected[:, down : down + 32, right : right + 32])
            assert labels[place] == data.labels[chosen]


def test_images_are_shrunk_to_means(cifar: None, tmp_path: Path) -> None:
    data, small = load("cifar10", tmp_path), load("cifar10", tmp_path, side=16)
    assert isinstance(data, InMemory)
    assert isinstance(small, InMemory)
    assert (small.shape, small.shift) == ((3, 16, 16), 2)
    block = data.pixels[5, 1, 2:4, 6:8].float().mean()
    assert abs(float(small.pixels[5, 1, 1, 3]) - float(block)) <= 0.5
    check_batches(small, 20)


@pytest.mark.parametrize("workers", [0, slow(2)])
def test_folders(workers: int, tmp_path: Path) -> None:
    data = load(str(folder_of_images(tmp_path)), workers=workers)
    assert (len(data), data.shape, data.classes) == (12, (3, 224, 224), 3)
    check_batches(data, 4)


def test_reading_a_folder_leaves_the_generators_alone(tmp_path: Path) -> None:
    data = load(str(folder_of_images(tmp_path)), workers=0)
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(3), random.random()
    torch.manual_seed(5)
    random.seed(5)
    next(iter(data.batches(0, 0, 4)))
    assert random.random() == expected[1]


def test_workers_do_not_change_what_is_read(tmp_path: Path) -> None:
    path = str(folder_of_images(tmp_path))
    assert same(load(path, workers=0).batches(0, 1, 4), load(path, workers=2).batches(0, 1, 4))


def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(*arguments: Any, **options: Any) -> str:
        with pytest.raises(DataError) as raised:
            load(*arguments, **options)
        return str(raised.value)

    assert text("minst") == (
        "there is no data set 'minst': "
        "use digits, cifar10, cifar100, packed:FILE, or a folder with train/CLASS/IMAGE and val/CLASS/IMAGE"
    )
    assert text("digits", side=-3) == "side=-3: digits cannot be shrunk to that: leave side out"
    assert text("digits", samples=2000) == "samples=2000, but there are 1000 to train on: ask for as many or fewer"
    path = folder_of_images(tmp_path / "images")
    for image in (path / "val" / "cat").iterdir():
        image.unlink()
    (path / "val" / "cat").rmdir()
    assert text(str(path)) == f"train and val have different classes (at {path}): use the same folders in both"

    def offline(*arguments: Any, **options: Any) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", offline)
    assert text("cifar100", tmp_path) == (
        f"cifar100 cannot be downloaded: no route to host (at {tmp_path}): check the network"
    )
