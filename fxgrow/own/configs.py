"""Updates configs from which classes build models, as in transformers, so that they build the grown model.

A model is built from the new config, without data, and the grown copy is compared with it as with a target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from fxgrow.capture import GrownGraphModule, skeleton, spelled_out
from fxgrow.capture.alignment import parting
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.numbers import attributes_in
from fxgrow.errors import PlanError, first_line
from fxgrow.modules.tensors import dotted, named_tensors
from fxgrow.own.edited import plain_kind
from fxgrow.own.entries import Search, changed_entries, configs_in, numbers_of
from fxgrow.own.following import origins_of
from fxgrow.own.target import is_plain, put_into
from fxgrow.own.unread import Read, follow_unread
from fxgrow.planning.likeness import ConfigGrowth, Likeness
from fxgrow.planning.plan import Plan


def follow_configs(
    source: nn.Module,
    own: nn.Module,
    grown: GrownGraphModule,
    inputs: Inputs,
    plan: Plan,
    seed: str,
    elsewhere: Read,
) -> Plan:
    """Let the configs of a grown copy follow, what its class sets from them, and what no forward reads.

    The plan comes back with what became of each.

    Parameters
    ----------
    grown: the graph that was proved. A copy that would compute something else with another config keeps the one it has.
    seed: of new entries.
    """
    origins = origins_of(dict(source.named_modules()), plan.depth)
    configs = []
    for path in _configured(source):
        config, plan = _follow(source, own, path, origins, grown, inputs, plan, seed, elsewhere)
        configs.append(config)
    return replace(plan, configs=tuple(configs))


def _configured(model: nn.Module) -> Iterator[str]:
    """The largest parts of a model that their class builds from nothing but the config that they keep."""
    seen: list[str] = []
    for path, module in model.named_modules():
        if any(not root or path.startswith(f"{root}.") for root in seen):
            continue
        kind = getattr(plain_kind(module), "config_class", None)
        if isinstance(kind, type) and isinstance(module.__dict__.get("config"), kind):
            seen.append(path)
            yield path


def _follow(
    source: nn.Module,
    own: nn.Module,
    path: str,
    origins: dict[str, str],
    grown: GrownGraphModule,
    inputs: Inputs,
    plan: Plan,
    seed: str,
    elsewhere: Read,
) -> tuple[ConfigGrowth, Plan]:
    before, after = source.get_submodule(path), own.get_submodule(path)
    read = _read(after, path, grown)
    try:
        search = Search(plain_kind(before), before.config, numbers_of(before), read)
        config = search.config_for(numbers_of(after), after.config)
        built = search.built(config)
    except Exception as error:  # whatever a constructor raises where it does not take a value
        return ConfigGrowth(path, (), None, f"its class builds nothing like it: {first_line(error)}"), plan
    target = built if not path else _with_part(own, path, built)
    followed, undo = follow_unread(own, grown, target, plan, seed, elsewhere)
    like, obstacle = None, ""
    try:
        like = put_into(target, own, grown, inputs, "one built anew")[1]
    except PlanError as error:
        unread = {dotted(path, name) for name in named_tensors(after).keys() - read}
        where = f"at {error.where}" + (", which the forward does not read" if error.where in unread else "")
        obstacle = "; ".join([f"{error.what} ({where})", *search.conflicts])
    stale = list(_set_from_config(before, after, built, search.original, path, origins, like)) if like else []
    if not _taken_over(own, after, built, stale, grown, inputs):
        undo()
        return ConfigGrowth(path, (), None, "with another config its forward takes another course"), plan
    kept = _beside_files(before, after)
    if like is not None and kept:
        like, obstacle = None, f"{kept[0]} is not in a state_dict, and is not what the class makes"
    flags = tuple(search.flags.items())
    return ConfigGrowth(path, tuple(changed_entries(before.config, config)), like, obstacle, flags), followed


def _read(after: nn.Module, path: str, grown: GrownGraphModule) -> set[str]:
    """The names of tensors and attributes of a part of a grown copy that its graph reads, with those of layers."""
    prefix = f"{path}." if path else ""
    names: set[str] = set()
    parts = dict(after.named_modules())
    for node in (node for graph in spelled_out(grown).values() for node in graph.nodes):
        for source in node.meta.get("sources", {}).values():
            names |= {f"{read.module.removeprefix(prefix)}.{read.keys[0]}" for read in attributes_in(source)}
        name = str(node.target).removeprefix(prefix)
        if node.op == "get_attr":
            names.add(name)
        elif node.op == "call_module" and name in parts:
            if plain_kind(parts[name]).__module__.startswith("torch.nn."):  # others may keep some that they never read
                names |= {f"{name}.{attribute}" for attribute in parts[name].__dict__}
            names |= {f"{name}.{tensor}" for tensor in named_tensors(parts[name])}
    return names


def _with_part(own: nn.Module, path: str, built: nn.Module) -> nn.Module:
    whole = skeleton(own)
    owner, _, name = path.rpartition(".")
    whole.get_submodule(owner)._modules[name] = built
    return whole


def _set_from_config(
    before: nn.Module,
    after: nn.Module,
    built: nn.Module,
    original: nn.Module,
    root: str,
    origins: dict[str, str],
    like: Likeness,
) -> Iterator[tuple[nn.Module, str, Any]]:
    """Attributes that were as the class sets them, and are not what it sets them to now; the forward reads none."""
    needed = {(setting.module, setting.attribute) for setting in like.settings}
    natives, olds, firsts = (dict(model.named_modules()) for model in (built, before, original))
    prefix = f"{root}." if root else ""
    for path, part in after.named_modules():
        whole = prefix + path if path else root
        origin = origins.get(whole, "").removeprefix(prefix) if path else ""
        if origin not in firsts or origin not in olds or path not in natives:
            continue
        native, old, first = (
            models[key].__dict__ for models, key in ((natives, path), (olds, origin), (firsts, origin))
        )
        for name, value in part.__dict__.items():
            if name.startswith("_") or name == "training" or not {name} <= native.keys() & old.keys() & first.keys():
                continue
            was_set = is_plain(old[name]) and old[name] == first[name]
            if was_set and is_plain(native[name]) and value != native[name] and (whole, name) not in needed:
                yield part, name, native[name]


def _taken_over(
    own: nn.Module,
    after: nn.Module,
    built: nn.Module,
    stale: list[tuple[nn.Module, str, Any]],
    grown: GrownGraphModule,
    inputs: Inputs,
) -> bool:
    """Give a grown copy the configs and attributes that a model built anew has, if it computes the same."""
    kinds = tuple({type(config) for config in configs_in(after.config)})
    natives = dict(built.named_modules())
    configs = [
        (part, name, natives[path].__dict__[name])
        for path, part in after.named_modules()
        for name, value in part.__dict__.items()
        if isinstance(value, kinds) and path in natives and isinstance(natives[path].__dict__.get(name), kinds)
    ]
    for changes in (stale, configs):
        saved = [(part, name, part.__dict__[name]) for part, name, _ in changes]
        _set(changes)
        if parting(own, grown, inputs) is not None:
            _set(saved)
            if changes is configs:
                return False
    return True


def _set(changes: list[tuple[nn.Module, str, Any]]) -> None:
    for part, name, value in changes:
        part.__dict__[name] = value


def _beside_files(before: nn.Module, after: nn.Module) -> list[str]:
    """Buffers that have grown and that files leave out: who loads one has them as the class makes them."""
    saved, old = after.state_dict().keys(), named_tensors(before)
    return [
        name
        for name, tensor in named_tensors(after).items()
        if name not in saved and name in old and tensor.shape != old[name].shape
    ]
