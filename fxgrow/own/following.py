"""Attributes that give widths to methods other than the forward, such as timm's `num_features`.

Such an attribute follows a size that was its value before growth: a size of a tensor that enters or leaves the part
that has the attribute, or else the part's own parts, when the model runs on tensors without data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any

import torch
from torch import nn

from fxgrow.capture.inputs import Inputs
from fxgrow.capture.recorder import FEATURES, Shapes
from fxgrow.capture.recording import Recording
from fxgrow.capture.skeleton import twin_of
from fxgrow.capture.source_code import read_names, walked
from fxgrow.modules.containers import flat_tensors
from fxgrow.modules.devices import callers_code
from fxgrow.modules.libraries import home_of, is_installed
from fxgrow.modules.switching import in_mode
from fxgrow.modules.tensors import dotted, within
from fxgrow.own.edited import ReadOut
from fxgrow.own.positions import Intermediates, intermediates_of, last_places
from fxgrow.planning.deepening import Children, Deepening
from fxgrow.planning.deepening import renamed as moved
from fxgrow.rules.registry import law_of_module

NAMES = (
    "num_features",
    "in_features",
    "in_channels",
    "in_chans",
    "embed_dim",
    "head_hidden_size",
    "hidden_size",
    "out_features",
    "out_channels",
    "in_chs",
    "out_chs",
    "in_dim",
    "out_dim",
    "dim",
    "dim_out",
    "channels",
    "num_channels",
    "num_chs",
    "groups",
)
"""Names that libraries give to attributes that hold a number of channels, or of groups, which may be one a channel."""

OF_OUTPUT = "num_features"
"""What people make a head of their own by, for a model without one."""

_BESIDES = {"forward", "__init__"}

_AXES = range(-5, 5)
"""What a number may be that names an axis."""

Changes = list[tuple[nn.Module, str, Any]]
"""Modules, names of their attributes, and what each was, or what it becomes."""


def follow_sizes(
    source: nn.Module,
    own: nn.Module,
    before: Recording,
    after: Recording,
    inputs: tuple[Inputs, Inputs],
    depth: Deepening | None,
) -> Changes:
    """Let such attributes of a grown copy follow; those that growth has set already stay. Says what each was.

    before, after: what recorded the original and the copy; inputs: on which each was recorded.
    """
    changes: Changes = []
    parts = dict(source.named_modules())
    origins = origins_of(parts, depth)
    added = {new for block in depth.blocks for new, _ in block.modules} if depth is not None else set()
    now = _shapes(own, after, inputs[1]).items()
    shapes = (
        _shapes(source, before, inputs[0]),
        {(origins.get(path, path), side): sizes for (path, side), sizes in now if path not in added},
    )
    for path, module in own.named_modules():
        origin = origins.get(path)
        if origin is None:
            continue
        kind = type(parts[origin])
        is_layer = _is_layer(kind.forward) or law_of_module(module) is not None
        if kind not in type(module).__mro__ or (is_layer and path):
            continue  # torch's own layers, and what has a law, follow as growth sets them, where a graph calls them
        for name in NAMES:
            old = parts[origin].__dict__.get(name)
            if old is None or old != module.__dict__.get(name) or (name == "dim" and old in _AXES):
                continue
            if not path and name == OF_OUTPUT and _is_of_output(old, source, own):
                continue
            if type(old) is int:
                module.__dict__[name] = _counterpart(name, old, *shapes, origin)
            elif are_sizes(old):  # one of each branch
                module.__dict__[name] = type(old)(_counterpart(name, size, *shapes, origin, True) for size in old)
            if module.__dict__[name] != old:
                changes.append((module, name, old))
        for name, new in _read_elsewhere(parts[origin], module):
            changes.append((module, name, module.__dict__[name]))
            module.__dict__[name] = new
    infos: Any = getattr(own, "feature_info", None)
    if infos is not None:
        places = {path: origins[path] for path, _ in own.named_modules() if path in origins}
        now_infos = _informed(infos, *shapes, places, added, depth.children if depth is not None else ())
        own.feature_info = now_infos
        if isinstance(infos, list) and any(info in infos for info in now_infos):
            _follow_intermediates(now_infos, intermediates_of(source, inputs[0]), own, inputs[1])
    return changes


def _read_elsewhere(before: nn.Module, after: nn.Module) -> Iterator[tuple[str, Any]]:
    """Numbers of a user's own that methods besides the forward read, as a VAE's `sample`, with what they become.

    Such a number follows where each size of a parameter that was as large has become one and the same.
    """
    numbers = {name: value for name, value in before.__dict__.items() if name not in NAMES and are_sizes(value)}
    if not numbers or is_installed(type(before)):
        return
    followed = _by_parameters(before, after)
    changed: dict[str, Any] = {}
    for name, value in numbers.items():
        new = type(value)(map(followed, value)) if isinstance(value, (list, tuple)) else followed(value)
        if new != value and after.__dict__.get(name) == value:
            changed[name] = new
    if changed:  # only then is code looked into
        yield from ((name, changed[name]) for name in _read_by_methods(before, is_installed) if name in changed)


def _read_by_methods(part: nn.Module, aside: Callable[[type], bool]) -> list[str]:
    """The names of attributes that the code of a part's methods besides the forward reads; some classes' left aside."""
    own = [vars(base).items() for base in type(part).__mro__ if base is not object and not aside(base)]
    methods = {name for members in own for name, member in members if isinstance(member, FunctionType)} - _BESIDES
    return read_names(walked(part, frozenset(methods)))


def _is_of_output(size: Any, source: nn.Module, own: nn.Module) -> bool:
    """Whether `num_features` says the size of an output that is read out, and so stays, of streams that grow.

    Not where a method reads it, as `reset_classifier` may: a head that it makes stands before the readout.
    """
    sizes = {len(own.get_parameter(read.weight)) for read in own.outputs_read} if isinstance(own, ReadOut) else set()
    is_size = type(size) is int and size in sizes
    return is_size and OF_OUTPUT not in _read_by_methods(source, lambda base: base is nn.Module)


def _by_parameters(before: nn.Module, after: nn.Module) -> Callable[[int], int]:
    """What a number has become where each size of a parameter that was as large has become one and the same."""
    now = dict(after.named_parameters())
    shapes = [(p.shape, now[name].shape) for name, p in before.named_parameters() if name in now]
    pairs = {pair for old, new in shapes for pair in zip(old, new, strict=False)}

    def followed(number: int) -> int:
        became = {new for old, new in pairs if old == number}
        return became.pop() if len(became) == 1 and number not in _AXES else number

    return followed


def sizes_of_parts(source: nn.Module, own: nn.Module, depth: Deepening | None) -> Changes:
    """Numbers of such names that nothing has settled, in parts of users' own, with what they become by parameters.

    For forwards that ask whether such a number is *another* than a size, which says nothing of what it has to be.
    """
    parts = dict(source.named_modules())
    origins = origins_of(parts, depth)
    changes: Changes = []
    for path, module in own.named_modules():
        before = parts.get(origins.get(path, ""))
        if before is None or is_installed(type(before)) or not any(name in before.__dict__ for name in NAMES):
            continue
        followed = _by_parameters(before, module)
        for name in NAMES:
            old = before.__dict__.get(name)
            if type(old) is int and module.__dict__.get(name) == old != followed(old):
                changes.append((module, name, followed(old)))
    return changes


def are_sizes(value: Any) -> bool:
    """Whether a value is a whole number, or several of them."""
    return type(value) is int or (type(value) in (list, tuple) and all(type(item) is int for item in value))


def _is_layer(forward: Any) -> bool:
    """Whether a forward is one that torch's own layers run."""
    home, _, name = home_of(forward).rpartition(".")
    return home == "torch.nn.modules" and name not in ("module", "container")


def origins_of(parts: Mapping[str, nn.Module], depth: Deepening | None) -> dict[str, str]:
    """The path of each part of the grown module -> of the part that it was, or that it repeats."""
    if depth is None:
        return {path: path for path in parts}
    moves = depth.moves
    origins = {moved(path, moves): path for path in parts}
    for block in depth.blocks:
        for new, old in block.modules:
            inside = (path for path in parts if within(path, old))
            origins.update({new + path[len(old) :]: path for path in inside})
    return origins


def _shapes(model: nn.Module, recording: Recording, inputs: Inputs) -> Shapes:
    """The shapes of what goes into each part and comes out of it, and of timm's features, where there are such."""
    shapes = {**recording.shapes, ("", "in"): [tuple(tensor.shape) for tensor in flat_tensors(inputs)]}
    if hasattr(model, FEATURES):
        with suppress(Exception):  # not every model has these in timm's way
            shapes["", "out"], shapes["pre_logits", "out"] = _features(recording, inputs)
    return shapes


def _features(recording: Recording, inputs: Inputs) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of what the head of a model is given, and of what its last layer is."""
    features = recording.features
    runner: Any = in_mode(twin_of(recording.bare, share=True), False)
    before_logits = None
    with callers_code(), torch.device("meta"), torch.no_grad():
        if features is None:
            features = runner.forward_features(*inputs[0], **inputs[1])
        with suppress(Exception):
            before_logits = runner.forward_head(features, pre_logits=True)
    for value in (features, before_logits):
        yield [tuple(tensor.shape) for tensor in flat_tensors(value)]


def _counterpart(name: str, size: int, before: Shapes, after: Shapes, path: str, of_branch: bool = False) -> int:
    """What a size that a part calls by a name has become, if that can be told; else what it was.

    of_branch: what goes through the whole does not tell it.
    """
    sides = (
        ("in",)
        if name.startswith("in_")
        else ("out",)
        if name.startswith("out_") or name in ("dim_out", "num_chs")
        else ("in", "out")
    )
    inner = [part for part, _ in before if part and (not path or part.startswith(f"{path}."))]
    children = [part for part in inner if part.rpartition(".")[0] == path]
    whole = (["pre_logits"], [""]) if name == "head_hidden_size" else ([""], ["pre_logits"])
    for parts in ([path], children, inner) if path or of_branch else whole:
        pairs = (pair for part in parts for side in sides for pair in _pairs(before, after, (part, side)))
        sizes = {new for old, new in pairs if old == size}
        changed = sizes - {size}
        if len(changed) == 1:
            return changed.pop()
        if sizes and ((len(sides) == 1 and parts == [path]) or (parts == whole[0] == ["pre_logits"])):  # as it was
            return size
    return size


def _pairs(before: Shapes, after: Shapes, key: tuple[str, str]) -> Iterator[tuple[int, int]]:
    for old, new in zip(before.get(key, ()), after.get(key, ()), strict=False):
        yield from zip(old[1:], new[1:], strict=False)


def _informed(
    infos: Any,
    before: Shapes,
    after: Shapes,
    origins: Mapping[str, str],
    added: Collection[str],
    containers: Collection[Children],
) -> Any:
    """timm's `feature_info` with an entry for each block that has come, and the channels that parts have now.

    Where only some blocks have an entry, as the last of each stage, there are no more entries: they follow their block.
    What a model puts out keeps its size: the entries of the outputs of one that gives features stay as they are.
    added: the paths of blocks that have come.
    """
    entries = infos if isinstance(infos, list) else getattr(infos, "info", None)
    if not isinstance(entries, list):
        return infos
    put_out: Any = getattr(infos, "out_indices", ())
    outputs = {number % len(entries) for number in put_out}  # timm counts from the end too
    paths = [_whole_path(str(entry.get("module", "")), set(origins.values())) for entry in entries]
    ends = {old: new for container in containers for old, new in _last_of_each(container, origins, paths)}
    places = {new: place for place, new in enumerate(origins)}
    made: list[tuple[int, int | None, dict[str, Any]]] = []  # place in the model, number before, entry
    for number, (entry, whole) in enumerate(zip(entries, paths, strict=True)):
        path, size = str(entry.get("module", "")), entry.get("num_chs")
        if whole is None:
            made.append((made[-1][0] if made else 0, number, dict(entry)))
            continue
        if type(size) is int and number not in outputs:
            size = _counterpart("num_chs", size, before, after, whole)
        block = next((block for block in ends if within(whole, block)), None)
        moved_on = ends[block] + whole[len(block) :] if block is not None else ""
        for new in [moved_on] if places.get(moved_on) else [new for new, origin in origins.items() if origin == whole]:
            changed = {**entry, "module": new[len(whole) - len(path) :], "num_chs": size}
            made.append((places[new], None if new in added and new != moved_on else number, changed))
    made.sort(key=lambda item: item[0])
    result = [{**entry, "index": place} if "index" in entry else entry for place, (_, _, entry) in enumerate(made)]
    if isinstance(infos, list):
        return result
    twin = copy.copy(infos)
    twin.info = result
    now = last_places([number is not None for _, number, _ in made])
    twin.out_indices = type(put_out)(now[number] for number in put_out)
    return twin


def _follow_intermediates(infos: list[Any], before: Intermediates | None, own: nn.Module, inputs: Inputs) -> None:
    """Say of features that no part puts out by itself how many channels `forward_intermediates` gives them now."""
    after = intermediates_of(own, inputs) if before is not None and len(before.each) == len(infos) else None
    if before is None or after is None or len(after.each) != len(infos):
        return
    for info, old, new in zip(infos, before.each, after.each, strict=True):
        became = {size for was, size in zip(old[1:], new[1:], strict=False) if was == info.get("num_chs")}
        if len(became) == 1:
            info["num_chs"] = became.pop()


def _last_of_each(
    container: Children, origins: Mapping[str, str], paths: Collection[str | None]
) -> Iterator[tuple[str, str]]:
    """Where only some children of a container are named: each as it was, and the last before the next as it was."""
    above = origins.get(container.path, container.path)
    olds = [dotted(above, old) for _, old in container.names if old]
    if not all(any(path is not None and within(path, old) for path in paths) for old in olds):
        places = last_places([bool(old) for _, old in container.names])
        yield from zip(olds, (dotted(container.path, container.names[place][0]) for place in places), strict=True)


def _whole_path(ending: str, paths: Collection[str]) -> str | None:
    """The path that ends so; where several do, the one that is so."""
    ends = [path for path in paths if path and f".{path}".endswith(f".{ending}")]
    return ending if ending in ends else ends[0] if len(ends) == 1 else None
