"""Whether new units can learn: a few steps of SGD on a random objective, and what moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.birth import Birth
from fxgrow.capture.inputs import inputs_after
from fxgrow.history import births, history_of
from fxgrow.measure.verification import random_inputs, release
from fxgrow.modules.containers import flat_tensors
from fxgrow.modules.devices import device_of
from fxgrow.modules.switching import copied, in_mode
from fxgrow.noise import WithoutNoise
from fxgrow.planning.plan import Plan


def leaky(x: Tensor) -> Tensor:
    """ReLU that lets a little of what is negative through; flat at zero, as ReLU is, where a unit is dead for good."""
    return F.leaky_relu(x, 0.1) * (x != 0)  # 0.01 in every layer of a chain would soon be rounding


class Leaky(WithoutNoise):
    """Activations that can switch a unit off for good let a little through, so that luck plays no part."""

    _SMOOTH: ClassVar[dict[Any, Any]] = {
        F.hardswish: F.silu,
        F.hardsigmoid: F.sigmoid,
        **dict.fromkeys((F.relu, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), leaky),
        F.hardtanh: lambda x: F.leaky_relu(x, 0.1),
        F.silu: lambda x: F.silu(x) + 0.01 * x,
        F.gelu: lambda x: F.gelu(x) + 0.01 * x,
        **dict.fromkeys((torch.tanh, Tensor.tanh), lambda x: torch.tanh(x) + 0.01 * x),
    }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self._SMOOTH:
            return self._SMOOTH[function](args[0])
        return super().__torch_function__(function, types, args, kwargs)


ROUNDING = 1e-13
"""Part of a tensor's largest step below which another step may be rounding alone, in float64.

What has no gradient but for rounding, the bias of attention keys, gets up to 3e-16 of the largest in the same tensor;
queries and keys of tokens that are much alike get 1e-11 of what values get, and do learn.
"""


def unmoved(
    grown: nn.Module,
    inputs: tuple[Any, ...],
    steps: int = 3,
    spend: bool = False,
    original: Callable[[], nn.Module] | None = None,
) -> list[str]:
    """Parameters whose new elements do not move in a few SGD steps on a random objective as the old ones do.

    Some elements cannot move, new or old: the bias of attention keys, rows of an embedding that no token picks.
    What is new altogether is held against what it repeats. A bias before a BatchNorm moves only by rounding, so what
    stands still under batch statistics has to move under the running ones. A model that was grown in parts is looked
    at part by part, on inputs of their own.

    spend: take the steps on the model itself, which is of no use then, and save the memory of a copy.
    original: makes what was grown once more, if it is needed: of a new block that comes last, what it repeats may
        have been the last one too, and have had entries that no output depends on.
    """
    history = history_of(grown)
    parts = history.steps[-1].plan.parts if history is not None else ()
    if not parts:
        plan = history.steps[-1].plan if history else None
        still = _unmoved(births(grown), grown, inputs, steps, _twins(plan), spend)
        if still and original is not None and plan is not None and plan.depth is not None:
            idle = _idle(original(), inputs, steps)
            for tensor in plan.depth.tensors:
                if tensor.twin in idle:
                    still.pop(tensor.name, None)
        return [f"{name}: {said}" for name, said in still.items()]
    lines = []
    for path, plan in parts:
        below = f"{path}."
        born = {name.removeprefix(below): birth for name, birth in births(grown).items() if name.startswith(below)}
        args, kwargs = random_inputs(inputs_after(plan), 1, device_of(grown))
        assert not kwargs
        part = grown.get_submodule(path)
        inside = _unmoved(born, part, args, steps, _twins(plan), spend)
        lines += [f"{below}{name}: {said}" for name, said in inside.items()]
    return lines


def _idle(model: nn.Module, inputs: tuple[Any, ...], steps: int) -> set[str]:
    """Parameters of which nothing moves; the model is of no use then."""
    modes = (moved_by_sgd(in_mode(model, mode), inputs, steps, spend=True) for mode in (True, False))
    first, second = ({name for name, where in moved.items() if not _count(where)} for moved in modes)
    return first & second


def _twins(plan: Plan | None) -> dict[str, str]:
    """Parameters of new blocks -> those that they repeat, by their names now."""
    if plan is None or plan.depth is None:
        return {}
    names = plan.depth.new_names
    return {tensor.name: names.get(tensor.twin, tensor.twin) for tensor in plan.depth.tensors}


def _unmoved(
    born: Mapping[str, Birth],
    grown: nn.Module,
    inputs: tuple[Any, ...],
    steps: int,
    twins: Mapping[str, str],
    spend: bool,
) -> dict[str, str]:
    def all_moved(moved: dict[str, Tensor]) -> bool:
        return not _still(born, moved, twins)

    moved = moved_by_sgd(in_mode(grown, True), inputs, steps, enough=all_moved, spend=spend)
    if not all_moved(moved):
        again = moved_by_sgd(in_mode(grown, False), inputs, steps, enough=all_moved, spend=spend)
        moved = {name: where | again[name] for name, where in moved.items()}
    return _still(born, moved, twins)


def _still(born: Mapping[str, Birth], moved: dict[str, Tensor], twins: Mapping[str, str]) -> dict[str, str]:
    """Parameters whose new elements do not move as the old ones do, and how many of each do."""
    still = {}
    for name, where in moved.items():
        if _all(where):
            continue
        old = [region for region in born[name].regions() if region.stage == 0]
        count_old = sum(region.count for region in old)
        count_new = where.numel() - count_old
        moved_old = sum(_count(block) for region in old for block in region.blocks(where))
        moved_new = _count(where) - moved_old
        share_new, share_old = moved_new / max(1, count_new), moved_old / max(1, count_old)
        twin = moved.get(twins.get(name, ""))
        if not count_old and twin is not None:
            share_old = _count(twin) / max(1, twin.numel())
        if count_new and share_new < 0.9 * share_old:
            still[name] = f"{share_new:.0%} of the new elements moved, {share_old:.0%} of the old ones"
    return still


def _all(where: Tensor) -> bool:
    """Whether all are true: the least of its bytes, forty times as fast as `Tensor.all`."""
    return not where.numel() or bool(where.view(torch.uint8).amin())


def _distance(output: Tensor, goal: Tensor) -> Tensor:
    """The mean square of the difference."""
    apart = torch.view_as_real(output - goal) if output.is_complex() else output - goal
    return (apart**2).mean()


def _count(where: Tensor) -> int:
    return int(torch.count_nonzero(where))


def moved_by_sgd(
    model: nn.Module,
    inputs: tuple[Any, ...],
    steps: int = 3,
    enough: Callable[[dict[str, Tensor]], bool] = lambda moved: False,
    spend: bool = False,
) -> dict[str, Tensor]:
    """Which elements of each trainable parameter change in a few SGD steps, on a copy of the model unless `spend`.

    Each tensor moves by a fiftieth of its own norm at a step (LARS), so that deep in a random network no step is
    lost to rounding, and an element counts where its step is more than rounding beside the tensor's largest.
    A tensor moves as soon as its gradient is there, which is then let go: no two gradients are held at a time.
    Once every element of it has moved it rests, which saves the work of its gradient.
    """
    twin, training = model if spend else copied(model), model.training
    learning = {name: p for name, p in twin.named_parameters() if p.requires_grad}
    moved = {name: torch.zeros(p.shape, dtype=torch.bool, device=p.device) for name, p in learning.items()}
    names = {id(p): name for name, p in learning.items()}

    def step(p: Tensor) -> None:
        assert p.grad is not None
        grad = p.grad.abs() if p.grad.is_complex() else p.grad
        lowest, highest = torch.aminmax(grad)
        largest = max(float(highest), -float(lowest))
        if largest:
            least = ROUNDING * largest
            moved[names[id(p)]] |= (grad > least) | (grad < -least)  # no copy of the gradient
            with torch.no_grad():
                p.sub_(p.grad, alpha=0.02 * max(1.0, float(p.norm())) / float(p.grad.norm()))
        p.grad = None

    handles = [p.register_post_accumulate_grad_hook(step) for p in learning.values()]
    generator = torch.Generator().manual_seed(3)
    goals: dict[int, Tensor] = {}
    for _ in range(steps):
        if not training:
            in_mode(in_mode(twin, True), False)  # lets go of what it keeps for the next call, such as biases
        with Leaky():
            outputs = list(flat_tensors(twin(*inputs)))
            goals = goals or {
                place: torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
                for place, output in enumerate(outputs)
                if output.requires_grad
            }
            loss = torch.stack([_distance(outputs[place], goal) for place, goal in goals.items()]).sum()
        if not loss.requires_grad:
            break
        loss.backward()
        if enough(moved):
            break
        for name, p in learning.items():
            p.requires_grad_(not _all(moved[name]))
    for p in learning.values():
        p.requires_grad_(True)
    for handle in handles:
        handle.remove()
    if not spend:
        release(twin)
    return moved
