"""Growth of models divided among processes by `fully_shard`: tensor by tensor, so that nobody ever holds all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fxgrow.capture import skeleton
from fxgrow.errors import AmountError
from fxgrow.growing import grow
from fxgrow.history import drawn_by, report
from fxgrow.module_tensors import named_tensors, place
from fxgrow.shards import fill, local_part, undivided, whole
from fxgrow.training.parameters import remember_names, stage_of
from fxgrow.transforms.width import grown_tensors
from fxgrow.wish import Width


def grow_sharded(
    model: nn.Module,
    width: Width | None = None,
    depth: Width | None = None,
    *,
    shard: Callable[[nn.Module], object],
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """Grow a model whose parameters are divided among processes (FSDP2). All of them call this, with equal arguments.

    The plan is made from shapes. What comes back is what `grow` would give, divided by `shard`, entry by entry the
    same. Each tensor is gathered, grown and divided again by itself, so that a process never has more than its part of
    both models and one layer. Nothing is proved or tested, since no process has all weights. To have the proof, gather
    both models afterwards and call `fxgrow.certify`.

    Parameters
    ----------
    model: divided by `fully_shard`, or whole and the same on every process; it is not touched.
    width, depth, seed: as in `grow`.
    shard: the function that divided the model. It is called with the grown one, which has no data yet:
        `def shard(model): [fully_shard(block) for block in model.blocks]; fully_shard(model)`.
    options: others of `grow`, but for `verify` and `calibrate`.

    Raises
    ------
    FxgrowError: as in `grow`.

    >>> import fxgrow
    >>> fxgrow.grow_sharded(nn.Linear(2, 2), 2, shard=print, verify="full")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fxgrow.errors.AmountError: verify needs all of the model, ...
    """
    for name in sorted({"verify", "calibrate"} & options.keys()):
        raise AmountError(
            f"{name} needs all of the model, which no process has",
            remedy=f"leave {name} out, or grow the model before it is divided",
        )
    part: Any
    for part in model.modules():
        if undivided(part)[0] is not type(part):
            part.reshard()  # a forward pass may have left it together
    remember_names(model)
    tensors = named_tensors(model)
    seeded = drawn_by(seed, stage_of(model) + 1)
    grown = grow(skeleton(model, whole=True), width, depth, seed=seed, verify=False, **options)
    structure = skeleton(grown)
    kept = {name: tensor for name, tensor in named_tensors(grown).items() if not tensor.is_meta}
    shard(grown)
    grown.to_empty(device=next(local_part(tensor).device for tensor in tensors.values()))
    for name, tensor in kept.items():
        place(grown, name, tensor)
    here = named_tensors(grown)
    for names, _, data in grown_tensors(structure, report(grown).plan, tensors, seeded, whole):
        fill(here[names[0]], data)
    remember_names(grown)
    return grown
