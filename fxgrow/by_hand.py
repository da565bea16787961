"""Parts that were put in by hand after growth, such as new heads, as a file keeps them: their class and their sizes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fxgrow.birth import Birth
from fxgrow.contents import FORWARD, HOOKS, Part, Shape, parts_of
from fxgrow.documents import frozen
from fxgrow.errors import FileError
from fxgrow.modules.tensors import OF_MODULES, dotted, within_any
from fxgrow.named_layers import entry_of, gives, made_of

KEEP = "or keep the state_dict with torch.save"


@dataclass(frozen=True)
class ByHand:
    """What was put into a model by hand since it grew, or was built.

    Attributes
    ----------
    parts: as `put_in_by_hand` gives them.
    refused: in what, where, and what to do, of an error: no file can keep it.
    """

    parts: dict[str, Any] = field(default_factory=dict)
    refused: tuple[str, str, str] | None = None


def by_hand_since(grown: nn.Module, births: Mapping[str, Birth], before: Mapping[str, Part]) -> ByHand:
    """What was put in by hand since a growth, or why no file can keep it; before: what each part was then."""
    try:
        return ByHand(json.loads(json.dumps(put_in_by_hand(grown, births, before))))
    except FileError as error:
        return ByHand(refused=(error.what, error.where or "", error.remedy or ""))


def put_in_by_hand(grown: nn.Module, births: Mapping[str, Birth], before: Mapping[str, Part]) -> dict[str, Any]:
    """The parts that are not what growth gave, by path.

    Of each their class and its arguments; or the attributes that changed, the tensors that have other shapes, the
    names of the parts in it that are gone, and their order, where that is another. A list that lost some is one that
    lost its last.

    Parameters
    ----------
    births, before: of each parameter and part when the model grew.

    Raises
    ------
    FileError: a part is not what growth gave, and no file can say what it is.
    """
    parameters = {name: tuple(parameter.shape) for name, parameter in grown.named_parameters()}
    now = parts_of(grown)
    bare = {path for path, part in before.items() if part.bare}
    entries: dict[str, dict[str, Any]] = {}
    changed = {n for n in {*births, *parameters} if n not in births or births[n].shape != parameters.get(n)}
    for path in sorted({name.rpartition(".")[0] for name in changed} & now.keys()):
        changed_part = grown.get_submodule(path)
        entry = entry_of(changed_part)
        if entry is not None and gives(entry, changed_part):
            entries[path] = entry
    for path in _new_sequences(grown, {*births, *bare}):
        for inside, part in grown.get_submodule(path).named_modules(prefix=path):
            entry = entry_of(part)
            if entry is None:
                raise FileError(
                    f"it is a {type(part).__name__} inside what was put in by hand, and a file of fxgrow does not name "
                    "that class",
                    where=inside,
                    remedy=f"use layers of torch.nn there, {KEEP}",
                )
            entries[inside] = entry
    for path, part in now.items():
        was = before.get(path)
        if path not in entries and part != was:
            entries[path] = _changed(grown.get_submodule(path), path, part, was)
    named = {path for path, entry in entries.items() if "class" in entry}
    for path in before.keys() & now.keys() - named:
        sizes = _resized(grown.get_submodule(path), path, births, before[path])
        had = [name for home, _, name in (other.rpartition(".") for other in before if other) if home == path]
        inside = [name for name in grown.get_submodule(path)._modules if dotted(path, name) in now]
        missing = sorted({*had} - {*inside})
        if sizes:
            entries.setdefault(path, {})["tensors"] = sizes
        if missing:
            entries.setdefault(path, {})["gone"] = missing
        if inside != [name for name in dict.fromkeys((*had, *inside)) if name in inside]:
            entries.setdefault(path, {})["order"] = inside
        known = {name for name, _ in before[path].buffers or ()}
        added = [n for n, b in grown.get_submodule(path)._buffers.items() if b is not None and n not in known]
        if added and before[path].buffers is not None:
            raise _unknown(dotted(path, added[0]), grown)
    _check_parameters(grown, births, parameters, entries)
    said = {path: entry for path, entry in entries.items() if entry != {"attributes": {path: {}}}}
    return {path: said[path] for path in now if path in said}  # what holds others comes before them


def _resized(part: nn.Module, path: str, births: Mapping[str, Birth], before: Part) -> dict[str, Shape | None]:
    """The tensors of a part that have another shape than growth gave them, or were taken out."""
    had: dict[str, Shape | None] = dict(before.buffers or ())
    sizes: dict[str, Shape | None] = {}
    for leaf, tensor in (*part._parameters.items(), *part._buffers.items()):
        birth = births.get(dotted(path, leaf))
        if birth is None and leaf not in had:
            continue
        shape = None if tensor is None else tuple(tensor.shape)
        if shape != (birth.shape if birth is not None else had[leaf]):
            sizes[leaf] = shape
    return sizes


def _check_parameters(
    grown: nn.Module, births: Mapping[str, Birth], now: Mapping[str, Shape], entries: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise a FileError for a parameter that is not as growth gave it, and of which a file does not say what it is."""
    replaced = {path for path, entry in entries.items() if "class" in entry}
    replaced |= {dotted(path, name) for path, entry in entries.items() for name in entry.get("gone", ())}
    said = {dotted(path, leaf) for path, entry in entries.items() for leaf in entry.get("tensors", ())}
    for name, birth in births.items():
        if name in said or within_any(name, tuple(replaced)):
            continue
        if now.get(name) != birth.shape:
            is_now = f"is {list(now[name])} now" if name in now else "is gone"
            raise FileError(
                f"{name} {is_now}, and was {list(birth.shape)} when the model grew, which is what "
                "a file of fxgrow builds again",
                where=name.rpartition(".")[0] or type(grown).__name__,
                remedy=f"save before the part is replaced, {KEEP}",
            )
    for name in now.keys() - births.keys() - said:
        if name.rpartition(".")[0] not in replaced:
            raise _unknown(name, grown)


def _unknown(name: str, grown: nn.Module) -> FileError:
    return FileError(
        f"{name} was not there when the model grew, and a file of fxgrow cannot build it again",
        where=name.rpartition(".")[0] or type(grown).__name__,
        remedy=f"save before it is added, {KEEP}",
    )


def _changed(module: nn.Module, path: str, part: Part, before: Part | None) -> dict[str, Any]:
    """What a file says of a part whose parameters have the names and sizes that growth gave them."""
    if before is not None and (part.home, part.name) == (before.home, before.name):
        then = dict(before.functions)
        for name, function in part.functions:
            if name not in (*HOOKS, FORWARD) and then.get(name, function) != function:
                raise FileError(
                    f"{name} is {function} now and was {then[name]} when the model grew, and a file of fxgrow names "
                    "no functions",
                    where=path or part.name,
                    remedy=f"save before it is exchanged, {KEEP}",
                )
        had = dict(before.attributes)
        return {"attributes": {path: {n: v for n, v in part.attributes if n not in had or not _same(v, had[n])}}}
    entry = entry_of(module)
    if entry is None or not gives(entry, module):
        was = f"was {before.name}" if before is not None else "was not there"
        raise FileError(
            f"it is {part.name} now and {was} when the model grew, and a file of fxgrow names only layers of "
            "torch.nn that it can build again from their attributes",
            where=path,
            remedy=f"save before the part is replaced, {KEEP}",
        )
    return entry


def _same(before: Any, after: Any) -> bool:
    return type(before) is type(after) and bool(before == after)


def _new_sequences(grown: nn.Module, known: Collection[str]) -> Iterator[str]:
    """The paths of sequences that were something else when the model grew: a layer, or a part with other names."""
    for path, part in grown.named_modules():
        if type(part) is nn.Sequential and path:
            inside = {name[len(path) + 1 :].partition(".")[0] for name in known if name.startswith(f"{path}.")}
            if (inside or path in known) and inside.isdisjoint(part._modules):
                yield path


def put_in_again(grown: nn.Module, parts: Mapping[str, Any]) -> None:
    """Put such parts into the structure of a grown model, without data."""
    for path, part in parts.items():
        if "class" in part:
            owner, _, name = path.rpartition(".")
            grown.get_submodule(owner).add_module(name, made_of(part["class"], part["arguments"]))
        for name in part.get("gone", ()):
            del grown.get_submodule(path)._modules[name]
        for name, shape in part.get("tensors", {}).items():
            _resize(grown.get_submodule(path), name, shape)
        for place, attributes in part.get("attributes", {}).items():
            _set_attributes(grown.get_submodule(place), attributes)
    for path, part in parts.items():
        modules = grown.get_submodule(path)._modules
        for name in part.get("order", ()):
            modules[name] = modules.pop(name)


def _set_attributes(module: nn.Module, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if name not in OF_MODULES and name.isidentifier():
            module.__dict__[name] = _as(module.__dict__.get(name), value)


def _as(before: Any, value: Any) -> Any:
    """A value that JSON gave, with tuples for its lists where there were no lists before."""
    if isinstance(value, dict):
        return {key: _as(before.get(key) if isinstance(before, dict) else None, item) for key, item in value.items()}
    return value if isinstance(before, list) else frozen(value)


def kept_parts(parts: Mapping[str, Part]) -> dict[str, Any]:
    """What a file says of all parts as growth gave them: their classes and plain attributes, by path."""
    return {path: [part.name, dict(part.attributes)] for path, part in parts.items()}


def restore_parts(grown: nn.Module, kept: Mapping[str, Any]) -> None:
    """Give a model built again the attributes that it had: the original may have been changed by hand before it grew.

    Raises
    ------
    FileError: a part is of another class.
    """
    now = parts_of(grown)
    for path, (name, attributes) in kept.items():
        if path not in now or now[path].name != name:
            is_now = f"is {now[path].name} in the one built again" if path in now else "is not in the one built again"
            raise FileError(
                f"a part of the model was {name} when it grew and {is_now}",
                where=path or name,
                remedy="pass the model it was grown from, with what was changed by hand before it grew",
            )
        has = dict(now[path].attributes)
        _set_attributes(
            grown.get_submodule(path),
            {n: v for n, v in attributes.items() if n not in has or json.dumps(v) != json.dumps(has[n])},
        )


def _resize(module: nn.Module, name: str, shape: list[int] | None) -> None:
    """Give a module a tensor of another shape, without data, or None in its place."""
    home: dict[str, Any] = module._buffers if name in module._buffers else module._parameters
    if name not in home:
        raise KeyError(name)
    empty = None if shape is None else torch.empty(shape, device="meta")
    home[name] = empty if empty is None or home is module._buffers else nn.Parameter(empty)
