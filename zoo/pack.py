"""Make one file of an image data set: python -m fxgrow.zoo.pack --help

The file is what `--data packed:FILE` reads. Images that are JPEG and of the wanted size go in as they are.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchvision
import typer
from fxgrow.zoo.data import downloaded, image_folders
from fxgrow.zoo.packed import DataError, ImageSplit, write
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fxgrow.errors import check_one_of
from fxgrow.running import run_app

app = typer.Typer(add_completion=False)

TORCHVISION: dict[str, Any] = {
    "CIFAR10": torchvision.datasets.CIFAR10,
    "CIFAR100": torchvision.datasets.CIFAR100,
    "MNIST": torchvision.datasets.MNIST,
    "FashionMNIST": torchvision.datasets.FashionMNIST,
}
"""Those that torchvision downloads, with images of one size, a part to train on and one to test with."""

Labelled = tuple[Any, int]
"""An image, as PIL has it or as the path of its file, and its label."""


@app.command()
def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help=f"train/CLASS/IMAGE and val/CLASS/IMAGE, or torchvision/NAME of {', '.join(TORCHVISION)}.",
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To write; its folder must exist.")],
    side: Annotated[int | None, typer.Option(help="Scale and crop images to so many pixels a side.")] = None,
    quality: Annotated[int, typer.Option(help="Of JPEG, for images that are not kept as they are.")] = 95,
    flip: Annotated[bool, typer.Option(help="Whether an image and its mirror image are of one class.")] = True,
    data_folder: Annotated[Path, typer.Option(help="Where torchvision's downloads are kept.")] = Path("data"),
) -> None:
    """Make one file of a data set of images."""
    if side is not None and side < 1:
        raise DataError(f"side={side} is not a number of pixels", remedy="pass 1 or more")
    if not 1 <= quality <= 100:
        raise DataError(f"quality={quality} is not one of JPEG's", remedy="pass a number from 1 to 100")
    parts, classes = _source(source, data_folder)
    wrong = next((name for name in classes if "," in name), None)
    if wrong is not None:
        raise DataError(f"the class {wrong!r} has a comma in its name", remedy="rename its folder")
    train, test = (_part(images, side, quality) for images in parts)
    write(file, train, test, classes, flip)
    Console(highlight=False).print(
        f"{len(train.labels):,} images to train on and {len(test.labels):,} to test with, of {len(classes)} classes, "
        f"in {file} ({file.stat().st_size / 2**20:.1f} MiB)"
    )


def _source(source: str, data_folder: Path) -> tuple[list[Iterable[Labelled]], list[str]]:
    """The images to train on and to test with, and the names of the classes."""
    name = source.removeprefix("torchvision/")
    if name != source:
        check_one_of(TORCHVISION, name, f"{name!r} is not among torchvision's", DataError)
        sets = downloaded(name, TORCHVISION[name], data_folder)
        return list(sets), [label.replace(",", "") for label in sets[0].classes]
    folders = image_folders(Path(source))
    return [part.samples for part in folders], folders[0].classes


def _part(images: Iterable[Labelled], side: int | None, quality: int) -> ImageSplit:
    files, labels = [], []
    for file, label in track(_files(images, side, quality), "packing", console=Console(stderr=True), transient=True):
        files.append(file)
        labels.append(label)
    return ImageSplit.joined(files, labels)


def _files(images: Iterable[Labelled], side: int | None, quality: int) -> Iterator[tuple[Tensor, int]]:
    """Each image as the bytes of a JPEG file, and its label."""
    size: tuple[int, int] | None = None if side is None else (side, side)
    for source, label in images:
        with Image.open(source) if isinstance(source, str) else source as image:
            size = size or image.size
            if side is None and image.size != size:
                raise DataError(
                    f"an image is of {image.size[0]}x{image.size[1]} pixels, the first of {size[0]}x{size[1]}",
                    where=str(source),
                    remedy="pass --side",
                )
            if isinstance(source, str) and image.format == "JPEG" and image.size == size:
                content = Path(source).read_bytes()
            else:
                target = io.BytesIO()
                ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BICUBIC).save(target, "JPEG", quality=quality)
                content = target.getvalue()
        yield torch.from_numpy(np.frombuffer(content, np.uint8).copy()), label


if __name__ == "__main__":
    run_app(app, sys.argv[1:])
