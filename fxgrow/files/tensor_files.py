"""Tensors in safetensors files: one file, or shards with an index as Hugging Face lays them out; no pickle anywhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fxgrow.errors import MISREAD, FileError, as_error
from fxgrow.writing import failing_as, usual_rights

INDEX = "model.safetensors.index.json"
PAIRS = "complex128"
"""In the metadata: the names of tensors that are stored as pairs of real numbers, for safetensors has no such dtype."""


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a file or of shards by name, each read when it is asked for. One file is open at a time.

    Parameters
    ----------
    path: a file, the index of shards, or a folder with either.

    Raises
    ------
    FileError: there is no such thing, or it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _found(Path(path))
        self._opened: tuple[Path, Any] | None = None
        self.metadata: dict[str, Any]
        self._homes: dict[str, Path]
        if self.path.suffix == ".json":
            self._homes, self.metadata = _indexed(self.path)
        else:
            with _readable(self.path):
                file = self._file(self.path)
                self._homes, self.metadata = dict.fromkeys(file.keys(), self.path), file.metadata() or {}
        with _readable(self.path):
            self._pairs = frozenset(json.loads(self.metadata.get(PAIRS, "[]")))

    def __getitem__(self, name: str) -> Tensor:
        path = self._homes[name]
        with _readable(path):
            tensor: Tensor = self._file(path).get_tensor(name)
        return torch.view_as_complex(tensor) if name in self._pairs else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def _file(self, path: Path) -> Any:
        if self._opened is None or self._opened[0] != path:
            self._opened = None  # the memory of the last one goes first
            self._opened = path, safe_open(path, framework="pt")
        return self._opened[1]


def in_pairs(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as safetensors can store them, and the metadata by which `TensorFiles` reads them as they were."""
    names = sorted(name for name, tensor in tensors.items() if tensor.dtype is torch.complex128)
    stored = {name: torch.view_as_real(tensors[name]) for name in names}
    return {**tensors, **stored}, {PAIRS: json.dumps(names)} if names else {}


def _found(path: Path) -> Path:
    """The file or the index that a path leads to."""
    if path.is_dir():
        inside = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
        if len(inside) != 1:
            raise FileError(
                f"the folder holds {len(inside)} files that could be meant",
                where=str(path),
                remedy="pass a safetensors file, or the index of shards",
            )
        return inside[0]
    if not path.is_file():
        raise FileError("there is no such file", where=str(path), remedy="check the path")
    return path


def _readable(path: Path) -> AbstractContextManager[None]:
    what, of = "the file is not readable as safetensors", (SafetensorError, OSError, ValueError)
    return as_error(FileError, what, where=str(path), remedy="save the model again", of=of)


def _indexed(path: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """The file of each tensor, by an index, and what else the index says."""
    what, of = "the index of shards is damaged", (OSError, *MISREAD)
    with as_error(FileError, what, where=str(path), remedy="save the model again", of=of):
        index = json.loads(path.read_text())
        homes = {str(name): path.parent / Path(file).name for name, file in index["weight_map"].items()}
        return homes, dict(index.get("metadata", {}))


def aligned(tensor: Tensor) -> Tensor:
    """A tensor at a place where torch puts its own: at others, some kernels round otherwise."""
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


def write_shards(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str], shard_size: int
) -> None:
    """Write tensors to shards in a new folder, which has its name once all of them are there.

    Parameters
    ----------
    tensors: each is let go of once its shard is written.
    shard_size: bytes that a shard is not to exceed, but for a tensor that does so by itself.

    Raises
    ------
    FileError: they cannot be written.
    """
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        with failing_as(folder):
            _fill(partial, tensors, metadata, shard_size)
            partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _fill(folder: Path, tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str], shard_size: int) -> None:
    """Write shards and their index."""
    shards: list[tuple[str, ...]] = []
    total = 0
    for shard in _gathered(tensors, shard_size):
        file = folder / str(len(shards))
        with usual_rights(file, file):
            save_file(shard, file, metadata={"format": "pt"})
        total += sum(map(_bytes, shard.values()))
        shards.append(tuple(shard))
        shard.clear()
    homes: dict[str, str] = {}
    for number, names in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / str(number)).rename(folder / name)
        homes |= dict.fromkeys(names, name)
    index = {"metadata": {"total_size": total, **metadata}, "weight_map": homes}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _gathered(tensors: Iterable[tuple[str, Tensor]], shard_size: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of one shard after the other."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + _bytes(tensor) > shard_size:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.contiguous()
        size += _bytes(tensor)
        del tensor
    if shard:
        yield shard


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
