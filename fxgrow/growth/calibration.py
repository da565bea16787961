"""Calibration: one forward pass brings new units to the scale that old ones have on data, layer by layer.

Fan-ins and second moments say how large new weights have to be if a layer's inputs are uncorrelated. They are not, so a
draw of few units misses the old units' variance. On a batch the ratio can be measured, and new rows are multiplied to
make up for it. The first layer goes first, since every layer reads what the layers before it make by then.

Source: Mishkin, Matas, "All you need is a good init", ICLR 2016, who bring whole layers to unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.capture.inputs import given_inputs
from fxgrow.errors import CaptureError, as_error
from fxgrow.measure.borrowing import Borrowed
from fxgrow.measure.verification import in_precision, release
from fxgrow.modules.containers import flat_tensors, in_dtype
from fxgrow.modules.devices import callers_code, random_state_kept
from fxgrow.modules.switching import in_mode
from fxgrow.modules.tensors import named_tensors
from fxgrow.noise import WithoutNoise
from fxgrow.planning.indexing import old_positions
from fxgrow.planning.plan import Calibration, Plan, TensorGrowth
from fxgrow.rules.contraction import Contraction
from fxgrow.rules.registry import law_of_function
from fxgrow.transforms.tensors import drawn_units, multiply_units


def calibrate(grown: nn.Module, plan: Plan, batch: Any) -> Plan:
    """Rescale the new rows of a module that has just been grown; the plan that makes them so is returned.

    Every linear and convolutional layer of which some units were drawn has these brought to the mean variance, over
    batch and space, of its old units, in train mode without dropout; statistics of batch norms are left as they are.

    batch: a tensor, a tuple of arguments or a dict of keyword arguments, as the model is called in training.

    Raises
    ------
    CaptureError: the batch is not inputs that the model runs on, or there are no values, in it or in the model, or no
        units vary on it.
    """
    tensors = named_tensors(grown)
    args, kwargs = given_inputs(batch, "calibrate")
    if any(tensor.is_meta for tensor in (*tensors.values(), *flat_tensors((args, kwargs)))):
        raise CaptureError(
            "the batch to calibrate on, or the model, is on the meta device and has no values",
            where=type(grown).__name__,
            remedy="pass a batch of training data and a model with weights, or leave calibrate out",
        )
    like = next(p for p in nn.Module.parameters(grown) if p.dtype.is_floating_point)
    precision = torch.promote_types(like.dtype, torch.float32)
    twin = in_mode(in_precision(grown, precision, share=True), True)
    inside = named_tensors(twin)
    calibrating = Calibrating({id(inside[growth.name]): growth for growth in plan.tensors})
    args, kwargs = in_dtype((args, kwargs), precision, like.device)
    what = "the model does not run on the batch to calibrate on"
    remedy = "pass calibrate=BATCH as the model is called in training"
    failing = as_error(CaptureError, what, where=type(grown).__name__, remedy=remedy)
    with failing, torch.no_grad(), calibrating, Borrowed(twin), random_state_kept(like.device), callers_code():
        twin(*args, **kwargs)
    release(twin)
    if calibrating.tried and not any(calibrating.found.values()):
        raise CaptureError(
            "the units of no layer vary on the batch to calibrate on",
            where=type(grown).__name__,
            remedy="pass several samples of training data, all of finite values",
        )
    for growth in plan.tensors:
        if inside[growth.name].data_ptr() != tensors[growth.name].data_ptr():  # of another precision
            for calibration in calibrating.found.get(growth.name, ()):
                multiply_units(tensors[growth.name].detach(), growth, calibration)
    return _with(plan, {name: tuple(calibrations) for name, calibrations in calibrating.found.items()})


def _with(plan: Plan, calibrations: Mapping[str, tuple[Calibration, ...]], path: str = "") -> Plan:
    return replace(
        plan,
        tensors=tuple(replace(t, calibrations=calibrations.get(path + t.name, ())) for t in plan.tensors),
        parts=tuple((below, _with(part, calibrations, f"{path}{below}.")) for below, part in plan.parts),
    )


class Calibrating(WithoutNoise):
    """Rescales the new rows of each weight when they are first used."""

    def __init__(self, growths: Mapping[int, TensorGrowth]) -> None:
        super().__init__()
        self.growths = growths  # by the id of the weight
        self.found: dict[str, list[Calibration]] = {}
        self.tried = False  # whether any layer was met some of whose units were drawn

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        from fxgrow.measure.scale import variance_ratio

        value = super().__torch_function__(function, types, args, kwargs)
        law = law_of_function(function)
        if not isinstance(law, Contraction):
            return value
        called = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs or {})
        weight, bias = called["weight"], called.get("bias")
        axes = law.making(weight.ndim)
        if axes is None:
            return value
        makes, axis = axes
        parameter = weight if weight._base is None else weight._base
        growth = self.growths.get(id(parameter))
        if growth is None or value.shape[axis] != weight.shape[makes]:  # the latter: transposed, and in groups
            return value
        first = _first_row(weight, parameter, makes)
        calibrations = self.found.setdefault(growth.name, [])
        if first is None or any(
            done.start < first + weight.shape[makes] and first < done.stop for done in calibrations
        ):
            return value
        rows = range(first, first + weight.shape[makes])
        units, old_units = ([unit - first for unit in some if unit in rows] for some in _units(growth, makes))
        self.tried |= bool(units and old_units)
        ratio = variance_ratio(value, axis, units, old_units) if units and old_units else None
        if not ratio or not math.isfinite(ratio):
            return value
        calibrations.append(Calibration(makes, rows.start, rows.stop, ratio**-0.5))
        multiply_units(parameter, growth, calibrations[-1])
        return _multiplied(value, axis, units, bias, ratio**-0.5)


def _multiplied(value: Tensor, axis: int, units: list[int], bias: Tensor | None, factor: float) -> Tensor:
    """What a layer gives once the weights of some units are multiplied, from what it gave before."""
    places = torch.tensor(units, device=value.device)
    outputs = value.index_select(axis, places)
    if bias is not None:
        shift = bias[places].reshape([-1 if k == axis % value.ndim else 1 for k in range(value.ndim)])
        outputs = (outputs - shift) * factor + shift
    else:
        outputs = outputs * factor
    return value.index_copy_(axis, places, outputs)


def _first_row(weight: Tensor, parameter: Tensor, axis: int) -> int | None:
    """Where a weight begins in the parameter of which it is some rows; None where it is something else of it."""
    if weight is parameter:
        return 0
    if axis != 0 or weight.shape[1:] != parameter.shape[1:] or weight.stride() != parameter.stride():
        return None
    return int(weight.storage_offset() // parameter.stride(0))


def _units(growth: TensorGrowth, axis: int) -> tuple[list[int], list[int]]:
    """Positions of drawn units and of old ones."""
    old_units = (old_positions(growth.axes[axis]) >= 0).nonzero().flatten()
    return drawn_units(growth, axis).tolist(), old_units.tolist()
