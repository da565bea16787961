"""Ways to get to a large network, each a few settings beside those of training it from the start.

A way is a function from a number of epochs to settings; all of a network have its data, optimizer and seeds in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from fxgrow.zoo.data import seed_of
from fxgrow.zoo.recipes import Settings
from fxgrow.zoo.training import Run
from torch import nn

import fxgrow
from fxgrow.stages import Stage

Changes = dict[str, Any]

CIFAR10 = "packed:cifar10.safetensors"


SCALES: Mapping[str, str] = {
    "full": "cifar10",
    "cpu": "cifar10, 16x16, 8,000 images",
    "cpu-long": "cifar10, 16x16",
}
"""The benchmarks, by name: whole images for as many epochs as the network gets; or for a CPU, shrunken images and 24
epochs, in minutes with few of them, and in a quarter of an hour with all, where training gets further."""


@dataclass(frozen=True)
class Network:
    """A network to train. full: its settings. scaled: what a CPU can train of it, in minutes.

    width: the option that says how wide it is, and its value where it is not given.
    """

    full: Settings
    scaled: Settings
    width: tuple[str, int]

    def settings(self, scale: str) -> Settings:
        return {"full": self.full, "cpu": self.scaled, "cpu-long": replace(self.scaled, samples=None)}[scale]


_SGD = Settings(data=CIFAR10, growth="none", parameterization="standard", rates="none", init="zero", verify=False)
_RESNET20 = replace(_SGD, model="fxgrow.zoo.networks:resnet20", epochs=160, batch_size=128)
_RESNET18 = replace(
    _SGD, model="fxgrow.zoo.networks:resnet18", epochs=60, batch_size=512, lr=0.2, precision="bfloat16",
    channels_last=True, warm_up=0.05,
)  # fmt: skip
_VIT = replace(
    _SGD, model="timm/vit_tiny_patch16_224", options=(("img_size", 32), ("patch_size", 4), ("depth", 6)), epochs=160,
    batch_size=256, optimizer="adamw", lr=1e-3, weight_decay=0.05, warm_up=0.05, precision="bfloat16",
)  # fmt: skip
FAST = "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
"""What this CPU multiplies fast; where it only emulates bfloat16, that takes ten times as long."""
_SMALL: Changes = {
    "side": 16, "samples": 8000, "epochs": 24, "batch_size": 128, "threads": 1, "precision": FAST,
    "channels_last": FAST == "bfloat16",  # in float32 torch 2.14 writes past its memory with under eight channels
}  # fmt: skip

NETWORKS: Mapping[str, Network] = {
    "resnet20": Network(_RESNET20, replace(_RESNET20, **_SMALL), ("width", 16)),
    "resnet18-32": Network(_RESNET18, replace(_RESNET18, **_SMALL, lr=0.1, options=(("width", 32),)), ("width", 64)),
    "vit": Network(
        _VIT,
        replace(_VIT, **_SMALL, options=(("img_size", 16), ("patch_size", 4), ("depth", 6), ("embed_dim", 96))),
        ("embed_dim", 192),
    ),
}
"""For a CPU, ResNet-18 and the ViT are half as wide, too."""


class RandomPadding(Run):
    """Grows as others do, then draws all new weights at random, those that read new units as those that make them.

    The function is not kept. The deviation is the usual one for fresh weights, by fan-in.
    """

    def widened(self, stage: Stage) -> nn.Module:
        grown = super().widened(stage)
        births = fxgrow.births(grown)  # type: ignore[arg-type]
        with torch.no_grad():
            for name, parameter in grown.named_parameters():
                new = births[name].mask(stage.number)
                if parameter.ndim > 1 and bool(new.any()):
                    generator = torch.Generator().manual_seed(seed_of(self.settings.seed, stage.number, name))
                    deviation = math.sqrt((2 if parameter.ndim == 4 else 1) / parameter[0].numel())
                    parameter[new] = deviation * torch.randn(int(new.sum()), generator=generator)
        return grown


@dataclass(frozen=True)
class Way:
    """A way to get to the large network. changes: to settings, from the epochs of the large network's training."""

    changes: Callable[[int], Changes]
    kind: type[Run] = Run
    part: float = 1.0
    """Of the large network's width, for networks that never grow."""


def large(curve: str, part: float = 1.0, **more: Any) -> Way:
    """The large network from the start, for a part of the epochs."""
    return Way(lambda epochs: {"epochs": max(1, round(part * epochs)), "lr_curve": curve, **more})


def cut(epochs: int, parts: tuple[float, ...]) -> tuple[int, ...]:
    """Epochs cut in proportion, none of a part being empty.

    >>> cut(24, (0.3, 0.3, 0.4)), cut(160, (8, 10, 12, 14, 17, 20, 24, 29, 26))
    ((7, 7, 10), (8, 10, 12, 14, 17, 20, 24, 29, 26))
    """
    ends = [round(epochs * sum(parts[: k + 1]) / sum(parts)) for k in range(len(parts))]
    return tuple(max(1, end - before) for end, before in zip(ends, [0, *ends], strict=False))


def growing(
    *stages: tuple[float, float], longer: float = 1.0, kind: type[Run] = Run, lr_curve: str = "plateau", **changes: Any
) -> Way:
    """Stages of a width (of the large network's) and a part of the epochs each."""

    def settings(epochs: int) -> Changes:
        lengths = cut(round(longer * epochs), tuple(part for _, part in stages))
        widths = tuple(width for width, _ in stages)
        return {"growth": "given", "widths": widths, "lengths": lengths, "lr_curve": lr_curve, **changes}

    return Way(settings, kind)


def budget(*stages: tuple[float, float], decay: float | None = None, **changes: Any) -> Way:
    """Stages of a width and epochs each, of 24 that the large network gets; the rate falls during the last of them."""
    total = sum(part for _, part in stages)
    last = stages[-1][1] / total
    return growing(*stages, longer=total / 24, decay=decay or last, **changes)


PAPERS_EPOCHS = (8.0, 10.0, 12.0, 14.0, 17.0, 20.0, 24.0, 29.0, 26.0)


def nine(init: str, parameterization: str = "standard", rates: str = "none", curve: str = "cosine") -> Way:
    """The paper's nine stages."""
    return Way(
        lambda epochs: {
            "growth": "exponential",
            "lengths": cut(epochs, PAPERS_EPOCHS),
            "init": init,
            "lr_curve": curve,
            "parameterization": parameterization,
            "rates": rates,
        }
    )


LATE = ((0.5, 0.7), (1.0, 0.3))
"""Half the width for most of the time, then all of it: 48% of the operations of a convolutional network."""

_PAPER = {"parameterization": "variance-transfer", "rates": "norm"}

_SMALLER_FIRST = ((0.5, 60), (0.5, 28), (0.5, 12), (1.0, 1))
_SIDES = (0.5, 0.75, 1.0, 1.0)

LONGER: Mapping[str, Way] = {
    "half as wide, of half the operations": Way(
        lambda epochs: {"epochs": round(1.96 * epochs), "lr_curve": "plateau"}, part=0.5
    ),
    "half as wide, small images first, half the operations": replace(
        budget((1.0, 48), (1.0, 20), sides=(0.75, 1.0)), part=0.5
    ),
    "long half then whole, zero": budget((0.5, 19), (1.0, 7)),
    "long half then whole, zero, decay from 60%": budget((0.5, 19), (1.0, 7), decay=0.4),
    "long half then whole, mirror": budget((0.5, 19), (1.0, 7), init="mirror"),
    "longer half then whole, zero": budget((0.5, 27), (1.0, 5)),
    "longer half then whole, zero, decay from 75%": budget((0.5, 27), (1.0, 5), decay=0.25),
    "longer half then whole, GradMax": budget((0.5, 27), (1.0, 5), init="gradmax"),
    "longer half then whole, zero, rates by update": budget((0.5, 27), (1.0, 5), rates="gradient"),
    "longest half then whole, zero": budget((0.5, 31), (1.0, 4), decay=0.2),
    "half, three quarters, whole, zero": budget((0.5, 21), (0.75, 6), (1.0, 3), decay=0.2),
    "three quarters then whole, zero": budget((0.75, 12), (1.0, 5)),
    "long half then whole, small images first": budget((0.5, 15), (0.5, 11), (1.0, 7), sides=(0.75, 1.0, 1.0)),
    "long half then whole, small images to the end": budget((0.5, 30), (1.0, 8), (1.0, 3), sides=(0.75, 0.75, 1.0)),
    "large, small images first, half the operations": budget((1.0, 12), (1.0, 5), sides=(0.75, 1.0)),
    "half, whole, small images until the end": budget(
        (0.5, 20), (1.0, 10), (1.0, 3), decay=0.35, sides=(0.75, 0.75, 1.0)
    ),
    "half then whole, decay behind the growth": budget((0.5, 16), (1.0, 8), decay=0.2),
    "half on small images, then larger ones, then whole": budget(
        (0.5, 44), (0.5, 10), (1.0, 3), decay=0.3, sides=(0.75, 1.0, 1.0)
    ),
    "half on small images for longer, then larger ones, then whole": budget(
        (0.5, 48), (0.5, 12), (1.0, 2), decay=0.3, sides=(0.75, 1.0, 1.0)
    ),
    "half as wide on small images first, whole at the end": budget(
        (0.5, 48), (0.5, 16), (1.0, 1), decay=0.29, sides=(0.75, 1.0, 1.0)
    ),
    "half as wide on small images first, whole at the end, batches of 64": budget(
        (0.5, 48), (0.5, 16), (1.0, 1), decay=0.29, sides=(0.75, 1.0, 1.0), batch_sizes=(0.5, 0.5, 0.5)
    ),
    "half as wide on smaller images first, whole at the end": budget(*_SMALLER_FIRST, decay=0.25, sides=_SIDES),
    "half as wide on smaller images first, whole at the end, batches of 64": budget(
        *_SMALLER_FIRST, decay=0.25, sides=_SIDES, batch_sizes=4 * (0.5,)
    ),
    "quarter on smaller images, half as wide on small ones, whole at the end": budget(
        (0.25, 60), (0.5, 44), (0.5, 14), (1.0, 1), decay=0.25, sides=_SIDES
    ),
    "quarter, then half as wide on small images, whole at the end": budget(
        (0.25, 40), (0.5, 40), (0.5, 15), (1.0, 1), decay=0.25, sides=(0.75, 0.75, 1.0, 1.0)
    ),
    "half, whole, small images and batches first": budget(
        (0.5, 20), (1.0, 10), (1.0, 3), decay=0.35, sides=(0.75, 0.75, 1.0), batch_sizes=(0.5, 0.5, 1.0)
    ),
    "large, small images and batches first, half the operations": budget(
        (1.0, 12), (1.0, 5), sides=(0.75, 1.0), batch_sizes=(0.5, 1.0)
    ),
    "large, batches of 64, half the epochs": large("plateau", 0.5, batch_size=64),
    "large, batches of 64": large("plateau", batch_size=64),
}
"""At most half of the large network's operations, spent on more epochs than its: narrow ones, on small images."""

WIDTH: Mapping[str, Way] = {
    "large, cosine": large("cosine"),
    "large, plateau": large("plateau"),
    "large, plateau, half the epochs": large("plateau", 0.48),
    "large, cosine, half the epochs": large("cosine", 0.48),
    "large, straight to zero": large("plateau", decay=1.0),
    "large, straight to zero, half the epochs": large("plateau", 0.48, decay=1.0),
    "half then whole, zero": growing(*LATE),
    "half then whole, mirror": growing(*LATE, init="mirror"),
    "half then whole, GradMax": growing(*LATE, init="gradmax"),
    "half then whole, random padding": growing(*LATE, kind=RandomPadding),
    "half then whole, scale kept": growing(*LATE, parameterization="rms"),
    "half then whole, Net2Net": growing(*LATE, init="replicate"),
    "half then whole, mirror, variance transfer": growing(*LATE, init="mirror", parameterization="variance-transfer"),
    "half then whole, mirror, rates by norm": growing(*LATE, init="mirror", rates="norm"),
    "half then whole, mirror, rates by update": growing(*LATE, init="mirror", rates="gradient"),
    "half then whole, zero, rates by update": growing(*LATE, rates="gradient"),
    "half then whole, mirror, both": growing(*LATE, init="mirror", **_PAPER),
    "half then whole, zero, re-warmed": growing(*LATE, rates="rewarm"),
    "half then whole, mirror, re-warmed": growing(*LATE, init="mirror", rates="rewarm"),
    "half then whole, zero, state dropped": growing(*LATE, state="drop"),
    "half then whole, zero, state zero": growing(*LATE, state="zero"),
    "half then whole, zero, cosine": growing(*LATE, lr_curve="cosine"),
    "half then whole, zero, at 50%": growing((0.5, 0.5), (1.0, 0.5)),
    "half then whole, zero, at 85%": growing((0.5, 0.85), (1.0, 0.15)),
    "half then whole, zero, twice as long": growing(*LATE, longer=2.0),
    "quarter then whole, zero": growing((0.25, 0.55), (1.0, 0.45)),
    "quarter, half, whole, zero": growing((0.25, 0.3), (0.5, 0.3), (1.0, 0.4)),
    "quarter, half, whole, zero, cosine": growing((0.25, 0.3), (0.5, 0.3), (1.0, 0.4), lr_curve="cosine"),
    "small images first": growing((1.0, 0.7), (1.0, 0.3), sides=(0.75, 1.0)),
    "half then whole, small images first": growing(*LATE, sides=(0.75, 1.0)),
    "half then whole, batches by stage": growing(*LATE, batch_sizes=(2.0, 1.0)),
}
"""For networks that grow in width."""

PAPER: Mapping[str, Way] = {
    "small": Way(lambda epochs: {"lr_curve": "cosine"}, part=0.25),
    "nine stages, Net2Net": nine("replicate"),
    "nine stages, mirror": nine("mirror"),
    "nine stages, mirror, variance transfer": nine("mirror", "variance-transfer"),
    "nine stages, mirror, rates by norm": nine("mirror", rates="norm"),
    "nine stages, mirror, both": nine("mirror", "variance-transfer", "norm"),
    "nine stages, mirror, both, plateau": nine("mirror", "variance-transfer", "norm", "plateau"),
    "nine stages, zero, plateau": nine("zero", curve="plateau"),
}
"""What the paper compares, and its method under another curve."""


def deeper(seed_options: Changes, amount: str, part: float, depth_init: str = "copy", **more: Any) -> Way:
    """Fewer blocks for a part of the epochs, then all."""
    stages = ((1.0, part), (1.0, 1 - part))
    depths = {"seed_options": tuple(seed_options.items()), "depths": ("", amount), "depth_init": depth_init}
    return growing(*stages, **depths, **more)


def longer_deeper(blocks: int, before: float, after: float, **more: Any) -> Way:
    """Fewer blocks for many epochs (of 24 that the large network gets), then six, copies of them, for few."""
    depths: Changes = {"seed_options": (("depth", blocks),), "depths": ("", "=6"), "depth_init": "copy"}
    return budget((1.0, before), (1.0, after), decay=0.3, **depths, **more)


_ANY_SIZE = (("dynamic_img_size", True),)


def on_small_images_first(blocks: int, epochs: tuple[int, int, int]) -> Way:
    """Fewer blocks on small images, then on whole ones, then six; positions are interpolated where images are small."""
    before, between, after = epochs
    depths: Changes = {"seed_options": (("depth", blocks),), "depths": ("", "", "=6"), "depth_init": "copy"}
    stages = ((1.0, before), (1.0, between), (1.0, after))
    return budget(*stages, decay=0.3, sides=(0.75, 1.0, 1.0), options=_ANY_SIZE, **depths)


def both(seed_options: Changes, amount: str, part: float, **more: Any) -> Way:
    """Half the width and fewer blocks for a part of the epochs, then all."""
    depths = {"seed_options": tuple(seed_options.items()), "depths": ("", amount)}
    return growing((0.5, part), (1.0, 1 - part), **depths, **more)


_TWO = {"blocks": 2}
_THREE = {"depth": 3}

RESNET_DEPTH: Mapping[str, Way] = {
    "two blocks then three, copies": deeper(_TWO, "+1", 0.7),
    "two blocks then three, random": deeper(_TWO, "+1", 0.7, "random"),
    "two blocks then three, stacked": deeper(_TWO, "+1", 0.7, "stack"),
    "width and depth": both(_TWO, "+1", 0.6),
    "two blocks then three, small images first, half the operations": budget(
        (1.0, 15),
        (1.0, 6),
        (1.0, 3),
        decay=0.3,
        sides=(0.75, 0.75, 1.0),
        seed_options=tuple(_TWO.items()),
        depths=("", "+1", ""),
        depth_init="copy",
    ),
}

VIT_DEPTH: Mapping[str, Way] = {
    "three blocks then six, copies": deeper(_THREE, "=6", 0.7),
    "three blocks then six, random": deeper(_THREE, "=6", 0.7, "random"),
    "three blocks then six, stacked": deeper(_THREE, "=6", 0.7, "stack"),
    "three blocks then six, copies, rates by update": deeper(_THREE, "=6", 0.7, rates="gradient"),
    "two blocks then six, copies": deeper({"depth": 2}, "=6", 0.7),
    "two blocks then six, random": deeper({"depth": 2}, "=6", 0.7, "random"),
    "width and depth": both(_THREE, "=6", 0.6),
    "one block then six, longer, half the operations": longer_deeper(1, 32, 6),
    "two blocks then six, longer, half the operations": longer_deeper(2, 18, 6),
    "two blocks then six, longest, half the operations": longer_deeper(2, 24, 4),
    "two blocks then six, late, half the operations": longer_deeper(2, 23, 4),
    "three blocks then six, longer, half the operations": longer_deeper(3, 14, 5),
    "two blocks then six, longer, half the operations, batches of 64": longer_deeper(2, 18, 6, batch_sizes=(0.5, 0.5)),
    "two blocks on small images, then six, half the operations": on_small_images_first(2, (26, 8, 4)),
    "two blocks on small images, six at the end, half the operations": on_small_images_first(2, (36, 8, 2)),
    "two blocks, small images first, half the operations": budget(
        (1.0, 36), (1.0, 14), decay=0.3, sides=(0.75, 1.0), options=(*_ANY_SIZE, ("depth", 2))
    ),
    "large, small images first, half the operations": budget(
        (1.0, 15), (1.0, 3), decay=0.3, sides=(0.75, 1.0), options=_ANY_SIZE
    ),
}

RESNET18: Mapping[str, Way] = {
    "half as wide on smaller images first, whole at the end": budget(
        (0.5, 60), (0.5, 24), (0.5, 12), (1.0, 1), decay=0.25, sides=_SIDES
    ),
    "half as wide on smaller images first, whole at the end, batches of 64, fewer epochs": budget(
        (0.5, 44), (0.5, 18), (0.5, 9), (1.0, 1), decay=0.25, sides=_SIDES, batch_sizes=4 * (0.5,)
    ),
    "half as wide on smaller images first, whole at the end, batches of 64, two thirds of the epochs": budget(
        (0.5, 40), (0.5, 16), (0.5, 8), (1.0, 1), decay=0.25, sides=_SIDES, batch_sizes=4 * (0.5,)
    ),
    "half as wide on smaller images first, whole at the end, batches of 64, half the operations": budget(
        (0.5, 60), (0.5, 24), (0.5, 12), (1.0, 1), decay=0.25, sides=_SIDES, batch_sizes=4 * (0.5,)
    ),
    "half as wide on smaller images first, whole at the end, batches of 128 then 64, two thirds of the seconds": budget(
        (0.5, 50), (0.5, 18), (0.5, 9), (1.0, 1), decay=0.25, sides=_SIDES, batch_sizes=(1.0, 0.5, 0.5, 0.5)
    ),
    "half as wide on fewer smaller images first, whole at the end, batches of 64, two thirds of the seconds": budget(
        (0.5, 20), (0.5, 28), (0.5, 8), (1.0, 1), decay=0.25, sides=_SIDES, batch_sizes=4 * (0.5,)
    ),
    "half as wide on images of 3/4 the size first, whole at the end, batches of 64, two thirds of the seconds": budget(
        (0.5, 38), (0.5, 10), (1.0, 1), decay=0.25, sides=(0.75, 1.0, 1.0), batch_sizes=3 * (0.5,)
    ),
    "half as wide on smaller images first, whole for four epochs, batches of 128 then 64": budget(
        (0.5, 32), (0.5, 14), (0.5, 6), (1.0, 4), decay=0.25, sides=_SIDES, batch_sizes=(1.0, 0.5, 0.5, 0.5)
    ),
    "half as wide on smaller images first, whole for four epochs, batches of 64": budget(
        (0.5, 44), (0.5, 18), (0.5, 3), (1.0, 4), decay=0.25, sides=_SIDES, batch_sizes=4 * (0.5,)
    ),
    "half as wide on smaller images first, whole on small ones, batches of 64": budget(
        (0.5, 40), (0.5, 16), (1.0, 5), (1.0, 2), decay=0.25, sides=(0.5, 0.75, 0.75, 1.0), batch_sizes=4 * (0.5,)
    ),
}
"""With fewer epochs on small images, which cost this network more."""

WAYS: Mapping[str, Mapping[str, Way]] = {
    "resnet20": {**WIDTH, **LONGER, **PAPER, **RESNET_DEPTH},
    "resnet18-32": {**WIDTH, **LONGER, **RESNET18},
    "vit": {**{name: way for name, way in {**WIDTH, **LONGER}.items() if "images" not in name}, **VIT_DEPTH},
}


def settings_of(network: str, way: str, scale: str, seed: int, epochs: int | None = None) -> Settings:
    """The settings of a run. epochs: in place of the network's."""
    base = NETWORKS[network].settings(scale)
    base = replace(base, epochs=epochs or base.epochs)
    changes = WAYS[network][way].changes(base.epochs)
    for name, whole in (("sides", base.side or 32), ("batch_sizes", base.batch_size)):  # given as multiples
        if name in changes:
            changes[name] = tuple(round(part * whole) for part in changes[name])
    changes["options"] = (*base.options, *changes.get("options", ()))
    if WAYS[network][way].part < 1:
        (name, usual), options = NETWORKS[network].width, dict(changes["options"])
        options[name] = round(options.get(name, usual) * WAYS[network][way].part)
        changes["options"] = tuple(options.items())
    return replace(base, **changes, seed=seed)
