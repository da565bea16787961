"""Fingerprints of a grown module: whether anything that decides its outputs has changed since it grew."""

from __future__ import annotations

import hashlib
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.capture.modes import GrownGraphModule
from fxgrow.contents import functions_around
from fxgrow.history import history_of, tensors_of
from fxgrow.modules.shards import undivided, whole
from fxgrow.modules.tensors import each_once

GRAPH = "graph, "
PARTS = "modules"


def fingerprint(grown: nn.Module) -> dict[str, str]:
    """A hash of every tensor, of every graph and of the attributes of all modules, by name."""
    tensors = tensors_of(grown, history_of(grown))
    hashes = each_once(tensors, lambda name: _of_tensor(tensors[name]))
    for path, part in grown.named_modules():
        for mode, graph in part.graphs().items() if isinstance(part, GrownGraphModule) else ():
            lines = (f"{n.name} {n.op} {_named(n.target)} {_written(n.args)} {_written(n.kwargs)}" for n in graph.nodes)
            hashes[GRAPH + f"{path} {mode}".strip()] = _hash("\n".join(lines).encode())
    parts = [f"{path} {_part(part)}" for path, part in grown.named_modules() if path]
    hashes[PARTS] = _hash("\n".join([*parts, *_around(grown)]).encode())
    return hashes


def changed_since(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Names of what differs."""
    return [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]


def _hash(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _of_tensor(tensor: Tensor) -> str:
    data = whole(tensor).detach().cpu().to_dense().contiguous()
    header = f"{data.dtype} {list(data.shape)} ".encode()
    digest = hashlib.sha256(header)
    if data.numel():
        stored: Any = data.flatten().view(torch.uint8).numpy()
        digest.update(stored)
    return digest.hexdigest()[:32]


def _named(target: Any) -> str:
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"


def _written(item: Any) -> str:
    if isinstance(item, fx.Node):
        return f"%{item.name}"
    if isinstance(item, (tuple, list)):
        return f"({', '.join(map(_written, item))})"
    if isinstance(item, dict):
        return f"{{{', '.join(f'{key}: {_written(value)}' for key, value in item.items())}}}"
    if is_dataclass(item) and not isinstance(item, type):
        return f"{type(item).__name__}{_written(vars(item))}"
    if isinstance(item, slice):
        return f"{_written(item.start)}:{_written(item.stop)}:{_written(item.step)}"
    return repr(item) if isinstance(item, (str, int, float, bool, type(None), torch.dtype)) else _named(item)


def _part(module: nn.Module) -> str:
    kind, state = undivided(module)
    plain = {
        name: value
        for name, value in sorted(state.items())
        if isinstance(value, (str, int, float, bool, tuple, list, type(None)))
        and name != "training"
        and not name.startswith("_")
    }
    return " ".join([f"{kind.__module__}.{kind.__name__} {_written(plain)}", *_around(module)])


def _around(module: nn.Module) -> list[str]:
    """The hooks of a module, and the forward that it holds, by name."""
    return [f"{said} {names}" for said, names in functions_around(module).items() if names]
