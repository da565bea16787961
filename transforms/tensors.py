"""Grows one tensor: puts old entries in their new places, and makes new entries as the plan says.

`new = draw; new[ix_(old positions)] = old`, then the fills: first how consumers ignore new units, then what
producers emit for them. Nothing here decides anything.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from fxgrow.errors import OTHER_MODEL, PlanError
from fxgrow.modules.containers import along
from fxgrow.modules.devices import exact_dtype, sent
from fxgrow.planning.indexing import filled_by, mean_labels, old_positions, opposite_signs, source_positions
from fxgrow.planning.plan import Axis, Calibration, TensorGrowth

_READERS = frozenset({"silence", "opposite", "share"})


def grow_tensor(old: Tensor, growth: TensorGrowth, seed: str) -> Tensor:
    """The grown tensor, on the device and of the dtype of the old one.

    Raises
    ------
    PlanError: the tensor has not the shape that the plan was made for.
    """
    check_shape(growth.name, old, growth.old_shape)
    if old.is_meta:
        return torch.empty(growth.new_shape, dtype=old.dtype, device="meta")
    new = _drawn(old, growth, seed)
    places = [(old_positions(axis) >= 0).nonzero().flatten() for axis in growth.axes]
    scaled = old if growth.scale == 1.0 else old * growth.scale
    _at(new, places).copy_(scaled) if _contiguous(places) else new.index_put_(_open_mesh(places, new), scaled)
    for number, axis in enumerate(growth.axes):
        _fill_reader(new, growth, number, axis)
    for number, axis in enumerate(growth.axes):
        _fill_maker(new, number, axis)
    for calibration in growth.calibrations:
        multiply_units(new, growth, calibration)
    return new


def check_shape(
    name: str, tensor: Tensor | None, wanted: tuple[int, ...], says: str = "grows", remedy: str = OTHER_MODEL
) -> None:
    """Raise a PlanError where a tensor is missing, or has not the shape that a plan says."""
    shape = tuple(tensor.shape) if tensor is not None else None
    if shape != wanted:
        here = f"here it has {list(shape)}" if shape is not None else "here there is none"
        raise PlanError(f"the plan {says} a tensor of shape {list(wanted)}, {here}", where=name, remedy=remedy)


def drawn_units(growth: TensorGrowth, number: int) -> Tensor:
    """The positions on one axis at which units were drawn.

    >>> axes = Axis("grow", 2, 4, fill="draw"), Axis("grow", 3, 5, fill="silence")
    >>> drawn_units(TensorGrowth("w", axes, "normal"), 0)
    tensor([2, 3])
    """
    axis = growth.axes[number]
    normal = ~filled_by(axis, frozenset({*_READERS, "zero", "mean", "copy"}))
    drawn = filled_by(axis, frozenset({"draw", "pair"})) & normal
    return drawn.nonzero().flatten() if growth.draw == "normal" else torch.empty(0, dtype=torch.long)


def silent_entries(growth: TensorGrowth) -> Tensor:
    """Which entries of a grown tensor are zero so that old outputs ignore new units, as a mask.

    >>> axes = Axis("keep", 1, 1), Axis("grow", 2, 3, fill="silence")
    >>> silent_entries(TensorGrowth("w", axes, "normal"))
    tensor([[False, False,  True]])
    """
    spoken = torch.ones(growth.new_shape, dtype=torch.bool)
    for number, axis in enumerate(growth.axes):
        _silence(spoken, growth, number, axis)
    return ~spoken


def multiply_units(new: Tensor, growth: TensorGrowth, calibration: Calibration) -> None:
    """Multiply the weights of drawn units, in place."""
    axis = calibration.axis
    units = drawn_units(growth, axis)
    units = sent(units[(units >= calibration.start) & (units < calibration.stop)], new.device)
    new.index_copy_(axis, units, new.index_select(axis, units) * calibration.factor)


def drawn(like: Tensor, name: str, draw: str, seed: str) -> Tensor:
    """A tensor of entries drawn at the scale of those of another tensor of its shape."""
    if like.is_meta:
        return torch.empty_like(like)
    return _drawn(like, TensorGrowth(name, tuple(Axis("keep", size, size) for size in like.shape), draw), seed)


def _drawn(old: Tensor, growth: TensorGrowth, seed: str) -> Tensor:
    """The new tensor before old entries are placed: free entries at the scale of the old ones.

    That scale stays on the device: to read it would be to wait for all that the device has yet to do.
    """
    exact = torch.promote_types(old.dtype, exact_dtype(old.device))
    if growth.draw == "zeros":
        return old.new_zeros(growth.new_shape)
    if growth.draw == "level":
        level = old.mean(dtype=exact)
        level = torch.where(level.isfinite() & (level != 0), level, 1.0)
        return old.new_empty(growth.new_shape).copy_(level * growth.scale)
    if growth.draw == "normal":
        mean, deviation = None, _deviation(old, growth)
    else:
        mean, size = old.mean(dtype=exact), _root_mean_square(old.to(exact))
        deviation = (size**2 - mean.abs() ** 2).clamp(min=0).sqrt()
        if growth.draw == "factor":  # times zero, nothing would learn
            mean = torch.where(size != 0, mean, torch.ones_like(mean))
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{growth.name}".encode()))
    dtype = old.dtype if old.dtype.is_complex else torch.float32  # the same draw whatever the model's precision
    axis, units = _free_units(growth) or (0, None)
    shape = [len(units) if units is not None and k == axis else size for k, size in enumerate(growth.new_shape)]
    drawn = _normal(shape, dtype, mean, deviation, generator).to(torch.promote_types(old.dtype, dtype))
    if growth.draw == "normal" and drawn.numel():
        _level_out(drawn, growth, deviation)
    if units is None:
        return drawn.to(old.dtype)
    new = old.new_empty(growth.new_shape)
    if len(units) and _contiguous([units]):
        _taken(new, axis, units).copy_(drawn)  # straight into its place, whatever its precision
    else:
        new.index_copy_(axis, sent(units, new.device), drawn.to(new.dtype))
    return new


def _normal(
    shape: list[int], dtype: torch.dtype, mean: Tensor | None, deviation: Tensor, generator: torch.Generator
) -> Tensor:
    """What `normal_` draws on the CPU at a mean and deviation of another device, to the bit, on that device."""
    if dtype.is_complex:
        parts = _normal([*shape, 2], dtype.to_real(), None, deviation / math.sqrt(2), generator)
        return torch.view_as_complex(parts) if mean is None else torch.view_as_complex(parts) + mean
    exact = exact_dtype(deviation.device)
    precision = exact if math.prod(shape) < 16 else dtype  # so few are scaled before they are rounded
    drawn = sent(torch.empty(shape, dtype=precision).normal_(generator=generator), deviation.device)
    if mean is None:
        return drawn.mul_(deviation.to(precision)).to(dtype)
    mean, deviation = (number.to(precision).to(exact) for number in (mean, deviation))
    return (drawn.to(exact) * deviation + mean).to(dtype)


def _makers(growth: TensorGrowth) -> list[int]:
    """The axes that make new units."""
    return [k for k, axis in enumerate(growth.axes) if any(run.fill not in _READERS for run in axis.runs())]


def _free_units(growth: TensorGrowth) -> tuple[int, Tensor] | None:
    """The axis that makes units, and the new ones on it, where nothing but their weights is free; else None."""
    makes = _makers(growth)
    fills = {run.fill for axis in growth.axes for run in axis.runs()}
    if growth.draw != "normal" or len(makes) != 1 or fills & _READERS - {"silence"}:
        return None
    axis = growth.axes[makes[0]]
    free = (old_positions(axis) < 0) & ~filled_by(axis, frozenset({"zero", "mean", "copy"}))
    return makes[0], free.nonzero().flatten()


def _level_out(drawn: Tensor, growth: TensorGrowth, deviation: Tensor) -> None:
    """Give the weights of every unit the mean square that they were drawn at, as a mean over few misses it."""
    makes = _makers(growth)
    rows = drawn.movedim(makes[0], 0) if makes else drawn.unsqueeze(0)
    others = tuple(range(1, rows.ndim))
    sizes = torch.linalg.vector_norm(rows, dim=others) if others else rows.abs()
    wanted = deviation * math.sqrt(rows[0].numel())
    factors = torch.where(sizes > 0, sizes.reciprocal() * wanted, 1.0)
    rows.mul_(factors.reshape(-1, *[1] * (rows.ndim - 1)))


def _deviation(old: Tensor, growth: TensorGrowth) -> Tensor:
    """Standard deviation that gives new units the pre-activation variance of old ones, by fan-in."""
    size = _root_mean_square(old)
    usual = 1.0 / math.sqrt(max(1, old.numel() // max(1, old.shape[0])))
    return torch.where(size.isfinite() & (size != 0), size, usual) * relative_deviation(growth)


def relative_deviation(growth: TensorGrowth) -> float:
    """How large drawn entries are beside the old ones before growth: by default sqrt(D/D') for each reading axis."""
    if growth.draw != "normal":
        return 1.0
    if growth.spread is not None:
        return growth.spread
    reading = (axis for axis in growth.axes if any(run.fill in _READERS for run in axis.runs()))
    return math.prod(math.sqrt(axis.old / axis.new) for axis in reading)


def _root_mean_square(tensor: Tensor) -> Tensor:
    exact = torch.promote_types(tensor.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=None if exact is tensor.dtype else exact)
    return norm.to(exact_dtype(tensor.device)) / math.sqrt(max(1, tensor.numel()))


def _contiguous(places: list[Tensor]) -> bool:
    return all(len(p) == 0 or int(p[-1]) - int(p[0]) + 1 == len(p) for p in places)


def _at(new: Tensor, places: list[Tensor]) -> Tensor:
    for number, place in enumerate(places):
        new = new.narrow(number, int(place[0]) if len(place) else 0, len(place))
    return new


def _taken(new: Tensor, number: int, places: Tensor) -> Tensor:
    """The units at some positions of an axis; where they are next to each other, no copy of them."""
    if _contiguous([places]) and len(places):
        return new.narrow(number, int(places[0]), len(places))
    return new.index_select(number, sent(places, new.device))


def _open_mesh(places: list[Tensor], new: Tensor) -> tuple[Tensor, ...]:
    """Index tensors that address the outer product of positions on each axis (numpy's `ix_`)."""
    return tuple(along(sent(place, new.device), number, len(places)) for number, place in enumerate(places))


def _old_outputs(growth: TensorGrowth, reader: int) -> list[Tensor]:
    """Positions on every axis that an old output depends on: all on reading axes, else the old ones."""
    positions = []
    for number, axis in enumerate(growth.axes):
        reads = number == reader or any(run.fill in _READERS for run in axis.runs())
        positions.append(torch.arange(axis.new) if reads else (old_positions(axis) >= 0).nonzero().flatten())
    return positions


def _silence(new: Tensor, growth: TensorGrowth, number: int, axis: Axis) -> None:
    silent = filled_by(axis, frozenset({"silence"}))
    if silent.any():
        places = _old_outputs(growth, number)
        places[number] = silent.nonzero().flatten()
        zero = torch.zeros((), dtype=new.dtype, device=new.device)
        _at(new, places).zero_() if _contiguous(places) else new.index_put_(_open_mesh(places, new), zero)


def _fill_reader(new: Tensor, growth: TensorGrowth, number: int, axis: Axis) -> None:
    _silence(new, growth, number, axis)
    opposite = frozenset({"opposite"})
    if filled_by(axis, opposite).any():
        source = source_positions(axis, opposite)
        second = (source != torch.arange(axis.new)).nonzero().flatten()
        places = _old_outputs(growth, number)
        places[number] = source[second]
        first_half = new[_open_mesh(places, new)]
        places[number] = second
        signs = sent(opposite_signs(axis)[second].to(new.dtype), new.device)
        new.index_put_(_open_mesh(places, new), first_half * along(signs, number, new.ndim))
    share = frozenset({"share"})
    if filled_by(axis, share).any():
        source = source_positions(axis, share)
        shares = sent(_shares(source).to(new.dtype), new.device)
        new.copy_(new.index_select(number, sent(source, new.device)) * along(shares, number, new.ndim))


def _shares(source: Tensor) -> Tensor:
    """What each copy has of its original's weight: adds up to one, uneven, so that copies part in training.

    >>> _shares(torch.tensor([0, 1, 0])).tolist()
    [0.4, 1.0, 0.6]
    """
    order = torch.argsort(source, stable=True)
    place = torch.arange(len(source)) - torch.searchsorted(source[order], source[order])
    parts = torch.empty(len(source), dtype=torch.float64)
    parts[order] = 1 + place.double() / 2
    return parts / torch.zeros_like(parts).index_add_(0, source, parts)[source]


def _fill_maker(new: Tensor, number: int, axis: Axis) -> None:
    mean = filled_by(axis, frozenset({"mean"}))
    if mean.any():
        runs, run_of = torch.unique(mean_labels(axis), return_inverse=True)
        old, target = (old_positions(axis) >= 0).nonzero().flatten(), mean.nonzero().flatten()
        exact = torch.promote_types(new.dtype, exact_dtype(new.device))
        sums = new.new_zeros([len(runs) if k == number else size for k, size in enumerate(new.shape)], dtype=exact)
        sums.index_add_(number, sent(run_of[old], new.device), _taken(new, number, old).to(exact))
        counts = sent(torch.bincount(run_of[old], minlength=len(runs)).clamp(min=1).to(exact), new.device)
        means = (sums / along(counts, number, new.ndim)).to(new.dtype)
        new.index_copy_(number, sent(target, new.device), means.index_select(number, sent(run_of[target], new.device)))
    zero = filled_by(axis, frozenset({"zero"}))
    if zero.any():
        new.index_fill_(number, sent(zero.nonzero().flatten(), new.device), 0)
    for fill in ("pair", "copy"):
        if filled_by(axis, frozenset({fill})).any():
            source = source_positions(axis, frozenset({fill}))
            target = (source != torch.arange(axis.new)).nonzero().flatten()
            repeated = new.index_select(number, sent(source[target], new.device))
            new.index_copy_(number, sent(target, new.device), repeated)
