"""Parameter groups: weight decay where it belongs, µP's learning rates, in the form that timm and torch expect."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import nn

from fxgrow.errors import TrainingError, check_one_of
from fxgrow.history import History, history_of
from fxgrow.planning.parameterization import PARAMETERIZATIONS
from fxgrow.training.parameters import remember_names, unwrapped

WIDTH_SCALE = "width_scale"
"""The entry of a group that says by what µP multiplied its rate; timm multiplies by one called `lr_scale` itself."""


def param_groups(
    model: nn.Module,
    weight_decay: float = 0.0,
    lr: float | None = None,
    *,
    no_weight_decay: Collection[str] = (),
    parameterization: str | None = None,
    optimizer: str = "adam",
) -> list[dict[str, Any]]:
    """Make parameter groups for any optimizer of torch or timm.

    As in timm, norms, biases and the names in the model's `no_weight_decay()` are not decayed; a grown model keeps the
    names of its original. With `lr`, the `lr` of each group is the learning rate times the factor that µP gives the
    group. The schedulers of torch and timm start from that. The factor is noted as `width_scale`, which no scheduler
    multiplies by once more.

    Parameters
    ----------
    weight_decay: of all parameters that are decayed.
    lr: the learning rate; required where µP scales some group.
    no_weight_decay: further names, or globs of names, that are not decayed.
    parameterization: "standard", "variance-transfer" or "rms" (one rate for all), or "mup" (rates that follow the
        widths since the seed); by default the one that the model was grown with.
    optimizer: "sgd" or "adam" (also for Adam's relatives and others that normalise gradients), for µP's table.

    Raises
    ------
    TrainingError: µP scales rates and no `lr` is given, or an argument means nothing.

    Source: Yang et al., "Tensor Programs V", 2022, table 3.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 4))
    >>> [(len(g["params"]), g["weight_decay"]) for g in fxgrow.param_groups(grown, weight_decay=0.05)]
    [(2, 0.05), (2, 0.0)]
    >>> [(g["lr"], len(g["params"])) for g in param_groups(grown, lr=0.1, parameterization="mup")]
    [(0.1, 3), (0.05, 1)]
    """
    plain = unwrapped(model)
    chosen = parameterization or parameterization_of(plain)
    check_one_of(PARAMETERIZATIONS, chosen, f"parameterization={chosen!r} is not a parameterization", TrainingError)
    check_one_of(("sgd", "adam"), optimizer, f"optimizer={optimizer!r} is not a row of µP's table", TrainingError)
    for name, value in (("weight_decay", weight_decay), ("lr", lr)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise TrainingError(f"{name}={value!r} is not a finite number of at least 0", remedy="pass one")
    remember_names(plain)
    scales = rate_scales(plain, optimizer) if chosen == "mup" else {}
    named = getattr(plain, "no_weight_decay", None)
    undecayed = (*no_weight_decay, *(named() if callable(named) else ()))
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in plain.named_parameters():
        if not parameter.requires_grad:
            continue
        bare = parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatch(name, glob) for glob in undecayed)
        decay, scale = 0.0 if bare else weight_decay, scales.get(name, 1.0)
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, WIDTH_SCALE: scale})
        group["params"].append(parameter)
        if lr is not None:
            group["lr"] = lr * scale
        elif scale != 1.0:
            raise TrainingError(
                f"µP scales the learning rate by {scale:g}, and there is none to scale",
                where=name,
                remedy="pass lr= to fxgrow.param_groups",
            )
    return list(groups.values())


def parameterization_of(model: nn.Module) -> str:
    """The parameterization that a model was last grown with; "standard" for others.

    "rms" is asked for each time, as it does not keep the function.
    """
    history = history_of(model)
    last = history.steps[-1].plan.parameterization if history is not None else "standard"
    return "standard" if last == "rms" else last


@dataclass(frozen=True)
class Fans:
    """How many times as many units as in the seed a weight makes (`out`) and reads (`into`).

    kind: "hidden" where both grow, "input" where only those it makes do (also biases and gains), "output" where
    only those it reads do, "fixed" where neither does.
    """

    out: float
    into: float

    @property
    def kind(self) -> str:
        if self.into > 1:
            return "hidden" if self.out > 1 else "output"
        return "input" if self.out > 1 else "fixed"


def fans(history: History) -> dict[str, Fans]:
    """The fans of every tensor that has grown, over all growths."""
    result: dict[str, Fans] = {}
    for step, growths in zip(history.steps, history.growths(), strict=True):
        output_axes = {place for group in step.plan.groups for place in group.where}
        for name, growth in growths.items():
            before = result.get(name, Fans(1.0, 1.0))
            out = math.prod(a.new / a.old for k, a in enumerate(growth.axes) if f"{growth.name}[{k}]" in output_axes)
            into = math.prod(
                a.new / a.old for k, a in enumerate(growth.axes) if f"{growth.name}[{k}]" not in output_axes
            )
            result[name] = Fans(before.out * out, before.into * into)
    return result


def rate_scales(model: nn.Module, optimizer: str) -> dict[str, float]:
    """µP's learning rates as multiples of the seed's, by parameter.

    | | input, bias, gain | hidden | output |
    | --- | --- | --- | --- |
    | SGD | fan-out | 1 | 1 / fan-in |
    | Adam | 1 | 1 / fan-in | 1 / fan-in |

    each fan in multiples of the seed's, so that a model that never grows trains as before.
    """
    history = history_of(model)
    if history is None:
        return {}
    sgd = optimizer == "sgd"
    return {
        name: {
            "input": fan.out if sgd else 1.0,
            "hidden": 1.0 if sgd else 1 / fan.into,
            "output": 1 / fan.into,
            "fixed": 1.0,
        }[fan.kind]
        for name, fan in fans(history).items()
    }
