"""Parameters as blocks of entries of one age: measures their norms and updates, and scales the updates.

Large parameters are cut into rectangles, of which only the younger are copied. Small ones, and those whose ages are
scattered, are joined into one vector with a rate for each entry, so that they cost a handful of operations together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from fxgrow.birth import Birth, Region
from fxgrow.modules.devices import exact_dtype
from fxgrow.modules.shards import local_part, local_ranges

_LEAST_ENTRIES = {"cpu": 4096}
_LEAST_ENTRIES_ELSEWHERE = 262144
"""Rectangles are worth an operation each if they have so many entries on average."""


@dataclass(frozen=True)
class Aged:
    """A parameter whose entries have ages.

    beside: where all of it was born with a block that a growth added, the parameter of the block that this one repeats:
    its oldest entries are what those of this one are compared with.
    """

    name: str
    parameter: Tensor
    birth: Birth
    beside: str | None = None

    @cached_property
    def counts(self) -> dict[int, int]:
        """How many entries it has of each stage, oldest first."""
        return self.birth.counts()

    @cached_property
    def stages(self) -> tuple[int, ...]:
        """The stages of its entries, oldest first."""
        return tuple(self.counts)

    @property
    def younger(self) -> tuple[int, ...]:
        """The stages that have a rate: all but the oldest, or all where the oldest entries are another's."""
        return self.stages[1:] if self.beside is None else self.stages

    @cached_property
    def local_birth(self) -> Birth:
        """The births of the entries that this process holds."""
        ranges = local_ranges(self.parameter)
        return Birth(tuple(axis[start:stop] for axis, (start, stop) in zip(self.birth.axes, ranges, strict=True)))

    def local(self) -> Tensor:
        """The entries that this process holds."""
        return local_part(self.parameter.detach())


class Blocks(Protocol):
    """Blocks of one or more parameters; a block is what a parameter has of one stage, and they have an order."""

    @property
    def members(self) -> Sequence[Aged]:
        """The parameters, in order."""

    def keep(self, younger_only: bool, gradients_come_later: bool) -> None:
        """Copy the entries, to be compared with after a step."""

    def squares(self) -> Tensor:
        """The sums of the squares of each block's entries, as they were copied, or else are. Shape `[blocks]`."""

    def change_squares(self) -> Tensor:
        """The sums of the squares of what has been added to each block's entries since they were copied."""

    def use(self, rates: Tensor) -> None:
        """From now on scale by these rates. Shape `[blocks]`; those of oldest blocks are not used."""

    def scale_changes(self) -> None:
        """Scale what has been added to the younger blocks since they were copied, each by its rate."""

    def release(self) -> None:
        """Let go of copies."""


def blocks_of(aged: Sequence[Aged]) -> list[Blocks]:
    """All parameters as blocks: large ones, and those only compared with, by themselves, the others together."""
    joined: dict[tuple[torch.device, torch.dtype], list[Aged]] = {}
    blocks: list[Blocks] = []
    for member in aged:
        shape, regions = _split(member.local_birth)
        local = member.local()
        least = _LEAST_ENTRIES.get(local.device.type, _LEAST_ENTRIES_ELSEWHERE)
        if not member.younger or local.numel() >= least * sum(region.rectangles for region in regions):
            blocks.append(Rectangles(member, shape, regions))
        else:
            joined.setdefault((local.device, local.dtype), []).append(member)
    return [*blocks, *map(Joined, joined.values())]


class Joined:
    """Small or scattered parameters, as one vector."""

    def __init__(self, members: Sequence[Aged]) -> None:
        self.members = members
        labels, first = [], 0
        for member in members:
            index = torch.searchsorted(torch.tensor(member.stages), member.local_birth.stages().flatten())
            labels.append(first + index)
            first += len(member.stages)
        self._labels = torch.cat(labels)
        self._rates = torch.ones(first)
        self._follow()
        self.release()

    def _follow(self) -> None:
        """Follow the parameters where they have been moved to another device or type."""
        like = self.members[0].local()
        if self._labels.device != like.device:
            self._labels = self._labels.to(like.device)
        if (self._rates.device, self._rates.dtype) != (like.device, like.dtype):
            self.use(self._rates.to(like))

    def release(self) -> None:
        self._saved: Tensor | None = None
        self._each: Tensor | None = None

    def _entries(self) -> Tensor:
        return torch.cat([member.local().reshape(-1) for member in self.members])

    def keep(self, younger_only: bool, gradients_come_later: bool) -> None:
        self._follow()
        self._saved = self._entries()

    def squares(self) -> Tensor:
        return self._summed(self._entries() if self._saved is None else self._saved)

    def change_squares(self) -> Tensor:
        assert self._saved is not None
        return self._summed(self._entries() - self._saved)

    def _summed(self, entries: Tensor) -> Tensor:
        squares = entries.to(exact_dtype(entries.device)).square()
        return torch.zeros(len(self._rates), dtype=squares.dtype, device=squares.device).index_add_(
            0, self._labels, squares
        )

    def use(self, rates: Tensor) -> None:
        self._rates, self._each = rates.to(self.members[0].local()), None

    def scale_changes(self) -> None:
        assert self._saved is not None
        if self._each is None:
            self._each = self._rates[self._labels]
        entries = self._entries()
        torch.lerp(self._saved, entries, self._each, out=entries)
        places = [member.local() for member in self.members]
        parts = entries.split([place.numel() for place in places])
        torch._foreach_copy_(places, [part.view(place.shape) for part, place in zip(parts, places, strict=True)])


class Piece:
    """A rectangle of a parameter, and a copy of it from before the step."""

    def __init__(self, view: Tensor) -> None:
        self.view = view
        self.saved: Tensor | None = None

    def change(self) -> Tensor:
        """What has been added to the entries since they were copied."""
        assert self.saved is not None
        return self.view - self.saved

    def keep(self) -> None:
        """Copy the entries, to be compared with later."""
        if self.saved is None:
            self.saved = self.view.clone(memory_format=torch.contiguous_format)
        else:
            self.saved.copy_(self.view)


class Rectangles:
    """A large parameter, cut into rectangles."""

    def __init__(self, member: Aged, shape: Sequence[tuple[int, ...]], regions: Sequence[Region]) -> None:
        self.members = (member,)
        self._stages, self._scaled = member.stages, member.younger
        self._shape, self._regions = shape, regions
        self._rates: Mapping[int, Tensor] = dict.fromkeys(self._stages, torch.ones(()))
        self.release()

    def release(self) -> None:
        self._address: int | None = None
        self._pieces: dict[int, list[Piece]] = {}
        self._moves = True
        self._follow()

    def _follow(self) -> None:
        """Follow the parameter where its data have been moved."""
        data = self.members[0].local()
        if self._address != data.data_ptr():
            self._address = data.data_ptr()
            self._pieces = {stage: [] for stage in self._stages}
            for axis, sizes in reversed(list(enumerate(self._shape))):
                data = data.unflatten(axis, sizes)
            for region in self._regions:
                self._pieces[region.stage].extend(map(Piece, region.blocks(data)))
            self._rates = {stage: rate.to(data) for stage, rate in self._rates.items()}
            labels = [place for place, stage in enumerate(self._stages) for _ in self._pieces[stage]]
            self._labels = torch.tensor(labels, device=data.device)

    def _younger(self) -> Iterator[Piece]:
        return itertools.chain.from_iterable(self._pieces[stage] for stage in self._scaled)

    def keep(self, younger_only: bool, gradients_come_later: bool) -> None:
        self._follow()
        self._moves = gradients_come_later or self.members[0].parameter.grad is not None
        if self._moves:
            pieces = self._younger() if younger_only else itertools.chain.from_iterable(self._pieces.values())
            for piece in pieces:
                piece.keep()

    def squares(self) -> Tensor:
        return self._summed(lambda piece: piece.view if piece.saved is None or not self._moves else piece.saved)

    def change_squares(self) -> Tensor:
        return self._summed(lambda piece: piece.change() if self._moves else piece.view.new_zeros(()))

    def _summed(self, part: Callable[[Piece], Tensor]) -> Tensor:
        local = self.members[0].local()
        total = torch.zeros(len(self._stages), dtype=exact_dtype(local.device), device=local.device)
        norms = [norm(part(piece)) for stage in self._stages for piece in self._pieces[stage]]
        if not norms:  # this process holds none of it
            return total
        return total.index_add_(0, self._labels, torch.stack(norms).to(total).square())

    def use(self, rates: Tensor) -> None:
        self._rates = dict(zip(self._stages, rates.to(self.members[0].local()).unbind(), strict=True))

    def scale_changes(self) -> None:
        if not self._moves:
            return
        for stage in self._scaled:
            rate = self._rates[stage]
            for piece in self._pieces[stage]:
                assert piece.saved is not None
                torch.lerp(piece.saved, piece.view, rate, out=piece.view)


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
