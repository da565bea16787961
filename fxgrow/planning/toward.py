"""Growth toward a target that the user built: how many blocks each run gains, and how else the target differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from fxgrow.amounts import Amount, Amounts
from fxgrow.errors import PlanError
from fxgrow.modules.tensors import dotted, within, within_any
from fxgrow.planning.blocks import Found, FoundRun
from fxgrow.planning.dense_layers import DenseRun
from fxgrow.planning.names import counts_on

_REMEDY = "build the target with the same code, and with larger sizes only"


def deeper_containers(model: nn.Module, target: nn.Module) -> dict[str, int]:
    """How many more children the containers of numbered modules have in a target, where they differ.

    Raises
    ------
    PlanError: the target has fewer.
    """
    target_modules = dict(target.named_modules(remove_duplicate=False))
    further: dict[str, int] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if within_any(path, tuple(further)):
            continue  # what stands where in it, and is what, is another question
        if path not in target_modules:
            continue
        counterpart = target_modules[path]
        if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or counts_on(
            list(module._modules), list(counterpart._modules)
        ):
            before, after = len(module._modules), len(counterpart._modules)
            if after < before:
                raise PlanError(
                    f"it has {after} parts in the target and {before} in the model", where=path, remedy=_REMEDY
                )
            if after > before:
                further[path] = after - before
    return further


def depth_toward(repeats: Found, further: Mapping[str, int], model: nn.Module, target: nn.Module) -> Amounts:
    """How many blocks to add to each run, so that containers have their further children.

    Raises
    ------
    PlanError: a container has no blocks that repeat, or none of its runs leads to what the target has.
    """
    added = dict.fromkeys((run.path for run in repeats.runs), 0)
    for path, count in further.items():
        here = {run: per for run in repeats.runs if (per := _roots_in(run, path))}
        if not here:
            why = next((reason for stuck, reason in repeats.held if within(stuck, path)), "")
            raise PlanError(
                f"it has {count} part{'s' if count > 1 else ''} more in the target, and no blocks of the model that "
                "could be repeated there" + (f": {why}" if why else ""),
                where=path,
                remedy=_REMEDY,
            )
        before, after = (root.get_submodule(path) for root in (model, target))
        ways = _shares(list(here.values()), count)
        shared = next((counts for counts in ways if _fits(here, counts, path, before, after)), None)
        if shared is None:
            raise _other_parts(path, count, before, after)
        for run, blocks in zip(here, shared, strict=True):
            if added[run.path] not in (0, blocks):
                raise PlanError(
                    f"{run.path} has {blocks} blocks more here and {added[run.path]} more elsewhere in the target",
                    where=path,
                    remedy=_REMEDY,
                )
            added[run.path] = blocks
    return Amounts(tuple((path, Amount("add", count)) for path, count in added.items()))


def _roots_in(run: FoundRun, container: str) -> int:
    """How many children of a container each block of a run is."""
    return min(sum(root.rpartition(".")[0] == container for root in unit.roots) for unit in run.units)


def _shares(per_block: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """Ways to have so many further children, as blocks of each run.

    >>> list(_shares([1, 2], 2))
    [(2, 0), (0, 1)]
    """
    if not per_block:
        if not count:
            yield ()
        return
    for blocks in range(count // per_block[0], -1, -1):
        for rest in _shares(per_block[1:], count - blocks * per_block[0]):
            yield (blocks, *rest)


def _fits(here: Mapping[FoundRun, int], counts: Sequence[int], path: str, model: nn.Module, target: nn.Module) -> bool:
    """Whether, in the target, further children have the shapes of those that they would repeat."""
    children = list(target._modules.values())
    places = {dotted(path, name): k for k, name in enumerate(model._modules)}
    shift = 0
    for (run, per), blocks in zip(here.items(), counts, strict=True):
        inside = [places[root] for unit in run.clonable for root in unit.roots if root in places]
        first, last = min(inside) + shift, max(inside) + shift + blocks * per
        shapes = [_shapes(child) for child in children[first : last + 1]]
        period = per * run.period
        grows_alike = not isinstance(run, DenseRun)  # each dense layer is given more than the one before
        if (
            blocks
            and grows_alike
            and any(shape != repeated for shape, repeated in zip(shapes, shapes[period:], strict=False))
        ):
            return False
        shift += blocks * per
    return True


def _other_parts(path: str, count: int, before: nn.Module, after: nn.Module) -> PlanError:
    name = next(iter(before._modules))
    kinds = [type(next(iter(module._modules.values()))).__name__ for module in (before, after)]
    if kinds[0] != kinds[1]:
        text = f"it is {kinds[0]} in the model and {kinds[1]} in the target"
        return PlanError(text, where=f"{path}.{name}", remedy=_REMEDY)
    text = f"its {count} further parts in the target are not repeated blocks of the model"
    return PlanError(text, where=path, remedy=_REMEDY)


def _shapes(module: nn.Module | None) -> dict[str, tuple[int, ...]]:
    return {} if module is None else {name: tuple(p.shape) for name, p in module.named_parameters()}
