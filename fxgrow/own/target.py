"""Puts a grown model into a target that the user built, and says how it differs from what the constructor makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fxgrow.capture import GrownGraphModule, skeleton, spelled_out
from fxgrow.capture.alignment import parting
from fxgrow.capture.inputs import Inputs
from fxgrow.errors import PlanError
from fxgrow.modules.references import place_all
from fxgrow.modules.switching import in_modes
from fxgrow.modules.tensors import named_tensors
from fxgrow.noise import gives_back
from fxgrow.opaque import OPAQUE
from fxgrow.own.edited import is_norm_over_old_units, plain_kind
from fxgrow.planning.likeness import Likeness, Setting
from fxgrow.rules.calls import targets
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import law_of_module

_ALIKE = "build the target with the same code, and with larger sizes only"

_MADE = ("core", "edits", "factor", "outputs_read", "reading")
"""What parts hold that compute otherwise than their class."""


def check_alike(model: nn.Module, target: nn.Module, name: str = "target") -> None:
    """Raise a PlanError for the first part of a target that a model of its depth lacks, or has otherwise.

    model: as it is, or as it was captured. name: what errors call the target.
    """
    ours = {path: part for path, part in model.named_modules() if not isinstance(part, OPAQUE)}
    theirs = dict(target.named_modules())
    _check_shared_alike(model, target, "model", name)
    _check_shared_alike(target, model, name, "model")
    for path in theirs:
        if path not in ours:
            kind = type(theirs[path]).__name__
            raise PlanError(f"the {name} has {kind} there and the model has nothing", where=path, remedy=_ALIKE)
        if plain_kind(ours[path]) is not plain_kind(theirs[path]) and not _only_drop(ours[path], theirs[path]):
            here, there = (plain_kind(part).__name__ for part in (ours[path], theirs[path]))
            raise PlanError(f"it is {here} in the model and {there} in the {name}", where=path or here, remedy=_ALIKE)
    missing = next((path for path in ours if path not in theirs), None)
    if missing is not None:
        kind = type(ours[missing]).__name__
        raise PlanError(f"the model has {kind} there and the {name} has nothing", where=missing, remedy=_ALIKE)


def put_into(
    target: nn.Module, own: nn.Module, grown: GrownGraphModule, inputs: Inputs, name: str = "target"
) -> tuple[nn.Module, Likeness]:
    """A copy of a target that computes what a grown model does, over its tensors; only what has to be is other.

    grown: the graph that was proved. The copy is recorded and compared with it. name: what errors call the target.

    Raises
    ------
    PlanError: the target differs in something that no attribute makes up for.
    """
    result = skeleton(target)
    check_alike(own, result, name)
    _check_shapes(own, result, name)
    place_all(result, named_tensors(own))
    parts = dict(result.named_modules())
    in_modes(result, {parts[path]: part.training for path, part in own.named_modules()})
    otherwise, norms, drops = [], [], []
    for path, part in own.named_modules():
        if plain_kind(part) is not plain_kind(parts[path]):  # both only drop
            drops.append((path, str(part), str(parts[path])))
            others = result.named_modules(remove_duplicate=False)
            twin, names = skeleton(part), [other for other, each in others if each is parts[path]]
            for shared in names:
                result.set_submodule(shared, twin)
        elif type(part) is not type(parts[path]):
            otherwise.append((path, type(part).__name__, type(parts[path]).__name__))
            norms += [path] if is_norm_over_old_units(part) else []
            parts[path].__class__ = type(part)
            for made in _MADE:
                if made in part.__dict__:
                    parts[path].__dict__[made] = part.__dict__[made]
    settings = _necessary(result, list(_differences(own, result)), grown, inputs, name)
    return result, Likeness(type(target).__name__, tuple(settings), tuple(otherwise), tuple(norms), tuple(drops))


def _check_shared_alike(model: nn.Module, other: nn.Module, here: str, there: str) -> None:
    """Raise a PlanError for the first part that a model has under a second name, where the other has two parts."""
    names: dict[int, str] = {}
    own = dict(other.named_modules())
    for path, part in model.named_modules(remove_duplicate=False):
        first = names.setdefault(id(part), path)
        if first != path and first in own and path in own:
            raise PlanError(
                f"the {here} has one {type(part).__name__} there and at {first}, and the {there} has two",
                where=path,
                remedy="let both share the part, or neither",
            )


def _only_drop(*parts: nn.Module) -> bool:
    """Whether parts give what they are given, random draws aside: dropout, stochastic depth, an identity.

    What they make of some values tells that of parts that multiply all entries by one number, and of no others.
    """
    return all(law_of_module(part) == Pointwise("linear") and gives_back(part) for part in parts)


def _check_shapes(own: nn.Module, result: nn.Module, target: str) -> None:
    ours, theirs = (
        {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()} for model in (own, result)
    )
    for name in dict.fromkeys([*theirs, *ours]):
        if ours.get(name) != theirs.get(name):
            has = [str(list(shapes[name])) if name in shapes else "missing" for shapes in (ours, theirs)]
            raise PlanError(
                f"it is {has[0]} in the grown model and {has[1]} in the {target}", where=name, remedy=_ALIKE
            )


def _differences(own: nn.Module, result: nn.Module) -> Iterable[Setting]:
    """Attributes that hold numbers, flags or names, and hold others in two models built alike."""
    parts = dict(result.named_modules())
    for path, part in own.named_modules():
        counterpart = parts[path].__dict__
        for name, value in part.__dict__.items():
            if name.startswith("_") or name in ("training", *_MADE) or name not in counterpart:
                continue
            if is_plain(value) and is_plain(counterpart[name]) and value != counterpart[name]:
                yield Setting(path, name, value, counterpart[name])


def is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _necessary(
    result: nn.Module, settings: list[Setting], grown: GrownGraphModule, inputs: Inputs, target: str
) -> list[Setting]:
    """Those of the attributes without which a model computes otherwise; they are set, the others are not."""
    called = targets(spelled_out(grown).values(), "call_module")
    kept = [setting for setting in settings if setting.module in called]  # a record does not look into these
    rest = [setting for setting in settings if setting.module not in called]
    _put(result, kept)
    if parting(result, grown, inputs) is None:
        return kept
    _put(result, rest)
    different = parting(result, grown, inputs)
    if different is not None:
        raise PlanError(
            f"the {target} computes otherwise than the grown model: {different}",
            where=type(result).__name__,
            remedy="build the target with the settings of the model, and with larger sizes only",
        )
    for name in dict.fromkeys(setting.attribute for setting in rest):
        tried = [setting for setting in rest if setting.attribute == name]
        _put(result, tried, back=True)
        if parting(result, grown, inputs) is None:
            rest = [setting for setting in rest if setting.attribute != name]
        else:
            _put(result, tried)
    return [*kept, *rest]


def _put(model: nn.Module, settings: Iterable[Setting], back: bool = False) -> None:
    for setting in settings:
        value = setting.built_with if back else setting.value
        model.get_submodule(setting.module).__dict__[setting.attribute] = value
