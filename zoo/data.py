"""Data sets in the form that a resumable training needs: every batch is a function of seed, epoch and position.

`digits` ships with scikit-learn; `cifar10` and `cifar100` are downloaded by torchvision; `packed:FILE` is a file that
`python -m fxgrow.zoo.pack` made: these are held in memory, on the device. Any other name is a folder with
`train/CLASS/IMAGE` and `val/CLASS/IMAGE`.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torchvision
from fxgrow.zoo.packed import DataError, read
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fxgrow.errors import as_error

Batch = tuple[Tensor, Tensor]
"""Images, shape [batch, channels, height, width], and labels, shape [batch]."""

PACKED = "packed:"
"""What the name of a packed file begins with."""

DIGITS_FOR_TRAINING = 1000
"""Of scikit-learn's 1797 digits; the other 797 are for testing."""


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


class Draws(NamedTuple):
    """How the images of one batch, or of several one after the other, are chosen and varied: int64, one a number.

    image: which it is. mirrored: 0 or 1. down, right: the first row and column that are seen of the image with
    `shift` pixels around it.
    """

    image: Tensor
    mirrored: Tensor
    down: Tensor
    right: Tensor


@dataclass(frozen=True)
class InMemory:
    """Images held as bytes on a device; each batch is moved at random by up to `shift` pixels and, if asked, mirrored.

    What is drawn is drawn on the CPU, a whole epoch at a time, and the same on every device; images are varied where
    they are, by operations that wait for nothing.

    pixels, test_pixels: uint8, shape [count, channels, height, width]. mean, deviation: to normalise by, of each
    channel, shape [1, channels, 1, 1].
    """

    name: str
    classes: int
    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    mean: Tensor
    deviation: Tensor
    shift: int
    flip: bool

    @classmethod
    def of(
        cls,
        name: str,
        classes: int,
        pixels: Tensor,
        labels: Tensor,
        test_pixels: Tensor,
        test_labels: Tensor,
        *,
        shift: int,
        flip: bool,
    ) -> InMemory:
        """Images normalised by the mean and deviation of each channel of those to train on."""
        values = pixels.float()
        mean, deviation = values.mean((0, 2, 3), keepdim=True), values.std((0, 2, 3), keepdim=True)
        return cls(name, classes, pixels, labels, test_pixels, test_labels, mean, deviation, shift, flip)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    @property
    def images(self) -> Tensor:
        """The images to train on as they are, normalised: float32."""
        return self._normal(self.pixels)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> InMemory:
        """The same on a device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def shrunk(self, side: int) -> InMemory:
        """The same with images of `side` pixels, each the mean of those it covers."""
        pixels, test_pixels = (
            torch.cat([F.interpolate(some.float(), size=side, mode="area").round().byte() for some in part.split(1024)])
            for part in (self.pixels, self.test_pixels)
        )
        how = {"shift": max(1, self.shift * side // self.shape[-1]), "flip": self.flip}
        return InMemory.of(self.name, self.classes, pixels, self.labels, test_pixels, self.test_labels, **how)  # type: ignore[arg-type]

    def draws(self, seed: int, epoch: int, size: int, skip: int = 0) -> Draws:
        """What is drawn for the batches of an epoch but for the first `skip`; each is `[batches, size]`, on the CPU."""
        order = shuffled(len(self), seed, epoch)
        numbers = range(skip, len(self) // size)
        image = order[skip * size : numbers.stop * size].reshape(-1, size)
        mirrored = torch.zeros_like(image)
        shifts = torch.full((len(numbers), 2, size), self.shift)
        for row, number in enumerate(numbers):
            generator = torch.Generator().manual_seed(seed_of(seed, "variation", epoch, number))
            if self.flip:
                mirrored[row] = torch.rand(size, generator=generator) < 0.5
            if self.shift:
                shifts[row] = torch.randint(0, 2 * self.shift + 1, (2, size, 1), generator=generator)[..., 0]
        down, right = shifts.unbind(1)
        return Draws(image, mirrored, down, right)

    def batch(self, draws: Draws) -> Batch:
        """The images of a batch, as drawn, and their labels."""
        height, width = self.pixels.shape[-2:]
        rows, row_is_inside = self._seen(draws.down, height)
        columns, column_is_inside = self._seen(draws.right, width)
        columns = torch.where(draws.mirrored[:, None] > 0, width - 1 - columns, columns)
        channels = torch.arange(self.pixels.shape[1], device=self.pixels.device)[:, None, None]
        pixels = self.pixels[
            draws.image[:, None, None, None], channels, rows[:, None, :, None], columns[:, None, None, :]
        ]
        inside = (row_is_inside[:, :, None] & column_is_inside[:, None, :])[:, None]
        return torch.where(inside, self._normal(pixels), 0.0), self.labels[draws.image]

    def _seen(self, first: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The rows or columns that are seen of each image, `[batch, size]`, and which of them are inside of it."""
        places = first[:, None] + torch.arange(size, device=first.device) - self.shift
        within = places.clamp(0, size - 1)
        return within, places == within

    def batches(self, seed: int, epoch: int, size: int, skip: int = 0) -> Iterator[Batch]:
        drawn = self.draws(seed, epoch, size, skip)
        drawn = Draws(*(part.to(self.pixels.device) for part in drawn))
        return (self.batch(Draws(*rows)) for rows in zip(*drawn, strict=True))

    def test_batches(self, size: int) -> Iterator[Batch]:
        for images, labels in zip(self.test_pixels.split(size), self.test_labels.split(size), strict=True):
            yield self._normal(images), labels

    def _normal(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.mean) / self.deviation


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


def load(
    name: str, folder: Path = Path("data"), samples: int | None = None, workers: int = 2, side: int | None = None
) -> Data:
    """A data set by name.

    Parameters
    ----------
    name: "digits", "cifar10", "cifar100", "packed:FILE" (as `fxgrow.zoo.pack` writes them), or the path of a folder
        of images.
    folder: where downloads are kept.
    samples: train on so many only: the first, or of a packed file any (not of a folder).
    workers: processes that read images (folders only).

    side: shrink images to so many pixels (those held in memory only).

    Raises
    ------
    DataError: there is no such data set, or it cannot be read.

    >>> digits = load("digits")
    >>> len(digits), digits.classes, digits.shape
    (1000, 10, (1, 8, 8))
    """
    data = _found(name, folder, samples, workers)
    if side is None or data.shape[-2:] == (side, side):
        return data
    if not isinstance(data, InMemory) or side < 1:
        raise DataError(f"side={side}: {name} cannot be shrunk to that", remedy="leave side out")
    return data.shrunk(side)


def _found(name: str, folder: Path, samples: int | None, workers: int) -> Data:
    if name == "digits":
        return _digits(samples)
    if name in ("cifar10", "cifar100"):
        return _cifar(name, folder, samples)
    if name.startswith(PACKED):
        return _packed(Path(name.removeprefix(PACKED)), samples)
    if (Path(name) / "train").is_dir() and (Path(name) / "val").is_dir():
        return _folder(Path(name), workers)
    raise DataError(
        f"there is no data set {name!r}",
        remedy="use digits, cifar10, cifar100, packed:FILE, or a folder with train/CLASS/IMAGE and val/CLASS/IMAGE",
    )


def _packed(path: Path, samples: int | None) -> InMemory:
    train, test, classes, flip = read(path)
    if samples is not None:  # files are often in the order of their classes
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
        train = train.some(order[: _used(samples, len(order))].tolist())
    images, test_images = train.decoded(str(path)), test.decoded(str(path))
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError("images to train on and to test with differ in shape", where=str(path), remedy="pack anew")
    return InMemory.of(
        path.stem,
        classes,
        images,
        train.labels,
        test_images,
        test.labels,
        shift=images.shape[-1] // 8,
        flip=flip,
    )


def _digits(samples: int | None) -> InMemory:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits ships with scikit-learn", remedy="pip install scikit-learn") from None
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images, dtype=torch.uint8)[order, None]
    labels = torch.tensor(digits.target)[order]
    end, used = DIGITS_FOR_TRAINING, _used(samples, DIGITS_FOR_TRAINING)
    parts = images[:used], labels[:used], images[end:], labels[end:]
    return InMemory.of("digits", 10, *parts, shift=1, flip=False)


def _used(samples: int | None, most: int) -> int:
    """How many images to train on; all, unless so many are asked for."""
    if samples is None:
        return most
    if not 1 <= samples <= most:
        raise DataError(f"samples={samples}, but there are {most} to train on", remedy="ask for as many or fewer")
    return samples


def _cifar(name: str, folder: Path, samples: int | None) -> InMemory:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    tensors = []
    for part in downloaded(name, kind, folder):
        tensors.append(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous())
        tensors.append(torch.tensor(part.targets))
    images, labels, test_images, test_labels = tensors
    used = _used(samples, len(labels))
    classes = int(name.removeprefix("cifar"))
    return InMemory.of(name, classes, images[:used], labels[:used], test_images, test_labels, shift=4, flip=True)


def downloaded(name: str, kind: Any, folder: Path) -> list[Any]:
    """A data set of torchvision, to train on and to test with.

    Raises
    ------
    DataError: it cannot be downloaded.
    """
    what, of = f"{name} cannot be downloaded", (OSError, RuntimeError)
    with as_error(DataError, what, where=str(folder), remedy="check the network", of=of):
        return [kind(folder, train=train, download=True) for train in (True, False)]


def image_folders(path: Path, *transforms: Any) -> list[Any]:
    """The images in the folders to train on and to test with, each through one of the transforms, if there are any.

    Raises
    ------
    DataError: they cannot be read, or do not have the same classes.
    """
    remedy = "keep images in train/CLASS/ and val/CLASS/"
    with as_error(DataError, "the folder cannot be read", where=str(path), remedy=remedy, of=(OSError,)):
        pairs = itertools.zip_longest(("train", "val"), transforms)
        train, test = (torchvision.datasets.ImageFolder(path / part, transform) for part, transform in pairs)
    if train.classes != test.classes:
        raise DataError("train and val have different classes", where=str(path), remedy="use the same folders in both")
    return [train, test]


def _folder(path: Path, workers: int) -> Folder:
    size = 224
    after = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    varied = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *after])
    plain = v2.Compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size), *after])
    train, test = image_folders(path, varied, plain)
    return Folder(str(path), len(train.classes), (3, size, size), train, test, workers)
