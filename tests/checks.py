"""What every grown model has to pass."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

import fxgrow
from fxgrow.measure.liveness import unmoved
from fxgrow.measure.verification import random_inputs, relative_error, release
from fxgrow.modules.containers import flat_tensors
from fxgrow.noise import WithoutNoise


def example(inputs: Any) -> tuple[Any, ...]:
    """Inputs in float64 for running, from a tuple of tensors."""
    return random_inputs((inputs, {}), 1)[0]


def worst_error(original: nn.Module, grown: nn.Module, inputs: tuple[Any, ...], training: bool) -> float:
    """Worst relative error over all outputs, on copies, dropout off."""
    outputs = []
    for model in (original, grown):
        twin = copy.deepcopy(model).train(training)
        with torch.no_grad(), WithoutNoise():
            outputs.append(list(flat_tensors(twin(*inputs))))
        release(twin)
    assert len(outputs[0]) == len(outputs[1]) > 0
    return max(relative_error(b, a) for a, b in zip(*outputs, strict=True))


def assert_grows(model: nn.Module, inputs: tuple[Any, ...], width: Any, init: str, least_ratio: float = 1.0) -> Any:
    """Grow, then check exactness in both modes, that nothing is dead, and that the original is untouched."""
    snapshot = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mode = model.training
    grown = fxgrow.grow(model, width=width, init=init, example_inputs=inputs, verify=False)
    assert model.training is mode
    assert snapshot.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, snapshot[name]) for name, tensor in model.state_dict().items())
    plan = fxgrow.report(grown).plan
    readouts = {readout.weight for readout in plan.readouts}
    assert [name for name in grown.state_dict() if name not in readouts] == list(model.state_dict()), "names"
    assert readouts <= grown.state_dict().keys()
    values = example(tuple(t[:1].expand(8, *t.shape[1:]) if t.numel() < 4096 else t for t in inputs))
    for training in (False, True):
        error = worst_error(model, grown, values, training)
        assert error <= 1e-10, f"{'train' if training else 'eval'}: {error:.1e}"
    still = unmoved(grown, values)
    assert still == [], still
    assert sum(p.numel() for p in grown.parameters()) == plan.totals.parameters_after
    assert plan.ratio >= least_ratio, f"{plan.ratio:.2f}\n{plan}"
    return grown
