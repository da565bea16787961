"""Data sets in the form that a resumable training needs: every batch is a function of seed, epoch and position.

`digits` ships with scikit-learn; `cifar10` and `cifar100` are downloaded by torchvision; any other name is a folder
with `train/CLASS/IMAGE` and `val/CLASS/IMAGE`.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fxgrow.errors import FxgrowError

Batch = tuple[Tensor, Tensor]
"""Images, shape [batch, channels, height, width], and labels, shape [batch]."""

DIGITS_FOR_TRAINING = 1000
"""Of scikit-learn's 1797 digits; the other 797 are for testing."""


class DataError(FxgrowError):
    """There is no such data set, or it cannot be read."""


class Data(Protocol):
    """A data set to train on and to test with."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def classes(self) -> int:
        """How many classes there are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image: `[channels, height, width]`."""

    def __len__(self) -> int:
        """How many images there are to train on."""

    def batches(self, seed: int, epoch: int, size: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch but for the first `skip`, shuffled and varied: the same for the same arguments."""

    def test_batches(self, size: int) -> Iterator[Batch]:
        """All images to test with, in order, as they are."""


def seed_of(*parts: object) -> int:
    """A seed for one purpose, from what it depends on.

    >>> seed_of(0, "order", 3) == seed_of(0, "order", 3) != seed_of(0, "order", 4)
    True
    """
    return zlib.crc32(":".join(map(str, parts)).encode())


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, "order", epoch)))


@dataclass(frozen=True)
class InMemory:
    """Images held in memory; each batch is moved at random by up to `shift` pixels and, if asked, mirrored.

    images, test_images: float32, normalised, shape [count, channels, height, width].
    """

    name: str
    classes: int
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    shift: int
    flip: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, seed: int, epoch: int, size: int, skip: int = 0) -> Iterator[Batch]:
        order = shuffled(len(self), seed, epoch)
        for number in range(skip, len(self) // size):
            chosen = order[number * size : (number + 1) * size]
            generator = torch.Generator().manual_seed(seed_of(seed, "variation", epoch, number))
            yield self._varied(self.images[chosen], generator), self.labels[chosen]

    def test_batches(self, size: int) -> Iterator[Batch]:
        return zip(self.test_images.split(size), self.test_labels.split(size), strict=True)

    def _varied(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        if self.flip:
            mirrored = torch.rand(count, generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if self.shift:
            padded = F.pad(images, [self.shift] * 4)
            down, right = torch.randint(0, 2 * self.shift + 1, (2, count, 1), generator=generator)
            rows = (down + torch.arange(height))[:, None, :, None]
            columns = (right + torch.arange(width))[:, None, None, :]
            images = padded[
                torch.arange(count)[:, None, None, None], torch.arange(images.shape[1])[:, None, None], rows, columns
            ]
        return images


class _Varied(Dataset[tuple[Tensor, int]]):
    """Images of a folder, each varied by the seed that comes with its index, in whichever process it is read."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        before = random.getstate()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            image, label = self.images[index]
        random.setstate(before)
        return image, label


@dataclass(frozen=True)
class Folder:
    """Images in folders, one for each class, read by worker processes."""

    name: str
    classes: int
    shape: tuple[int, ...]
    train: Any
    test: Any
    workers: int

    def __len__(self) -> int:
        return len(self.train)

    def batches(self, seed: int, epoch: int, size: int, skip: int = 0) -> Iterator[Batch]:
        order = shuffled(len(self), seed, epoch).tolist()
        keys = [
            [(index, seed_of(seed, "variation", epoch, index)) for index in order[number * size : (number + 1) * size]]
            for number in range(skip, len(self) // size)
        ]
        yield from DataLoader(_Varied(self.train), batch_sampler=keys, num_workers=self.workers)

    def test_batches(self, size: int) -> Iterator[Batch]:
        yield from DataLoader(self.test, batch_size=size, num_workers=self.workers)


def load(name: str, folder: Path = Path("data"), samples: int | None = None, workers: int = 2) -> Data:
    """A data set by name.

    Parameters
    ----------
    name: "digits", "cifar10", "cifar100", or the path of a folder of images.
    folder: where downloads are kept.
    samples: train on the first so many only (digits and CIFAR).
    workers: processes that read images (folders only).

    Raises
    ------
    DataError: there is no such data set, or it cannot be read.

    >>> digits = load("digits")
    >>> len(digits), digits.classes, digits.shape
    (1000, 10, (1, 8, 8))
    """
    if name == "digits":
        return _digits(samples)
    if name in ("cifar10", "cifar100"):
        return _cifar(name, folder, samples)
    if (Path(name) / "train").is_dir() and (Path(name) / "val").is_dir():
        return _folder(Path(name), workers)
    raise DataError(
        f"there is no data set {name!r}",
        remedy="use digits, cifar10, cifar100, or a folder with train/CLASS/IMAGE and val/CLASS/IMAGE",
    )


def _digits(samples: int | None) -> InMemory:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits ships with scikit-learn", remedy="pip install scikit-learn") from None
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images, dtype=torch.float32)[order, None]
    labels = torch.tensor(found.target)[order]
    return _in_memory("digits", 10, *_cut(images, labels, DIGITS_FOR_TRAINING, samples), shift=1, flip=False)


def _cut(images: Tensor, labels: Tensor, training: int, samples: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    used = training if samples is None else _checked_samples(samples, training)
    return images[:used], labels[:used], images[training:], labels[training:]


def _checked_samples(samples: int, most: int) -> int:
    if not 1 <= samples <= most:
        raise DataError(f"samples={samples}, but there are {most} to train on", remedy="ask for as many or fewer")
    return samples


def _cifar(name: str, folder: Path, samples: int | None) -> InMemory:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    try:
        parts = [kind(folder, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} cannot be downloaded: {str(error).splitlines()[0]}", where=str(folder), remedy="check the network"
        ) from error
    tensors = []
    for part in parts:
        tensors.append(torch.from_numpy(part.data).permute(0, 3, 1, 2).float())
        tensors.append(torch.tensor(part.targets))
    images, labels, test_images, test_labels = tensors
    used = len(labels) if samples is None else _checked_samples(samples, len(labels))
    classes = int(name.removeprefix("cifar"))
    return _in_memory(name, classes, images[:used], labels[:used], test_images, test_labels, shift=4, flip=True)


def _in_memory(
    name: str, classes: int, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor, **how: Any
) -> InMemory:
    """Normalise both parts by the mean and deviation of each channel of the first."""
    mean = images.mean((0, 2, 3), keepdim=True)
    deviation = images.std((0, 2, 3), keepdim=True)
    normal, test_normal = ((part - mean) / deviation for part in (images, test_images))
    return InMemory(name, classes, normal, labels, test_normal, test_labels, **how)


def _folder(path: Path, workers: int, size: int = 224) -> Folder:
    after = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    varied = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *after])
    plain = v2.Compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size), *after])
    try:
        train = torchvision.datasets.ImageFolder(path / "train", varied)
        test = torchvision.datasets.ImageFolder(path / "val", plain)
    except (FileNotFoundError, OSError) as error:
        raise DataError(
            f"the folder cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            remedy="keep images in train/CLASS/ and val/CLASS/",
        ) from error
    if train.classes != test.classes:
        raise DataError("train and val have different classes", where=str(path), remedy="use the same folders in both")
    return Folder(str(path), len(train.classes), (3, size, size), train, test, workers)
