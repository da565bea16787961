"""Settings for training by growing: what can be set, and what papers have set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fxgrow.curves import check_counts, check_start
from fxgrow.errors import FxgrowError, check_one_of, did_you_mean
from fxgrow.schedule import Schedule

CURVES = ("exponential", "linear", "late", "given", "none")
OPTIMIZERS = ("sgd", "adamw")
LR_CURVES = ("cosine", "plateau")
STATES = ("fill", "zero", "drop")
PRECISIONS = ("float32", "bfloat16")


class SettingsError(FxgrowError, ValueError):
    """A setting means nothing, or belongs to another run."""

    exit_code = 2


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a training run computes.

    data, samples: the data set, and how many of its images to train on (all). side: shrink them to so many pixels.
    model: the large model, as `fxgrow.zoo.find` takes it. options: for its constructor. seed_options: further ones for
        that of the seed, such as fewer blocks.
    growth: how widths go from `start` to 1: "exponential" (by `width_rate` a stage), "linear", "late" (in one step, for
        the last epochs), "given" (as `widths` says, for as many epochs as `lengths` says), or "none": the large model
        from the first step on. stages, epochs, epoch_rate, first_epochs: as in `fxgrow.Schedule.exponential`; `lengths`
        may say how long its stages are, too, and then `epochs` is not used. budget, last_epochs: as in
        `fxgrow.Schedule.late`, where `epochs` are those of training the large model.
    depths: how many blocks are added on the way into each stage, as `fxgrow.grow` takes `depth`, or "": none. They
        go with given widths.
    sides: pixels a side of the images at each stage; the last for all further ones.
    batch_size, largest_batch, batch_rates: as there. batch_sizes: at each stage, in their place.
    init, parameterization, depth_init: of new units and blocks, as in `fxgrow.grow`. rates: rule of
        `fxgrow.adapt_rates`. verify: each growth.
    state: the optimizer's, through growth: "fill" (kept, second moments of new entries filled), "zero" (kept, new
        entries start at zero) or "drop" (starts afresh).
    optimizer: "sgd" or "adamw". lr: at the start. lr_curve: over all steps, whatever grows, it falls along half a
        "cosine"; or it stays for a "plateau" and falls to zero in a straight line over the last `decay` of the steps.
        warm_up: the part of the steps over which it rises first.
    precision: "float32", or "bfloat16" for products (autocast). channels_last: how images and weights lie in memory.
    threads: of the CPU (as torch chooses); the last bits of sums depend on it, and small networks want one.
    """

    data: str = "digits"
    samples: int | None = None
    side: int | None = None
    model: str = "fxgrow.zoo.networks:resnet8"
    options: tuple[tuple[str, Any], ...] = ()
    seed_options: tuple[tuple[str, Any], ...] = ()
    growth: str = "exponential"
    start: float = 0.25
    stages: int = 9
    width_rate: float = 0.2
    epochs: int = 160
    epoch_rate: float = 0.2
    first_epochs: int | None = None
    budget: float = 0.5
    last_epochs: int = 1
    widths: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    depths: tuple[str, ...] = ()
    sides: tuple[int, ...] = ()
    batch_size: int = 32
    largest_batch: int | None = None
    batch_rates: str = "keep"
    batch_sizes: tuple[int, ...] = ()
    init: str = "mirror"
    depth_init: str = "copy"
    parameterization: str = "variance-transfer"
    rates: str = "norm"
    state: str = "fill"
    verify: bool = True
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_curve: str = "cosine"
    decay: float = 0.4
    warm_up: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "float32"
    channels_last: bool = False
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        check_start(self.start)
        check_counts(batch_size=self.batch_size, epochs=self.epochs, stages=self.stages)
        names = ("growth", "optimizer", "lr_curve", "state", "precision")
        for name, allowed in zip(names, (CURVES, OPTIMIZERS, LR_CURVES, STATES, PRECISIONS), strict=True):
            check_one_of(allowed, getattr(self, name), f"{name}={getattr(self, name)!r} is not known", SettingsError)
        if not 0 < self.decay <= 1:
            raise SettingsError(f"decay={self.decay!r} is not a part of training", remedy="pass a number such as 0.4")
        if not 0 <= self.warm_up < 1:
            raise SettingsError(f"warm_up={self.warm_up!r} is not a part of training", remedy="pass one such as 0.05")
        stages = len(self.schedule())
        for name in ("depths", "sides", "batch_sizes"):
            length = len(getattr(self, name))
            if length not in (0, stages):
                raise SettingsError(
                    f"{name} has {length} entries for {stages} stages", remedy="give one for each stage"
                )
        if self.depths and self.growth != "given":
            raise SettingsError(f"depths go with given widths, not with growth={self.growth!r}", remedy="give widths")
        for name in ("lr", "momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name}={getattr(self, name)!r} is not a number from 0 on", remedy="pass one")

    def schedule(self) -> Schedule:
        """The schedule, not yet toward a model.

        Raises
        ------
        ScheduleError: the numbers make none.
        """
        batches = {name: getattr(self, name) for name in ("batch_size", "largest_batch", "batch_rates")}
        common = {name: getattr(self, name) for name in ("epoch_rate", "first_epochs", "epochs")} | batches
        if self.growth == "none":
            return Schedule.of([1.0], [self.epochs], **batches)
        if self.growth == "given":
            return Schedule.of(self.widths, self.lengths, **batches)
        if self.growth == "late":
            epochs, last = self.epochs, self.last_epochs
            return Schedule.late(self.start, epochs=epochs, budget=self.budget, last_epochs=last, **batches)
        if self.growth == "exponential" and self.lengths:
            widths = [min(1.0, self.start * (1 + self.width_rate) ** number) for number in range(self.stages)]
            schedule = Schedule.of([*widths[:-1], 1.0], self.lengths, **batches)
            return replace(schedule, width_rate=self.width_rate)
        if self.growth == "linear":
            return Schedule.linear(self.stages, self.start, **common)
        return Schedule.exponential(self.stages, self.start, self.width_rate, **common)

    def rate(self, step: float, steps: int) -> float:
        """The learning rate of a step, of so many.

        >>> settings = Settings(lr=1.0, lr_curve="plateau", decay=0.5)
        >>> [settings.rate(step, 4) for step in range(4)]
        [1.0, 1.0, 1.0, 0.5]
        """
        done = step / steps
        rising = min(1.0, (step + 1) / (self.warm_up * steps)) if self.warm_up else 1.0
        if self.lr_curve == "plateau":
            return self.lr * min(rising, (1 - done) / self.decay)
        return self.lr * rising * (1 + math.cos(math.pi * done)) / 2

    def as_data(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return {**asdict(self), **{name: dict(getattr(self, name)) for name in _OPTIONS}}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Settings:
        """The settings that `as_data` wrote."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: plain(value) for name, value in data.items() if name in names})


_OPTIONS = ("options", "seed_options")


def plain(value: Any) -> Any:
    """A value of JSON as settings hold it."""
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value


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

_LATE: Mapping[str, Any] = {
    "growth": "given",
    "init": "zero",
    "parameterization": "standard",
    "rates": "none",
    "lr_curve": "plateau",
}

RECIPES: Mapping[str, Settings] = {
    "digits": _DIGITS,
    "cifar10-resnet20": _CIFAR,
    "cifar10-resnet20-late": replace(
        _CIFAR, **_LATE,
        widths=(0.5, 0.5, 0.5, 1.0), lengths=(400, 187, 80, 7), sides=(16, 24, 32, 32), batch_size=64, decay=0.25,
    ),
    "cifar10-vit-late": replace(
        _CIFAR, **_LATE,
        model="timm/vit_tiny_patch16_224",
        options=(("img_size", 32), ("patch_size", 4), ("depth", 6), ("dynamic_img_size", True)),
        seed_options=(("depth", 2),), widths=(1.0, 1.0, 1.0), depths=("", "", "=6"), lengths=(173, 53, 27),
        sides=(24, 32, 32), optimizer="adamw", lr=1e-3, weight_decay=0.05, warm_up=0.05, batch_size=256, decay=0.3,
    ),
    "cifar100-resnet18": replace(_CIFAR, data="cifar100", model="torchvision/resnet18", epochs=200, first_epochs=10),
    "imagenet-resnet50": _IMAGENET,
    "imagenet-mobilenetv1": replace(_IMAGENET, model="timm/mobilenetv1_100"),
}  # fmt: skip
"""By name: what the paper trained. SGD, learning rate 0.1, momentum 0.9, weight decay 5e-4, cosine; nine stages from a
quarter of the width, a fifth more a stage in width and epochs. Batch sizes are the usual ones for these networks.
Those that end in "-late" are not theirs: half the width, or two blocks of six, on small images first, and all of the
network for the end, within half of the operations of 160 epochs of it.

Source: Yuan, Savarese, Maire, NeurIPS 2023.
"""


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the kind that a setting is declared with."""
    of = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, member) for member in of)
    if get_origin(kind) is tuple:
        kinds = of[:1] * len(value) if of[-1:] == (...,) and isinstance(value, tuple) else of
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind is Any or isinstance(value, bool):
        return kind in (Any, bool)
    return isinstance(value, (int, float) if kind is float else kind)


def _called(kind: Any) -> str:
    """What the kind of a setting is called, in JSON's words."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_called(member) for member in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return "an object" if get_origin(inner) is tuple else f"a list, each entry {_called(inner)}"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a string", type(None): "null"}
    return names[kind]


def recipe(name: str, **changes: Any) -> Settings:
    """A recipe, with some settings of one's own.

    Raises
    ------
    SettingsError: there is no such recipe, or no such setting, or a value means nothing.

    >>> [stage.epochs for stage in recipe("cifar10-resnet20").schedule()]
    [8, 10, 12, 14, 17, 20, 24, 29, 26]
    """
    check_one_of(RECIPES, name, f"there is no recipe {name!r}", SettingsError)
    kinds = get_type_hints(Settings)
    for setting, value in changes.items():
        if setting not in kinds:
            remedy = did_you_mean(setting, kinds) or f"use one of {', '.join(sorted(kinds))}"
            raise SettingsError(f"there is no setting {setting!r}", remedy=remedy)
        if not _fits(value, kinds[setting]):
            like = getattr(RECIPES[name], setting)
            example = f", such as {like!r}" if like not in (None, (), "") else ""
            raise SettingsError(f"{setting}={value!r} is not {_called(kinds[setting])}", remedy=f"pass one{example}")
    return replace(RECIPES[name], **changes)
