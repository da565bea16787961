"""Grows tensors of a grown copy that no forward reads to the sizes that a model built anew, or a target, has.

So the `state_dict` of the copy fits that model. No function changes by that. New entries start as those of
tensors that play the same part in layers of the same kind, which are read.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from fxgrow.capture import GrownGraphModule, spelled_out
from fxgrow.modules.containers import has_fractions
from fxgrow.modules.references import place_all
from fxgrow.modules.tensors import dotted, named_tensors, prefixes, tensors_named, tied_names
from fxgrow.own.courses import still_held
from fxgrow.own.edited import plain_kind
from fxgrow.own.following import are_sizes
from fxgrow.own.reading import read_by
from fxgrow.planning.edits import AttributeEdit, set_attributes
from fxgrow.planning.entries import READING
from fxgrow.planning.plan import Axis, GrowthGroup, Plan, TensorGrowth
from fxgrow.planning.showing import shortened
from fxgrow.transforms.tensors import grow_tensor
from fxgrow.transforms.width import like

Read = Callable[[], Collection[str]]
"""Says, if it is asked, which tensors and layers are read elsewhere: on other courses of the forward."""


def follow_unread(
    own: nn.Module, grown: GrownGraphModule, target: nn.Module, plan: Plan, seed: str, elsewhere: Read
) -> tuple[Plan, Callable[[], None]]:
    """Grow what no forward reads of a grown copy, and of its graph, to the sizes that it has in a target.

    The plan comes back with that growth, and with it a function that undoes it.

    seed: of new entries.
    """
    tensors, wanted = named_tensors(own), named_tensors(target)
    first = {id(tensor): name for name, tensor in reversed([*tensors.items()])}
    larger = [
        name
        for name, tensor in tensors.items()
        if name == first[id(tensor)] and has_fractions(tensor) and _is_larger(wanted.get(name), tensor)
    ]
    read = {*read_by(own, spelled_out(grown).values()), *elsewhere()} if larger else set()
    larger = [name for name in larger if read.isdisjoint(prefixes(name))]
    kinds = {path: plain_kind(part) for path, part in own.named_modules()}
    growths = [_growth(name, tensors[name].shape, wanted[name].shape, plan, kinds) for name in larger]
    made, edits = _grown(own, growths, seed), list(_sizes_kept(own, target, larger, read))
    before = [replace(edit, value=own.get_submodule(edit.module).__dict__[edit.attribute]) for edit in edits]

    def put(values: Mapping[str, torch.Tensor], attributes: Iterable[AttributeEdit]) -> None:
        for model in (own, grown):
            place_all(model, {name: values[name] for name in tensors_named(model, values)})
        set_attributes(own, attributes)

    put(made, edits)
    return _with_unread(plan, own, growths, edits), lambda: put({name: tensors[name] for name in made}, before)


def _sizes_kept(own: nn.Module, target: nn.Module, grown: Collection[str], read: set[str]) -> Iterator[AttributeEdit]:
    """The whole numbers, such as `in_features`, of parts that have grown and no forward reads, as in a target."""
    for path, part in own.named_modules() if grown else ():
        inside = {dotted(path, name) for name in named_tensors(part)}
        if inside.isdisjoint(grown) or not all(read.isdisjoint(prefixes(name)) for name in inside):
            continue
        counterpart = target.get_submodule(path).__dict__
        for name, value in part.__dict__.items():
            new = counterpart.get(name)
            if not name.startswith("_") and are_sizes(value) and are_sizes(new) and new != value:
                yield AttributeEdit(path, name, new)


def _is_larger(wanted: torch.Tensor | None, tensor: torch.Tensor) -> bool:
    if wanted is None or wanted.ndim != tensor.ndim or wanted.shape == tensor.shape:
        return False
    return all(new >= old for new, old in zip(wanted.shape, tensor.shape, strict=True))


def _growth(
    name: str, before: torch.Size, after: torch.Size, plan: Plan, kinds: Mapping[str, type[nn.Module]]
) -> TensorGrowth:
    """How one grows: each axis as the same one of layers of its kind, else as the nearest that makes as many units.

    So other calls that do read it, as one with a mask reads a mask token, find new units there as they have to be.
    """
    makers = {place for group in plan.groups for place in group.where}

    def role(name: str) -> tuple[type[nn.Module] | None, str]:
        path, _, leaf = name.rpartition(".")
        return kinds.get(path), leaf

    alike = [growth for growth in plan.tensors if role(growth.name) == role(name) and len(growth.axes) == len(before)]
    above = {*prefixes(name)}
    near = sorted(plan.tensors, key=lambda growth: len(above.intersection(prefixes(growth.name))), reverse=True)
    making = [axis for each in near for k, axis in enumerate(each.axes) if f"{each.name}[{k}]" in makers]
    axes = []
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        candidates = [*(growth.axes[number] for growth in alike), *making, Axis("grow", old, new, "new", "draw")]
        same = next(axis for axis in candidates if (axis.old, axis.new) == (old, new))
        axes.append(Axis("keep", old, old) if old == new else same)
    return TensorGrowth(name, tuple(axes), alike[0].draw if alike else "alike")


def _grown(own: nn.Module, growths: Iterable[TensorGrowth], seed: str) -> dict[str, torch.Tensor]:
    """Tensors of a copy once they have grown, tied ones under each of their names."""
    tensors, tied = named_tensors(own), tied_names(own)
    made: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for growth in growths:
            tensor = tensors[growth.name]
            entries = like(tensor, grow_tensor(tensor.detach(), growth, seed))
            made |= dict.fromkeys(tied.get(growth.name, [growth.name]), entries)
    return made


def _with_unread(plan: Plan, own: nn.Module, growths: Sequence[TensorGrowth], edits: Sequence[AttributeEdit]) -> Plan:
    """A plan and its courses with the growth of such tensors of a copy, as groups of their own; they do not stay."""
    if not growths:
        return plan
    used = {group.name for group in plan.groups}
    free = (name for number in itertools.count() if (name := f"d{number}") not in used)
    names: dict[tuple[int, int], str] = defaultdict(lambda: next(free))

    def named(axis: Axis) -> Axis:
        return axis.regrouped(lambda group: names[axis.old, axis.new])

    tensors = [replace(growth, axes=tuple(map(named, growth.axes))) for growth in growths]
    learnt = {name for name, _ in own.named_parameters(remove_duplicate=False)}
    groups = [_group(name, *sizes, tensors, learnt) for sizes, name in names.items()]
    added = sum(_entries(growth) for growth in tensors if growth.name in learnt)
    return replace(
        plan,
        groups=(*plan.groups, *groups),
        held=still_held(plan.held, tensors),
        tensors=(*plan.tensors, *tensors),
        attributes=(*plan.attributes, *edits),
        courses=tuple(
            replace(course, tensors=(*course.tensors, *tensors), attributes=(*course.attributes, *edits))
            for course in plan.courses
        ),
        totals=replace(plan.totals, parameters_after=plan.totals.parameters_after + added),
    )


def _group(name: str, old: int, new: int, tensors: Iterable[TensorGrowth], learnt: Collection[str]) -> GrowthGroup:
    inside = [growth for growth in tensors if name in _groups(growth)]
    makers = (
        f"{growth.name}[{number}]"
        for growth in inside
        for number, axis in enumerate(growth.axes)
        if any(run.group == name and run.fill not in READING for run in axis.runs())
    )
    how = f"no forward reads {shortened([growth.name for growth in inside])}"
    added = sum(_entries(growth) // len(_groups(growth)) for growth in inside if growth.name in learnt)
    return GrowthGroup(name, old, new, tuple(makers), how, added)


def _groups(growth: TensorGrowth) -> set[str]:
    return {run.group for axis in growth.axes for run in axis.runs()}


def _entries(growth: TensorGrowth) -> int:
    """How many entries a tensor gains."""
    return math.prod(growth.new_shape) - math.prod(growth.old_shape)
