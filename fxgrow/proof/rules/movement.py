"""Ops that move entries and compute nothing: the proof lets them move labels.

Each entry of an operand is labelled by its place. The original's node moves the labels of the original tensor, the
grown graph's node those of the grown tensor, each with its own numbers as arguments. Then every old entry can be
looked up, whatever the op and its arguments are.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fxgrow.modules.containers import along, each_of_kind, has_fractions
from fxgrow.proof.claims import (
    Claim,
    Map,
    Moved,
    Refuted,
    Unproved,
    inverse,
    is_new,
    one_number,
    same_map,
    settled,
    unchanged,
)
from fxgrow.proof.comparing import Both, plain
from fxgrow.proof.known_values import repeated
from fxgrow.proof.node_pair import Use
from fxgrow.rules.calls import run
from fxgrow.rules.law import Law
from fxgrow.rules.stretching import NewTensors

CPU = torch.device("cpu")


def moved(law: Law, use: Use) -> Any:
    """What is claimed of the outputs of an op that only moves entries; operands in any containers."""
    use.rule = "moves entries"
    operands = use.claims()
    claims = [use.equal(claim) for claim in operands]
    if not claims:
        raise Unproved(f"{use.name} is given no tensor")
    indices = [None, *map(_index, operands[1:])]
    before = claims[0].moved if len(claims) == 1 else None  # both moves together are looked at as one
    plain = use.new_module is None and before is None and all(index is None for index in indices)
    key = (use.new.target, _summary(use, iter(claims))) if plain else None
    if key is None or key not in use.memory:
        old, new = (_labels([getattr(c, shape) for c in claims], indices) for shape in ("old", "new"))
        if before is not None:
            old, new = (lambda claim: before.old), (lambda claim: before.new)
        old_out = run(use.old, use.old_module, *arranged(use, old, old=True))
        new_out = run(use.new, use.new_module, *arranged(use, new, old=False))
        use.memory[key] = _each(_Sources(claims if before is None else [before.source]), old_out, new_out)
    use.checked("every old entry is where the original has it")
    return use.memory[key]


def _summary(use: Use, claims: Iterator[Claim]) -> str:
    """Everything that decides where entries go and what is known of them, as something to look up."""

    def known(item: Claim | Both) -> Any:
        if isinstance(item, Both):
            return item.old, item.new
        claim = next(claims)
        tables = [{axis: _digest(places) for axis, places in each.items()} for each in (claim.copies, claim.means)]
        facts = [_digest(tensor) for tensor in (*claim.maps, claim.zero)]
        return claim.old, claim.new, facts, tables, claim.nonnegative, claim.uniform

    return repr(each_of_kind([use.args, use.kwargs], (Claim, Both), known))


def _digest(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    stored: Any = tensor.contiguous().numpy()
    return tuple(tensor.shape), hashlib.blake2b(stored, digest_size=16).digest()


def overwritten(law: Law, use: Use) -> Claim:
    """`x[index] = y`: what x is afterwards."""
    use.rule = "writes entries"
    x, value = use.equal(use.claim()), use.argument(2, "value")
    entries = use.equal(value) if isinstance(value, Claim) else unchanged(())
    if isinstance(value, Both) and not value.same:
        raise Refuted(f"{value.new} is written, it was {value.old}")
    afterwards = []
    for old in (True, False):
        shapes = [c.old if old else c.new for c in (x, entries)]
        labels, source = _numbered(shapes)
        index = plain(use.argument(1, "index"))
        labels[index.old if old else index.new] = source
        afterwards.append(labels)
    use.checked("every old entry is where the original has it")
    return _claim(_Sources([x, entries]), *afterwards)


def written_through(whole: Claim, view: Claim, after: Claim, index: Any) -> Claim:
    """What a tensor is once `x[index]`, its view, was written to. `index` must leave whole what has grown."""
    items = index if isinstance(index, tuple) else (index,)
    everything = slice(None)
    if whole.held is not None or not all(isinstance(item, slice) for item in items):
        raise Unproved("it writes to a view that is not made of slices")
    if any(item != everything and whole.maps[axis] is not None for axis, item in enumerate(items)):
        raise Unproved("it writes to a part of what has grown")
    if after.held is not None or not all(map(same_map, view.maps, after.maps)) or view.new != after.new:
        raise Unproved("what it writes has its old units elsewhere")
    zero = None
    if whole.zero is not None and after.zero is not None:
        zero = whole.zeros().expand(whole.new).clone()
        zero[index] = after.zeros().expand(after.new)
    return Claim(whole.old, whole.new, whole.maps, zero)


def joined(claims: list[Claim], axis: int) -> Claim:
    """Several tensors as one along an axis."""
    old, new = (torch.cat([*_numbered(shapes)], axis) for shapes in ([c.old for c in claims], [c.new for c in claims]))
    return _claim(_Sources(claims), old, new)


def selected(x: Claim, axis: int, positions: Tensor) -> Claim:
    """Some positions on an axis of the grown tensor, beside all that the original has there."""
    old, new = (next(_numbered([shape])) for shape in (x.old, x.new))
    return _claim(_Sources([x]), old, new.index_select(axis, positions))


def halves(x: Claim, axis: int) -> tuple[Claim, Claim]:
    """The two halves of an axis."""
    labels = (next(_numbered([shape])).chunk(2, axis) for shape in (x.old, x.new))
    first, second = (_claim(_Sources([x]), old, new) for old, new in zip(*labels, strict=True))
    return first, second


def made(law: NewTensors, use: Use) -> Claim:
    """A new tensor; of one filled with a number, the same in both models, it is left open where old units are."""
    if law.why_not:
        use.rule = "made of sizes alone"
        use.same_numbers()
        return unchanged(use.value.shape)
    use.rule = "filled with a number"
    old, new = (
        run(node, None, *arranged(use, lambda claim: torch.zeros(1), old=node is use.old))
        for node in (use.old, use.new)
    )
    both = torch.cat([old.flatten(), new.flatten()])
    if not len(both) or old.ndim != new.ndim or any(a < b for a, b in zip(new.shape, old.shape, strict=True)):
        raise Unproved(f"its shape is {list(new.shape)}, it was {list(old.shape)}")
    if bool((old.flatten() != both[0]).any()):
        raise Unproved("its entries are not one number")
    if bool((both != both[0]).any()):
        raise Refuted(f"it is filled with {new.flatten()[0].item()}, it was with {both[0].item()}")
    use.checked(f"every entry is {both[0].item()}")
    return one_number(old.shape, new.shape, tuple(map(first, old.shape, new.shape)), not bool(both[0]))


def _index(claim: Claim) -> Tensor | None:
    """The values of a tensor of whole numbers that is the same in both models: what entries are picked by."""
    held = claim.held
    if held is None or has_fractions(held.new) or not torch.equal(held.old, held.new):
        return None
    return held.new.cpu()


def _labels(shapes: list[tuple[int, ...]], indices: Sequence[Tensor | None]) -> Callable[[Claim], Tensor]:
    """Tensors whose entries are numbered through, over several shapes in turn; indices keep their values."""
    numbered = zip(_numbered(shapes), indices, strict=True)
    made = iter([labels if index is None else index for labels, index in numbered])
    return lambda claim: next(made)


def _numbered(shapes: list[tuple[int, ...]]) -> Iterator[Tensor]:
    for start, shape in zip(_starts(shapes), shapes, strict=True):
        yield torch.arange(start, start + math.prod(shape)).reshape(shape)


def arranged(use: Use, value_of: Callable[[Claim], Tensor], old: bool, device: torch.device = CPU) -> tuple[Any, Any]:
    """The arguments of one of the two nodes, with a value in the place of each tensor; they are asked for in order.

    device: in the place of any other, which is the meta device where a graph was captured.
    """
    node = use.old if old else use.new

    def put(item: Claim | Both) -> Any:
        if isinstance(item, Claim):
            return value_of(item)
        value = item.old if old else item.new
        return device if isinstance(value, torch.device) else value

    args = [each_of_kind(item, (Claim, Both), put) for item in use.args[: len(node.args)]]
    kwargs = {name: device if name == "device" else item for name, item in use.kwargs.items() if name in node.kwargs}
    return args, each_of_kind(kwargs, (Claim, Both), put)


class _Sources:
    """Look-up tables over the entries of all operands, by label."""

    def __init__(self, claims: list[Claim]) -> None:
        self.claims = claims
        before, after = (_starts([getattr(claim, shape) for claim in claims]) for shape in ("old", "new"))
        self.origin = self._entries(
            torch.where(is_new(claim), -1, start + _place(claim, claim.map, claim.old))
            for claim, start in zip(claims, before, strict=True)
        )
        self.zero = self._entries(c.zeros() for c in claims) if any(c.zero is not None for c in claims) else None
        equal = (start + _place(claim, claim.copies_of, claim.new) for claim, start in zip(claims, after, strict=True))
        self.copy = self._entries(equal) if any(claim.copies for claim in claims) else None

    def _entries(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors that broadcast to the operands, as one look-up table."""
        return torch.cat([t.expand(c.new).flatten() for t, c in zip(tensors, self.claims, strict=True)])

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the axis with means of each: by label, the position on it, the place of the rest, and if it is a mean."""
        axes = [(next(iter(claim.means)), claim) for claim in self.claims]
        labels = _numbered([claim.new for claim in self.claims])
        return (
            self._entries(along(torch.arange(claim.new[axis]), axis, claim.rank) for axis, claim in axes),
            self._entries(label.narrow(axis, 0, 1) for label, (axis, _) in zip(labels, axes, strict=True)),
            self._entries(along(claim.means[axis], axis, claim.rank) for axis, claim in axes),
        )


def _starts(shapes: list[tuple[int, ...]]) -> list[int]:
    """The first label of each of some tensors whose entries are numbered through."""
    return [*itertools.accumulate(map(math.prod, shapes), initial=0)][:-1]


def _place(claim: Claim, position_of: Callable[[int], Tensor], shape: tuple[int, ...]) -> Tensor:
    """Flat row-major places of the outer product of positions, one an axis."""
    places = (position_of(axis) * math.prod(shape[axis + 1 :]) for axis in range(claim.rank))
    zero = torch.zeros((1,) * claim.rank, dtype=torch.long)
    return sum((along(place, axis, claim.rank) for axis, place in enumerate(places)), start=zero)


def _each(sources: _Sources, old: Any, new: Any) -> Any:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return _claim(sources, old, new)
    if isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)) and len(old) == len(new):
        return tuple(_each(sources, a, b) for a, b in zip(old, new, strict=True))
    if old is None and new is None:
        return Both(None, None)
    raise Unproved("the two models make different numbers of pieces")


def _claim(sources: _Sources, old: Tensor, new: Tensor) -> Claim:
    if old.ndim != new.ndim:
        raise Unproved(f"the shape is {list(new.shape)}, it was {list(old.shape)}")
    origin = _looked_up(sources.origin, new)
    maps = _maps(origin, old)
    kept = origin
    for axis, position in enumerate(maps):
        if position is not None:
            kept = kept.index_select(axis, inverse(position, old.shape[axis]))
    if not torch.equal(kept, old):
        raise Unproved("old entries are not where the original has them")
    result = Claim(
        tuple(old.shape), tuple(new.shape), maps, nonnegative=all(claim.nonnegative for claim in sources.claims)
    )
    zero = _looked_up(sources.zero, new) & is_new(result) if sources.zero is not None else None
    copies: dict[int, Tensor] = {}
    stretched = new.numel() > len(sources.origin)  # an entry is in several places, which are copies of each other
    if sources.copy is not None or stretched:
        classes = new if sources.copy is None else _looked_up(sources.copy, new)
        copies = {axis: repeated(classes, axis) for axis in range(new.ndim) if maps[axis] is not None}
    means = _means(sources, new, maps)
    lost = len(sources.claims) == 1 and bool(sources.claims[0].means) and not means and new.shape != old.shape
    moved = Moved(sources.claims[0], old, new) if lost else None
    if all(claim.uniform for claim in sources.claims):
        return one_number(result.old, result.new, maps, bool(sources.zero is not None and sources.zero.all()))
    return Claim(result.old, result.new, maps, zero, copies, means, nonnegative=result.nonnegative, moved=moved)


def _looked_up(table: Tensor, labels: Tensor) -> Tensor:
    """`table[labels]`, several times as fast."""
    return table.index_select(0, labels.flatten()).reshape(labels.shape)


def _maps(origin: Tensor, old: Tensor) -> tuple[Map, ...]:
    """The map of each axis, read off the lines through one old entry."""
    if old.numel() == 0:
        if origin.numel() or any(after < before for before, after in zip(old.shape, origin.shape, strict=True)):
            raise Unproved("an empty tensor grew")
        return tuple(map(first, old.shape, origin.shape))  # of no entries anything holds
    here = _first_of(origin, lambda labels: labels >= 0)
    if here is None:
        raise Unproved("no old entry is left")
    label = int(origin[here])
    there = _first_of(old, lambda labels: labels == label)
    if there is None:
        raise Unproved("old entries are not where the original has them")
    maps: list[Map] = []
    for axis in range(old.ndim):
        new_line = origin[tuple(slice(None) if k == axis else int(here[k]) for k in range(old.ndim))]
        old_line = old[tuple(slice(None) if k == axis else int(there[k]) for k in range(old.ndim))]
        maps.append(_matched(new_line, old_line))
    return tuple(maps)


def _first_of(labels: Tensor, wanted: Callable[[Tensor], Tensor]) -> tuple[int, ...] | None:
    """Where the first label is that is wanted; most often it is the first of all."""
    first = (0,) * labels.ndim
    if labels.numel() and bool(wanted(labels[first])):
        return first
    places = wanted(labels).flatten().nonzero()
    return tuple(map(int, torch.unravel_index(places[0], labels.shape))) if len(places) else None


def first(before: int, after: int) -> Map:
    return settled(torch.where(torch.arange(after) < before, torch.arange(after), -1))


def _matched(new_line: Tensor, old_line: Tensor) -> Map:
    """The n-th occurrence of a label on a new line is the n-th on the old one."""
    if torch.equal(new_line, old_line):
        return None
    size = len(new_line) + len(old_line)
    new, (old, order) = _occurrences(new_line, size), _occurrences(old_line, size).sort()
    place = torch.searchsorted(old, new).clamp_(max=len(old) - 1)
    matches = old[place] == new
    if int(matches.sum()) != len(old):
        raise Unproved("old entries are not where the original has them")
    return settled(torch.where(matches, order[place], -1))


def _occurrences(line: Tensor, most: int) -> Tensor:
    """A number for each place, the same on all lines for the n-th occurrence of a label; there are fewer than most."""
    labels, order = line.sort(stable=True)
    nth = torch.arange(len(line)) - torch.searchsorted(labels, labels)
    return torch.empty_like(line).index_copy_(0, order, labels * most + nth)


def _means(sources: _Sources, new: Tensor, maps: tuple[Map, ...]) -> dict[int, Tensor]:
    """Axes of the output along which new positions still hold the mean of the old ones."""
    if not all(claim.means for claim in sources.claims):
        return {}
    means: dict[int, Tensor] = {}
    place, rest, mean = sources.means()
    for axis, position in enumerate(maps):
        if position is None:
            continue
        line = along(torch.arange(new.shape[axis]), axis, new.ndim)
        if bool((place[new] == line).all()) and bool((rest[new] == rest[new].narrow(axis, 0, 1)).all()):
            where = mean[new]
            for other in range(new.ndim):
                if other != axis:
                    where = where.all(other, keepdim=True)
            if bool(where.any()):
                means[axis] = where.flatten()
    return means
