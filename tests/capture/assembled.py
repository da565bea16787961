"""A captured model put back together with the weights of the original, nothing grown."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.capture import GrownGraphModule, assemble, capture
from fxgrow.measure.verification import relative_error
from fxgrow.modules.containers import flat_tensors
from fxgrow.modules.tensors import named_tensors, place
from fxgrow.noise import WithoutNoise

EXACT = 1e-12


def assembled(model: nn.Module, example_inputs: Any = None) -> GrownGraphModule:
    """The graph module that capture finds in a model, over copies of the model's tensors, ties kept."""
    captured = capture(model, example_inputs)
    copies: dict[int, Tensor] = {}
    for name, tensor in named_tensors(model).items():
        if id(tensor) not in copies:
            data = tensor.detach().clone()
            copies[id(tensor)] = nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
        place(captured.model, name, copies[id(tensor)])
    return assemble(captured.model, captured.graphs, form=captured.form)


def outputs_of(model: nn.Module, training: bool, /, *args: Any, **kwargs: Any) -> list[Tensor]:
    """Every output tensor of a copy of a model in a mode, noise off, on the plain path of torch's own layers."""
    twin = copy.deepcopy(model).train(training)
    with WithoutNoise():
        return [tensor.detach() for tensor in flat_tensors(twin(*args, **kwargs))]


def difference(original: nn.Module, result: nn.Module, training: bool, /, *args: Any, **kwargs: Any) -> float:
    """Worst relative error over all outputs, which must be as many."""
    expected = outputs_of(original, training, *args, **kwargs)
    outputs = outputs_of(result, training, *args, **kwargs)
    assert len(expected) == len(outputs) > 0
    return max(relative_error(b, a) for a, b in zip(expected, outputs, strict=True))


def assert_same_in_both_modes(original: nn.Module, result: nn.Module, /, *args: Any, **kwargs: Any) -> None:
    for training in (False, True):
        assert difference(original, result, training, *args, **kwargs) <= EXACT, "train" if training else "eval"


def normal(*shape: int, seed: int = 0) -> Tensor:
    """A float64 tensor of standard normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
