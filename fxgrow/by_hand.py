"""Parts that were put in by hand after growth, such as new heads, as a file keeps them: their class and their sizes."""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import fx, nn

from fxgrow.birth import Birth
from fxgrow.documents import frozen
from fxgrow.errors import FileError
from fxgrow.references import OF_MODULES

_CONVOLUTION = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")

_KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "Conv1d": (nn.Conv1d, _CONVOLUTION),
    "Conv2d": (nn.Conv2d, _CONVOLUTION),
    "Conv3d": (nn.Conv3d, _CONVOLUTION),
    "LayerNorm": (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "RMSNorm": (nn.RMSNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "GroupNorm": (nn.GroupNorm, ("num_groups", "num_channels", "eps", "affine")),
    "BatchNorm1d": (nn.BatchNorm1d, _BATCH_NORM),
    "BatchNorm2d": (nn.BatchNorm2d, _BATCH_NORM),
    "BatchNorm3d": (nn.BatchNorm3d, _BATCH_NORM),
    "PReLU": (nn.PReLU, ("num_parameters",)),
    "Sequential": (nn.Sequential, ()),
    "ModuleList": (nn.ModuleList, ()),
}
"""Classes with parameters of which a file can name one, and what they are made of. Of those without, it names torch's
own: a file never says what code to run. timm's layers that are made as torch's are named, too."""

_BASES = {kind: name for name, (kind, _) in _KINDS.items()}
_OF_TIMM = "timm.layers."
_KEEP = "or keep the state_dict with torch.save"


@dataclass(frozen=True)
class Part:
    """What a part is beside its tensors: its class, its plain attributes, and the names of functions that it holds.

    Attributes
    ----------
    functions: names of functions that it holds; its graphs as text, where it has any.
    bare: it has no tensors and no parts of its own.
    """

    home: str
    name: str
    attributes: tuple[tuple[str, Any], ...]
    functions: tuple[tuple[str, str], ...]
    bare: bool

    def is_of(self, other: Part) -> bool:
        """Whether both are of one class."""
        return (self.home, self.name) == (other.home, other.name)


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


def parts_of(model: nn.Module) -> dict[str, Part]:
    """What every part is, by path; the model itself has the path ""."""
    return {path: _part(part) for path, part in model.named_modules(remove_duplicate=False)}


def _part(part: Any) -> Part:
    kind, plain, functions = type(part), [], []
    is_graph = isinstance(part, fx.GraphModule)
    for name, value in sorted(part.__dict__.items()):
        if name in OF_MODULES or (is_graph and name.startswith("_")):
            continue
        if _is_plain(value):
            plain.append((name, copy.deepcopy(value)))
        elif isinstance(value, (FunctionType, BuiltinFunctionType)) and name != "forward":
            functions.append((name, f"{value.__module__}.{value.__qualname__}"))
    if is_graph:
        graphs = part.graphs() if hasattr(part, "graphs") else {"": part.graph}  # of each mode, in a grown one
        functions += [(f"the graph {mode}".strip(), _digest(graph)) for mode, graph in graphs.items()]
    return Part(kind.__module__, kind.__name__, tuple(plain), tuple(functions), not _holds(part))


def _digest(graph: fx.Graph) -> str:
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(graph)).encode()).hexdigest()[:16]


def _holds(part: nn.Module) -> bool:
    return any(
        value is not None for held in (part._modules, part._parameters, part._buffers) for value in held.values()
    )


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def by_hand_since(grown: nn.Module, births: Mapping[str, Birth], before: Mapping[str, Part]) -> ByHand:
    """What was put in by hand since a growth, or why no file can keep it; before: what each part was then."""
    try:
        return ByHand(json.loads(json.dumps(put_in_by_hand(grown, births, before))))
    except FileError as error:
        return ByHand(refused=(error.what, error.where or "", error.remedy or ""))


def put_in_by_hand(grown: nn.Module, births: Mapping[str, Birth], before: Mapping[str, Part]) -> dict[str, Any]:
    """The parts that are not what growth gave, by path: their class and its arguments, or the attributes that changed.

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
    found: dict[str, dict[str, Any]] = {}
    changed = {n for n in {*births, *parameters} if n not in births or births[n].shape != parameters.get(n)}
    for path in sorted({name.rpartition(".")[0] for name in changed} & now.keys()):
        entry = _entry(grown.get_submodule(path))
        if entry is not None:
            found[path] = entry
    for path in _new_sequences(grown, {*births, *bare}):
        for inside, part in grown.get_submodule(path).named_modules(prefix=path):
            entry = _entry(part)
            if entry is None:
                raise FileError(
                    f"it is a {type(part).__name__} inside what was put in by hand, and a file of fxgrow does not name "
                    "that class",
                    where=inside,
                    remedy=f"use layers of torch.nn there, {_KEEP}",
                )
            found[inside] = entry
    for path, part in now.items():
        was = before.get(path)
        if path not in found and part != was:
            found[path] = _changed(grown.get_submodule(path), path, part, was)
    _check_parameters(grown, births, parameters, {path for path, entry in found.items() if "class" in entry})
    for path in before.keys() - now.keys():
        if before[path].bare and not any(around in found for around in _around(path)):
            raise FileError(
                f"{before[path].name} is gone, which was there when the model grew",
                where=path,
                remedy=f"put nn.Identity() in its place, {_KEEP}",
            )
    return dict(sorted(found.items()))  # what holds others comes before them


def _around(path: str) -> Iterator[str]:
    """The path, and those of the parts that it is in."""
    steps = path.split(".")
    return (".".join(steps[:count]) for count in range(1, len(steps) + 1))


def _check_parameters(
    grown: nn.Module, births: Mapping[str, Birth], now: Mapping[str, tuple[int, ...]], replaced: Collection[str]
) -> None:
    """Raise a FileError for a parameter that is not as growth gave it, and in no part that a file names."""
    for name, birth in births.items():
        if not any(around in replaced for around in _around(name)) and now.get(name) != birth.shape:
            is_now = f"is {list(now[name])} now" if name in now else "is gone"
            raise FileError(
                f"{name} {is_now}, and was {list(birth.shape)} when the model grew, which is what "
                "a file of fxgrow builds again",
                where=name.rpartition(".")[0] or type(grown).__name__,
                remedy=f"save before the part is replaced, {_KEEP}",
            )
    for name in now.keys() - births.keys():
        if name.rpartition(".")[0] not in replaced:
            raise FileError(
                f"{name} was not there when the model grew, and a file of fxgrow cannot build it again",
                where=name.rpartition(".")[0] or type(grown).__name__,
                remedy=f"save before the part is added, {_KEEP}",
            )


def _changed(module: nn.Module, path: str, part: Part, before: Part | None) -> dict[str, Any]:
    """What a file says of a part whose parameters have the names and sizes that growth gave them."""
    if before is not None and part.is_of(before):
        then = dict(before.functions)
        for name, function in part.functions:
            if then.get(name, function) != function:
                raise FileError(
                    f"{name} is {function} now and was {then[name]} when the model grew, and a file of fxgrow names "
                    "no functions",
                    where=path or part.name,
                    remedy=f"save before it is exchanged, {_KEEP}",
                )
        had = dict(before.attributes)
        return {"attributes": {path: {n: v for n, v in part.attributes if n not in had or not _same(v, had[n])}}}
    entry = _entry(module)
    if entry is None:
        was = f"was {before.name}" if before is not None else "was not there"
        raise FileError(
            f"it is {part.name} now and {was} when the model grew, and a file of fxgrow names only layers of "
            "torch.nn that it can build again from their attributes",
            where=path,
            remedy=f"save before the part is replaced, {_KEEP}",
        )
    return entry


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _entry(part: Any) -> dict[str, Any] | None:
    """The class of a part and what it is made of; None where a file cannot say it."""
    kind = type(part)
    name = _BASES.get(kind)
    if name is None and kind.__module__.startswith(_OF_TIMM) and _of_timm(kind.__name__) is kind:
        name = next((name for base, name in _BASES.items() if kind.__init__ is base.__init__), None)
    if name is None:
        known = _arguments(part) if not _holds(part) else None
        return None if known is None else {"class": kind.__name__, "arguments": known}
    arguments = {argument: getattr(part, argument) for argument in _KINDS[name][1]}
    if "bias" in inspect.signature(kind).parameters:
        arguments["bias"] = part.bias is not None
    return {"class": kind.__name__ if kind in _BASES else _OF_TIMM + kind.__name__, "arguments": arguments}


def _of_timm(name: str) -> Any:
    return getattr(importlib.import_module(_OF_TIMM.rstrip(".")), name, None)


def _new_sequences(grown: nn.Module, known: Collection[str]) -> Iterator[str]:
    """The paths of sequences that were something else when the model grew: a layer, or a part with other names."""
    for path, part in grown.named_modules():
        if type(part) is nn.Sequential and path:
            inside = {name[len(path) + 1 :].partition(".")[0] for name in known if name.startswith(f"{path}.")}
            if (inside or path in known) and inside.isdisjoint(part._modules):
                yield path


def _arguments(part: nn.Module) -> dict[str, Any] | None:
    """With which arguments torch's class gives such a part; None where it is not torch's, or these do not tell."""
    name = type(part).__name__
    if getattr(nn, name, None) is not type(part):
        return None
    wanted = inspect.signature(type(part)).parameters
    given = {key: value for key, value in part.__dict__.items() if key in wanted and _is_plain(value)}
    try:
        same = _part(_made(name, json.loads(json.dumps(given)))) == _part(part)
    except (TypeError, ValueError):  # it needs what no attribute says
        return None
    return given if same else None


def _made(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A layer of a class that a file may name, without data."""
    is_timms = name.startswith(_OF_TIMM)
    kind: Any = _of_timm(name.removeprefix(_OF_TIMM)) if is_timms else getattr(nn, name, None)
    is_layer = isinstance(kind, type) and issubclass(kind, tuple(_BASES) if is_timms else nn.Module)
    if not is_layer:
        raise TypeError(f"{name} is no class of layers")
    device = {"device": "meta"} if "device" in inspect.signature(kind).parameters else {}
    made: nn.Module = kind(
        **{key: tuple(it) if isinstance(it, list) else it for key, it in arguments.items()}, **device
    )
    return made


def put_in_again(grown: nn.Module, parts: Mapping[str, Any]) -> None:
    """Put such parts into the structure of a grown model, without data."""
    for path, part in parts.items():
        if "class" in part:
            owner, _, name = path.rpartition(".")
            grown.get_submodule(owner).add_module(name, _made(part["class"], part["arguments"]))
        for place, attributes in part.get("attributes", {}).items():
            module = grown.get_submodule(place)
            for name, value in attributes.items():
                if name not in OF_MODULES and name.isidentifier():
                    is_list = isinstance(module.__dict__.get(name), list)
                    module.__dict__[name] = value if is_list else frozen(value)
