"""Image data sets as one file: compressed images one after the other, their labels, the names of the classes.

For each of `train` and `test`: `NAME.jpeg` (uint8, all files joined), `NAME.offsets` (int64, where each begins, and the
end), `NAME.labels` (uint8 or int64). The file's metadata has `classes`, separated by commas, and `flip`, "no" where
an image and its mirror image are not of one class.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from fxgrow.errors import FxgrowError, as_error
from fxgrow.writing import written_whole


class DataError(FxgrowError):
    """There is no such data set, or it cannot be read."""


@dataclass(frozen=True)
class ImageSplit:
    """The images to train on, or to test with: files (uint8, joined), where each begins and ends, labels (int64)."""

    files: Tensor
    offsets: Tensor
    labels: Tensor

    @classmethod
    def joined(cls, files: Sequence[Tensor], labels: Sequence[int]) -> ImageSplit:
        """From one file for each image."""
        ends = torch.tensor([0, *(len(file) for file in files)]).cumsum(0)
        return cls(torch.cat(list(files)), ends, torch.tensor(labels))

    def some(self, numbers: Sequence[int]) -> ImageSplit:
        """These images, in this order."""
        ends = self.offsets.tolist()
        return ImageSplit.joined(
            [self.files[ends[k] : ends[k + 1]] for k in numbers], self.labels[list(numbers)].tolist()
        )

    def decoded(self, where: str) -> Tensor:
        """All images: uint8, shape [images, 3, height, width].

        Raises
        ------
        DataError: one cannot be decoded, or they differ in shape.
        """
        ends = self.offsets.tolist()
        images: list[Tensor] = []
        for number, (start, stop) in enumerate(itertools.pairwise(ends)):
            what, of = f"image {number} cannot be decoded", (RuntimeError,)
            with as_error(DataError, what, where=where, remedy="pack anew", of=of):
                images.append(decode_image(self.files[start:stop], ImageReadMode.RGB))
            if images[-1].shape != images[0].shape:
                raise DataError(
                    f"image {number} has shape {list(images[-1].shape)}, the first {list(images[0].shape)}",
                    where=where,
                    remedy="pack them with one size: python -m fxgrow.zoo.pack --side PIXELS",
                )
        return torch.stack(images)


class Packed(NamedTuple):
    """What a file holds. flip: whether an image and its mirror image are of one class."""

    train: ImageSplit
    test: ImageSplit
    classes: int
    flip: bool


def read(path: Path) -> Packed:
    """A data set from its file, images not yet decoded.

    Raises
    ------
    DataError: there is no such file, or it holds something else.
    """
    where, remedy = str(path), "make one: python -m fxgrow.zoo.pack --help"
    if not path.is_file():
        raise DataError("there is no such file", where=where, remedy=remedy)
    failing = as_error(
        DataError, "the file is not a packed data set", where=where, remedy=remedy, of=(SafetensorError,)
    )
    with failing, safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        names, flip = metadata.get("classes", "").split(","), metadata.get("flip", "yes") != "no"
        parts = [
            ImageSplit(*(file.get_tensor(f"{part}.{field}") for field in ("jpeg", "offsets", "labels")))
            for part in ("train", "test")
        ]
    train, test = (_checked(part, len(names), path) for part in parts)
    return Packed(train, test, len(names), flip)


def _checked(part: ImageSplit, classes: int, path: Path) -> ImageSplit:
    """The part, its labels as int64, if its tensors belong together."""
    steps = part.offsets.diff()
    good = (
        part.files.dtype == torch.uint8
        and len(part.labels) > 0
        and len(part.offsets) == len(part.labels) + 1
        and int(part.offsets[0]) == 0
        and int(part.offsets[-1]) == len(part.files)
        and bool((steps > 0).all())
        and int(part.labels.min()) >= 0
        and int(part.labels.max()) < classes
    )
    if not good:
        raise DataError(
            "images, offsets, labels and classes of the file do not belong together",
            where=str(path),
            remedy="make it anew: python -m fxgrow.zoo.pack --help",
        )
    return ImageSplit(part.files, part.offsets, part.labels.long())


def write(path: Path, train: ImageSplit, test: ImageSplit, classes: Sequence[str], flip: bool) -> None:
    """Write a data set into a file that is there whole or not at all."""
    tensors = {
        f"{name}.{field}": tensor
        for name, part in (("train", train), ("test", test))
        for field, tensor in (("jpeg", part.files), ("offsets", part.offsets), ("labels", part.labels))
    }
    with written_whole(path) as partial:
        save_file(tensors, partial, {"classes": ",".join(classes), "flip": "yes" if flip else "no"})
