"""Settings for training by growing: what can be set, and what papers have set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fxgrow.curves import check_counts, check_start
from fxgrow.errors import FxgrowError
from fxgrow.schedule import Schedule

CURVES = ("exponential", "linear", "none")
OPTIMIZERS = ("sgd", "adamw")
LR_CURVES = ("cosine", "plateau")


class SettingsError(FxgrowError, ValueError):
    """A setting means nothing, or belongs to another run."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a training run computes.

    data, samples: the data set, and how many of its images to train on (all).
    model: the large model, as `fxgrow.zoo.find` takes it. options: for its constructor.
    growth: how widths go from `start` to 1: "exponential" (by `width_rate` a stage), "linear", or "none": the large
        model from the first step on. stages, epochs, epoch_rate, first_epochs: as in `fxgrow.Schedule.exponential`.
    batch_size, largest_batch, batch_rates: as there.
    init, parameterization: of new units, as in `fxgrow.grow`. rates: rule of `fxgrow.adapt_rates`. carry: keep the
        optimizer's state through growth (else it starts afresh at each stage). verify: each growth.
    optimizer: "sgd" or "adamw". lr: at the start. lr_curve: over all steps, whatever grows, it falls along half a
        "cosine"; or it stays for a "plateau" and falls to zero in a straight line over the last `decay` of the steps.
    threads: of the CPU (as torch chooses); the last bits of sums depend on it, and small networks want one.
    """

    data: str = "digits"
    samples: int | None = None
    model: str = "fxgrow.zoo.networks:resnet8"
    options: tuple[tuple[str, Any], ...] = ()
    growth: str = "exponential"
    start: float = 0.25
    stages: int = 9
    width_rate: float = 0.2
    epochs: int = 160
    epoch_rate: float = 0.2
    first_epochs: int | None = None
    batch_size: int = 32
    largest_batch: int | None = None
    batch_rates: str = "keep"
    init: str = "mirror"
    parameterization: str = "variance-transfer"
    rates: str = "norm"
    carry: bool = True
    verify: bool = True
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_curve: str = "cosine"
    decay: float = 0.4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        check_start(self.start)
        check_counts(batch_size=self.batch_size, epochs=self.epochs, stages=self.stages)
        for name, given, known in (
            ("growth", self.growth, CURVES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("lr_curve", self.lr_curve, LR_CURVES),
        ):
            if given not in known:
                raise SettingsError(f"{name}={given!r} is not known", remedy=f"use one of {', '.join(known)}")
        if not 0 < self.decay <= 1:
            raise SettingsError(f"decay={self.decay!r} is not a part of training", remedy="pass a number such as 0.4")
        for name in ("lr", "momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name}={getattr(self, name)!r} is not a number from 0 on", remedy="pass one")

    def schedule(self) -> Schedule:
        """The schedule, not yet toward a model.

        Raises
        ------
        ScheduleError: the numbers make none.
        """
        batches = (self.batch_size, self.largest_batch, self.batch_rates)
        common: dict[str, Any] = {
            "epochs": self.epochs, "epoch_rate": self.epoch_rate, "first_epochs": self.first_epochs,
            "batch_size": self.batch_size, "largest_batch": self.largest_batch, "batch_rates": self.batch_rates,
        }  # fmt: skip
        if self.growth == "none":
            return Schedule.of([1.0], [self.epochs], *batches)
        if self.growth == "linear":
            return Schedule.linear(self.stages, self.start, **common)
        return Schedule.exponential(self.stages, self.start, self.width_rate, **common)

    def as_data(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return {**asdict(self), "options": dict(self.options)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Settings:
        """The settings that `as_data` wrote."""
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        return cls(**{**given, "options": tuple(dict(given.get("options", {})).items())})


_DIGITS = Settings(threads=1)
_CIFAR = replace(
    _DIGITS,
    data="cifar10",
    model="fxgrow.zoo.networks:resnet20",
    epochs=160,
    first_epochs=8,
    batch_size=128,
    threads=None,
)
_IMAGENET = replace(_CIFAR, data="imagenet", model="torchvision/resnet50", epochs=90, first_epochs=4, batch_size=256)

RECIPES: Mapping[str, Settings] = {
    "digits": _DIGITS,
    "cifar10-resnet20": _CIFAR,
    "cifar100-resnet18": replace(_CIFAR, data="cifar100", model="torchvision/resnet18", epochs=200, first_epochs=10),
    "imagenet-resnet50": _IMAGENET,
    "imagenet-mobilenetv1": replace(_IMAGENET, model="timm/mobilenetv1_100"),
}
"""By name: what the paper trained. SGD, learning rate 0.1, momentum 0.9, weight decay 5e-4, cosine; nine stages from a
quarter of the width, a fifth more a stage in width and epochs. Batch sizes are the usual ones for these networks.

Source: Yuan, Savarese, Maire, NeurIPS 2023.
"""


def recipe(name: str, **changes: Any) -> Settings:
    """A recipe, with some settings of one's own.

    Raises
    ------
    SettingsError: there is no such recipe, or no such setting, or a value means nothing.

    >>> [stage.epochs for stage in recipe("cifar10-resnet20").schedule()]
    [8, 10, 12, 14, 17, 20, 24, 29, 26]
    """
    if name not in RECIPES:
        raise SettingsError(f"there is no recipe {name!r}", remedy=f"use one of {', '.join(RECIPES)}")
    known = {field.name for field in fields(Settings)}
    wrong = next((setting for setting in changes if setting not in known), None)
    if wrong is not None:
        raise SettingsError(f"there is no setting {wrong!r}", remedy=f"use one of {', '.join(sorted(known))}")
    return replace(RECIPES[name], **changes)
