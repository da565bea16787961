"""Tries an optimizer out on a small tensor, to see what its state means."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.modules.devices import random_state_kept
from fxgrow.training.parameters import OF_MEMBERS

_SLOW_VALUES = ("lookahead_slow_buff",)
"""State that a wrapper keeps in its base optimizer, which trying the base does not show: averaged parameters."""


@dataclass(frozen=True)
class EntryState:
    """What one entry of a parameter's state is.

    axes: the parameter's axis for each of its own, None for an axis of size one; () for a counter.
    kind: "statistic" (of the gradient's size: grows alike for g and -g), "values" (of the parameter itself), or
        "constant": a fresh parameter has `value` everywhere.
    """

    axes: tuple[int | None, ...]
    kind: str
    value: float = 0.0

    @staticmethod
    def unknown(key: str, shape: Sequence[int], of: Sequence[int]) -> EntryState | None:
        """What an entry may be that no trial has shown: of the parameter's shape, or nothing known."""
        if tuple(shape) != tuple(of):
            return None
        return EntryState(tuple(range(len(of))), "values" if key in _SLOW_VALUES else "constant")


def trial_of(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> Optimizer:
    """An optimizer of the same class and options that holds one parameter and has no state or hooks."""
    trial = copy.copy(optimizer)
    options = copy.deepcopy({key: value for key, value in group.items() if key not in OF_MEMBERS})
    trial.__dict__.update(
        _optimizer_step_pre_hooks={},
        _optimizer_step_post_hooks={},
        param_groups=[{**options, "params": [parameter]}],
        state=defaultdict(dict),
    )
    return trial


def starting_state(optimizer: Optimizer, parameters: Sequence[Tensor]) -> Mapping[Tensor, dict[str, Any]]:
    """What an optimizer keeps of parameters before its first step; what it notes on them themselves is noted anew."""
    wanted = inspect.signature(type(optimizer)).parameters
    options = {name: value for name, value in optimizer.defaults.items() if name in wanted}
    try:
        made = type(optimizer)(list(parameters), **options) if parameters else None
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        made = None
    return {} if made is None else made.state


class Trials:
    """What the entries of parameters' states are, each kind of parameter tried once: trying waits for the device."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._known: dict[tuple[Any, ...], dict[str, EntryState]] = {}

    def entries_of(self, group: dict[str, Any], parameter: Tensor) -> dict[str, EntryState]:
        """As the function of that name; the group has to stay as it is."""
        key = (id(group), tuple(distinct_sizes(parameter.shape)), parameter.dtype, parameter.device)
        if key not in self._known:
            self._known[key] = entries_of(self._optimizer, group, parameter)
        return self._known[key]


def entries_of(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> dict[str, EntryState]:
    """What the entries of a parameter's state are; empty where the optimizer cannot be tried out.

    A small tensor of the same rank, its sizes told apart, takes a first step with gradients 0, g and -g.
    """
    shape = distinct_sizes(parameter.shape)
    generator = torch.Generator().manual_seed(0)
    value, gradient = (torch.randn(shape, generator=generator).to(parameter) for _ in range(2))
    states, values = [], [value]
    for sign in (0.0, 1.0, -1.0):
        twin = nn.Parameter(value.clone())
        twin.grad = gradient * sign
        trial = trial_of(optimizer, {**group, "weight_decay": 0.0}, twin)
        trial.param_groups[0].pop("step", None)
        try:
            with random_state_kept(twin.device):
                trial.step()
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
            return {}
        states.append(trial.state[twin])
        values.append(twin.detach())
    still, up, down = states
    return {
        key: entry
        for key in still
        if isinstance(still[key], Tensor)
        and (entry := _entry(values[:2], shape, still[key], up.get(key), down.get(key))) is not None
    }


def _entry(values: Sequence[Tensor], shape: Sequence[int], still: Tensor, up: Any, down: Any) -> EntryState | None:
    """`values`: the parameter's before and after a step without gradient."""
    axes = _axes(shape, tuple(still.shape))
    if axes is None:
        return None
    if any(still.shape == value.shape and torch.equal(still.to(value), value) for value in values):
        return EntryState(axes, "values")
    changed = isinstance(up, Tensor) and isinstance(down, Tensor) and not torch.equal(up, still)
    if changed and torch.allclose(up, down, rtol=1e-5, atol=0.0):
        return EntryState(axes, "statistic")
    first = still.flatten()[0]
    return EntryState(axes, "constant", float(first)) if bool((still == first).all()) else None


def distinct_sizes(shape: Sequence[int]) -> list[int]:
    """Small sizes, no two the same, in the order of the sizes in `shape`; ones stay.

    >>> distinct_sizes((512, 1, 512, 3, 3))
    [67, 1, 68, 4, 5]
    """
    result = list(shape)
    for rank, (size, axis) in enumerate(sorted((size, axis) for axis, size in enumerate(shape))):
        result[axis] = 1 if size == 1 else min(size, 64) + rank
    return result


def _axes(shape: Sequence[int], own: Sequence[int]) -> tuple[int | None, ...] | None:
    """Which axis of the parameter each axis of a state entry is, by its size; None if some is no axis of it."""
    if len(own) == len(shape) and all(a in (b, 1) for a, b in zip(own, shape, strict=True)):
        return tuple(axis if size == shape[axis] else None for axis, size in enumerate(own))
    if not own:
        return ()
    if all(size in shape and size > 1 for size in own):
        return tuple(shape.index(size) for size in own)
    return None
