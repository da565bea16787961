"""What every grown model has to pass."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.containers import flat_tensors
from fxgrow.proof.verification import WithoutNoise, random_inputs, relative_error, release


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


class Leaky(WithoutNoise):
    """Activations that can switch a unit off for good let a little through, so that luck plays no part."""

    _SMOOTH: ClassVar[dict[Any, Any]] = {
        F.hardswish: F.silu,
        F.hardsigmoid: F.sigmoid,
        **dict.fromkeys(
            (F.relu, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.hardtanh), F.leaky_relu
        ),
    }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self._SMOOTH:
            return self._SMOOTH[function](args[0])
        return super().__torch_function__(function, types, args, kwargs)


ROUNDING = 1e-10
"""Part of a tensor's largest step below which another step may be rounding alone."""


def unmoved(grown: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """Parameters whose new elements do not move in a few SGD steps on a random objective as the old ones do.

    Some elements cannot move, new or old: the bias of attention keys, rows of an embedding that no token picks.
    A bias before a BatchNorm moves only by rounding, so what stands still under batch statistics has to move
    under the running ones.
    """
    births = fxgrow.births(grown)
    moved = moved_by_sgd(grown.train(), inputs)
    if _still(births, moved):
        again = moved_by_sgd(grown.eval(), inputs)
        moved = {name: where | again[name] for name, where in moved.items()}
    return _still(births, moved)


def _still(births: dict[str, fxgrow.Birth], moved: dict[str, Tensor]) -> list[str]:
    still = []
    for name, where in moved.items():
        new = births[name].stages() > 0
        share_new, share_old = (where[part].sum().item() / max(1, part.sum().item()) for part in (new, ~new))
        if new.any() and share_new < 0.9 * share_old:
            still.append(f"{name}: {share_new:.0%} of the new elements moved, {share_old:.0%} of the old ones")
    return still


def moved_by_sgd(model: nn.Module, inputs: tuple[Any, ...], steps: int = 3, rate: float = 0.02) -> dict[str, Tensor]:
    """Which elements of each trainable parameter change in a few SGD steps, on a copy of the model.

    Each tensor moves by `rate` of its own norm at a step (LARS), so that deep in a random network no step is
    lost to rounding, and an element counts where its step is more than rounding beside the tensor's largest.
    """
    twin = copy.deepcopy(model)
    learning = {name: p for name, p in twin.named_parameters() if p.requires_grad}
    moved = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in learning.items()}
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(3)
    targets: list[Tensor] = []
    with Leaky():
        for _ in range(steps):
            optimizer.zero_grad()
            outputs = [t for t in flat_tensors(twin(*inputs)) if t.requires_grad]
            if not targets:
                targets = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in outputs]
            loss = sum(((t - goal) ** 2).mean() for t, goal in zip(outputs, targets, strict=True))
            loss.backward()
            for name, p in learning.items():
                if p.grad is not None and p.grad.any():
                    least = ROUNDING * torch.linalg.vector_norm(p.grad, float("inf"))
                    moved[name] |= (p.grad > least) | (p.grad < -least)
                    p.grad.mul_(rate * max(1.0, float(p.detach().norm())) / p.grad.norm())
            optimizer.step()
    release(twin)
    return moved


def assert_grows(model: nn.Module, inputs: tuple[Any, ...], width: Any, init: str, least_ratio: float = 1.0) -> Any:
    """Grow, then check exactness in both modes, that nothing is dead, and that the original is untouched."""
    snapshot = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mode = model.training
    grown = fxgrow.grow(model, width=width, init=init, example_inputs=inputs, verify=False)
    assert model.training is mode
    assert snapshot.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, snapshot[name]) for name, tensor in model.state_dict().items())
    assert list(grown.state_dict()) == list(model.state_dict()), "names"
    values = example(tuple(t[:1].expand(8, *t.shape[1:]) if t.numel() < 4096 else t for t in inputs))
    for training in (False, True):
        error = worst_error(model, grown, values, training)
        assert error <= 1e-10, f"{'train' if training else 'eval'}: {error:.1e}"
    still = unmoved(grown, values)
    assert still == [], still
    plan = fxgrow.report(grown).plan
    assert sum(p.numel() for p in grown.parameters()) == plan.totals.parameters_after
    assert plan.ratio >= least_ratio, f"{plan.ratio:.2f}\n{plan}"
    return grown
