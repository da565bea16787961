"""Growth of models sharded by `fully_shard`: tensor by tensor, so that no process ever holds a whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from fxgrow.capture import skeleton
from fxgrow.errors import AmountError
from fxgrow.growth.certifying import certificate_of
from fxgrow.growth.fingerprint import fingerprint
from fxgrow.growth.growing import grow
from fxgrow.growth.intermediate import GrowthStep
from fxgrow.growth.wish import Width
from fxgrow.history import drawn_by, drawn_in_part, known_history, learn, report
from fxgrow.modules.shards import fill, local_part, undivided, whole
from fxgrow.modules.tensors import named_tensors, place
from fxgrow.planning.plan import Plan
from fxgrow.steps import timed
from fxgrow.training.parameters import remember_names, stage_of
from fxgrow.transforms.width import grown_tensors


def grow_sharded(
    model: nn.Module,
    width: Width | None = None,
    depth: Width | None = None,
    *,
    shard: Callable[[nn.Module], object],
    seed: int = 0,
    verify: bool = True,
    **options: Any,
) -> nn.Module:
    """Grow a model whose parameters are sharded over processes (FSDP2). All processes call it, with equal arguments.

    The plan is made from shapes. The result is what `grow` would give, sharded by `shard`, entry by entry the same.
    Each tensor is gathered, grown and sharded again by itself, so that a process never holds more than its shards of
    both models and a few layers. The growth is proved likewise: every process takes every step of the proof, and a
    step gathers the tensors that it is about. It is not tested, since no process can run the models by itself. In a
    model that grows in parts, only parts that are found without values grow; `grow` may find more by a run.

    Parameters
    ----------
    model: sharded by `fully_shard`, or whole and the same on every process; it is not touched.
    width, depth, seed: as in `grow`.
    shard: the function that sharded the model. It is called with the grown model, which has no data yet:
        `def shard(model): [fully_shard(block) for block in model.blocks]; fully_shard(model)`.
    verify: prove that the function is the same (`report(grown).certificate`). "full" is refused.
    options: others of `grow`, but for `calibrate` and `loss`.

    Raises
    ------
    FxgrowError: as in `grow`.

    >>> import fxgrow
    >>> fxgrow.grow_sharded(nn.Linear(2, 2), 2, shard=print, verify="full")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fxgrow.errors.AmountError: verify='full' needs all of the model, ...
    """
    wrong: list[str] = [] if isinstance(verify, bool) else [f"verify={verify!r}"]
    for name in (*wrong, *sorted({"calibrate", "loss"} & options.keys())):
        raise AmountError(
            f"{name} needs all of the model, which no process has",
            remedy="leave it out, or grow the model before it is divided",
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
    with_data = {name: tensor for name, tensor in named_tensors(grown).items() if not tensor.is_meta}
    shard(grown)
    grown.to_empty(device=next(local_part(tensor).device for tensor in tensors.values()))
    for name, tensor in with_data.items():
        place(grown, name, tensor)
    here = named_tensors(grown)
    for name, data in _grown(structure, report(grown).plan, tensors, seeded):
        fill(here[name], data)
    remember_names(grown)
    if verify:
        with timed("proving"):
            certificate = certificate_of(model, grown, [GrowthStep(report(grown).plan, seeded)])
        learn(grown, known_history(grown), certificate=certificate, fingerprint=fingerprint(grown))
    return grown


def _grown(structure: nn.Module, plan: Plan, tensors: Mapping[str, Tensor], seed: str) -> Iterator[tuple[str, Tensor]]:
    """The entries of every tensor of a grown model, gathered and grown one by one; tied ones under one name."""
    if not plan.parts:
        for names, _, data in grown_tensors(structure, plan, tensors, seed, whole):
            yield names[0], data
        return
    inside: set[str] = set()
    for path, part in plan.parts:
        own = {name.removeprefix(f"{path}."): name for name in tensors if name.startswith(f"{path}.")}
        inside.update(own.values())
        those = {name: tensors[full] for name, full in own.items()}
        seeded = drawn_in_part(seed, path)
        for names, _, data in grown_tensors(structure.get_submodule(path), part, those, seeded, whole):
            yield f"{path}.{names[0]}", data
    for name in (name for name in tensors if name not in inside):  # all processes in the same order
        yield name, whole(tensors[name].detach())
