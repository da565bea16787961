"""The extra state of modules (`get_extra_state`) as JSON text in a file, and back."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

from fxgrow.by_hand import KEEP
from fxgrow.errors import FileError, as_error

_PLAIN = (bool, int, float, str, type(None))


def extra_states(model: nn.Module) -> dict[str, Any]:
    """The extra state of each part whose class has one, by path, as plain data.

    Raises
    ------
    FileError: one holds something else than numbers, strings, bytes and tensors in lists, tuples and dictionaries.
    """
    states: dict[str, Any] = {}
    for path, part in model.named_modules():
        if type(part).get_extra_state is nn.Module.get_extra_state:
            continue
        what, of = "its extra state is no data that a file can keep", (TypeError, ValueError, NotImplementedError)
        remedy = (
            "let get_extra_state return numbers, flags, strings, bytes and tensors, and lists, tuples or dictionaries "
            f"of them, {KEEP}"
        )
        with as_error(FileError, what, where=path or type(part).__name__, remedy=remedy, of=of):
            states[path] = _plain(part.get_extra_state())
    return states


def set_extra_states(model: nn.Module, states: Mapping[str, Any]) -> None:
    """Give the parts of a model their extra state again."""
    for path, state in states.items():
        leaves = [_leaf(leaf) for leaf in state["leaves"]]
        model.get_submodule(path).set_extra_state(tree_unflatten(leaves, treespec_loads(state["structure"])))


def _plain(state: Any) -> dict[str, Any]:
    leaves, structure = tree_flatten(state)
    text = treespec_dumps(structure)
    if treespec_loads(text) != structure:
        raise ValueError("keys of a dictionary do not come back from JSON")
    return {"structure": text, "leaves": [_plain_leaf(leaf) for leaf in leaves]}


def _plain_leaf(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return {"tensor": _text(save({"": leaf.detach().cpu().contiguous()}))}
    if isinstance(leaf, (bytes, bytearray)):
        return {"bytes": _text(leaf)}
    if type(leaf) not in _PLAIN:
        raise TypeError(f"it holds a {type(leaf).__name__}")
    return leaf


def _leaf(leaf: Any) -> Any:
    if not isinstance(leaf, dict):
        return leaf
    ((kind, text),) = leaf.items()
    data = base64.b64decode(text)
    return load(data)[""] if kind == "tensor" else data


def _text(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()
