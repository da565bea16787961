"""One parameter as blocks of entries of one age: their norms, what a step does to them, scaling that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fxgrow.births import Birth, Region

_MOST_RECTANGLES = 8
"""A region of more rectangles than this is gathered and scattered instead."""


class Piece:
    """A rectangle of a parameter, or a grid of its entries, and a copy of it from before the step."""

    def __init__(self, view: Tensor, index: tuple[Tensor, ...] | None = None) -> None:
        self._view = view
        self._index = index
        self._saved: Tensor | None = None

    def read(self) -> Tensor:
        """The entries as they are."""
        return self._view if self._index is None else self._view[self._index]

    def keep(self) -> Tensor:
        """Copy the entries, to be compared with later."""
        if self._index is not None:
            self._saved = self.read()
        elif self._saved is None:
            self._saved = self._view.clone(memory_format=torch.contiguous_format)
        else:
            self._saved.copy_(self._view)
        return self._saved

    def change(self) -> Tensor:
        """What has been added to the entries since they were copied."""
        assert self._saved is not None
        return self.read() - self._saved

    def scale_change(self, rate: Tensor) -> None:
        """Make what has been added since `rate` times as much."""
        assert self._saved is not None
        if self._index is None:
            torch.lerp(self._saved, self._view, rate, out=self._view)
        else:
            self._view[self._index] = torch.lerp(self._saved, self.read(), rate)


class Tracked:
    """A parameter that has entries of several ages."""

    def __init__(self, name: str, parameter: Tensor, birth: Birth) -> None:
        self.name = name
        self.parameter = parameter
        self.birth = birth
        self._shape, self._regions = _split(birth)
        self.counts = birth.counts()
        self.stages = tuple(sorted(self.counts))
        self._address: int | None = None

    @property
    def younger(self) -> tuple[int, ...]:
        """Its stages but the oldest."""
        return self.stages[1:]

    def refresh(self) -> None:
        """Follow the parameter where its data have been moved."""
        data = self.parameter.detach()
        if self._address != data.data_ptr():
            self._address = data.data_ptr()
            self._pieces: dict[int, list[Piece]] = {stage: [] for stage in self.stages}
            for axis, sizes in reversed(list(enumerate(self._shape))):
                data = data.unflatten(axis, sizes)
            for region in self._regions:
                self._pieces[region.stage].extend(_pieces(region, data))

    def keep(self, stages: Sequence[int]) -> None:
        """Copy the entries of some stages."""
        for stage in stages:
            for piece in self._pieces[stage]:
                piece.keep()

    def norms(self, kept: Sequence[int] = ()) -> Iterator[Tensor]:
        """The norm of each stage's entries, oldest first; those of stages in `kept` are copied on the way."""
        for stage in self.stages:
            pieces = self._pieces[stage]
            yield _joined([norm(piece.keep() if stage in kept else piece.read()) for piece in pieces])

    def change_norms(self) -> Iterator[Tensor]:
        """The norm of what has been added to each stage's entries since they were copied, oldest first."""
        for stage in self.stages:
            yield _joined([norm(piece.change()) for piece in self._pieces[stage]])

    def scale_changes(self, rates: Sequence[Tensor]) -> None:
        """Scale what has been added to the younger stages, each by its rate."""
        for stage, rate in zip(self.younger, rates, strict=True):
            for piece in self._pieces[stage]:
                piece.scale_change(rate)


def _split(birth: Birth) -> tuple[list[tuple[int, ...]], tuple[Region, ...]]:
    """The sizes that each axis is seen as, and the regions then: periodic axes are split, so that rectangles do.

    >>> _split(Birth(((0, 0, 1, 0, 0, 1),)))[0]
    [(2, 3)]
    """
    sizes: list[tuple[int, ...]] = []
    axes: list[tuple[int, ...]] = []
    for stages in birth.axes:
        period = _period(stages)
        if len(set(stages)) > 1 and period < len(stages):
            sizes.append((len(stages) // period, period))
            axes.extend([(0,) * (len(stages) // period), stages[:period]])
        else:
            sizes.append((len(stages),))
            axes.append(stages)
    return sizes, Birth(tuple(axes)).regions()


def _period(stages: tuple[int, ...]) -> int:
    """The shortest length whose repetition makes up the stages."""
    size = len(stages)
    lengths = (length for length in range(1, size // 2 + 1) if size % length == 0)
    return next((length for length in lengths if stages[length:] == stages[:-length]), size)


def _pieces(region: Region, data: Tensor) -> Iterator[Piece]:
    if region.rectangles > _MOST_RECTANGLES:
        yield Piece(data, tuple(index.to(data.device) for index in region.positions()))
    else:
        yield from map(Piece, region.blocks(data))


def norm(tensor: Tensor) -> Tensor:
    """The Frobenius norm, in float32 at least; row by row where that is faster."""
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else None
    if tensor.ndim > 1 and not tensor.is_contiguous():
        first = tensor.ndim - 1  # the first of the last axes that lie in memory as one
        while first > 1 and tensor.stride(first - 1) == tensor.stride(first) * tensor.shape[first]:
            first -= 1
        tensor = torch.linalg.vector_norm(tensor, dim=tuple(range(first, tensor.ndim)), dtype=dtype)
    result: Tensor = torch.linalg.vector_norm(tensor, dtype=dtype)
    return result


def _joined(norms: list[Tensor]) -> Tensor:
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
