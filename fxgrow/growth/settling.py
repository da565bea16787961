"""`settle`: norms over old units become norms over all of them, at once or little by little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from fxgrow import guards
from fxgrow.capture.modes import GrownGraphModule
from fxgrow.contents import parts_of
from fxgrow.errors import FxgrowError
from fxgrow.guarded_norms import PLAIN, OverOldUnits, read
from fxgrow.history import known_history, learn
from fxgrow.own.call_edits import CallEdit
from fxgrow.own.edited import Edited, is_norm_guard, plain_kind, unedited
from fxgrow.spectral import GuardedSpectralNorm, is_spectral_norm, over_all


def settle(grown: nn.Module, share: float) -> None:
    """Let new units count in the norms of a grown model that take their statistic over old units only.

    This changes the model itself, and **the function that it computes**. Each such LayerNorm, RMSNorm and GroupNorm
    takes mean and variance over all its units, and a new unit counts `share` of an old one. At share 0, as after
    growth, old units count alone. At share 1 torch's own norm is put back. If the share rises from 0 to 1 during
    training, the weights follow. Afterwards the model is as fast as one built by hand, and its norms grow as those of
    any model. State dict, parameters and births stay. Between 0 and 1 the dimensions of such norms do not grow.

    Verification and certificate are about the function before. So `report` drops both, and `certify` says UNKNOWN; at
    share 0 the function is the grown one again. Spectral norms are those of old entries until the share is 1. Other
    guards (reductions, softmax, `normalize`, standardised weights) stay.

    Parameters
    ----------
    share: how much a new unit counts, from 0 to 1. After 1 there is no way back.

    Raises
    ------
    FxgrowError: the module was not grown by fxgrow, has no norm over old units, or share is out of range.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.LayerNorm(8), nn.Linear(8, 2))
    >>> grown = fxgrow.grow(model, 2, example_inputs=torch.randn(1, 4))
    >>> fxgrow.settle(grown, 0.5)
    >>> str(grown.get_submodule("2")).endswith("core=((0, 8),), share=0.5)")
    True
    >>> fxgrow.settle(grown, 1)
    >>> type(grown.get_submodule("2")).__name__
    'LayerNorm'
    """
    history = known_history(grown)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise FxgrowError(f"share is {share!r}", remedy="pass a number from 0 (old units) to 1 (all units)")
    if share == (history.steps[-1].settled or 0) and (share or not any(step.settled for step in history.steps)):
        return
    before = parts_of(grown)
    if settle_norms(grown, float(share)) == 0:
        settled = any(step.settled == 1 for step in history.steps)
        raise FxgrowError(
            f"{type(grown).__name__} has no norm over old units{': all were settled' if settled else ''}",
            remedy="settle a model whose plan says guarded statistics" + (", or load it as it was" if settled else ""),
        )
    learn(grown, history, before, settled=float(share), verification=None, certificate=None, fingerprint=None)


def settle_norms(model: nn.Module, share: float) -> int:
    """Settle every norm over old units in a model, whatever its form, or none of them; how many there were."""
    for module in model.modules():
        if isinstance(module, Edited):
            _guarded(module)
    count = 0
    graphs = [part for part in model.modules() if isinstance(part, GrownGraphModule)]
    inside = {id(part) for graph in graphs for part in graph.modules() if isinstance(part, Edited)}  # never called
    for module in model.modules():
        if isinstance(module, GrownGraphModule):
            count += _settle_graphs(module, share)
        elif id(module) not in inside:
            count += _settle_module(module, share)
    return count


def _settle_module(module: Any, share: float) -> int:
    if isinstance(module, Edited):
        return _settle_calls(module, share)
    if isinstance(module, ParametrizationList) and is_spectral_norm(module):
        guarded = type(module[0]) is GuardedSpectralNorm
        if guarded and share == 1:
            over_all(module[0], module.original.shape)  # type: ignore[arg-type]
        return int(guarded)
    if not issubclass(type(module), OverOldUnits):
        return 0
    if share == 1 and type(module) in PLAIN:
        module.__class__ = plain_kind(module)
        for name in ("core", "share"):
            module.__dict__.pop(name, None)
    elif share == 0:
        module.__dict__.pop("share", None)
    else:
        module.share = share
    return 1


# -- calls that a forward makes --------------------------------------------------------------------------------


def _settle_calls(module: Any, share: float) -> int:
    """Settle the guards that calls of a module became."""
    guarded, later = _guarded(module)
    if not guarded:
        return 0
    names = {"group_norm": "num_channels"}
    owned = len(guarded) == 1 and hasattr(module, names.get(guarded[0].value["function"], "normalized_shape"))
    growths = []
    for growth in module.edits:
        edits = []
        for edit in growth:
            if edit in later:
                continue
            if any(edit is guard for guard in guarded):
                value = _after(edit, later)
                if share == 1 and owned:
                    _set_size(module, value)
                    continue
                edit = replace(edit, value={**value, "share": share})
            edits.append(edit)
        if edits:
            growths.append(tuple(edits))
    module.edits = tuple(growths)
    if not growths:
        unedited(module)
    return len(guarded)


def _guarded(module: Any) -> tuple[list[CallEdit], list[CallEdit]]:
    """The guards of norms among the calls of a module, and what later growths made of these.

    Raises
    ------
    FxgrowError: it cannot be told which of the guards a later growth changed.
    """
    guarded = [
        edit for growth in module.edits for edit in growth if is_norm_guard(edit) and edit.value.get("share") != 1
    ]
    targets = {guards.NORMS[edit.value["function"]] for edit in guarded}
    later = [edit for growth in module.edits for edit in growth if edit.target in targets]
    one_for_several = any(edit.index is None for edit in guarded) and any(edit.index is not None for edit in later)
    if later and (len(guarded) > 1 or one_for_several):
        raise FxgrowError(
            f"{type(module).__name__} computes several norms itself, and grew more than once",
            remedy="settle it between growths, or write the norms as modules of their own",
        )
    return guarded, later


def _after(edit: CallEdit, later: list[CallEdit]) -> dict[str, Any]:
    """What a guard is by now: later growths gave it another size, and other places for its old units."""
    value = {**edit.value, "arguments": dict(edit.value["arguments"])}
    place_of_core = 4 if value["function"] == "rms_norm" else 5
    for change in later:
        path = tuple(change.path)
        if path == ("args", place_of_core):
            value["core"] = change.value
        elif path == ("args", 1, 0):
            value["size"] = change.value
        elif path == ("args", 1):
            value["arguments"]["num_groups"] = change.value
    return value


def _set_size(module: Any, guard: dict[str, Any]) -> None:
    """Let the attribute that torch's own norm reads be the size that the norm has."""
    if guard["function"] == "group_norm":
        module.num_channels = module.weight.shape[0] if module.weight is not None else module.num_channels
        return
    shape = module.normalized_shape
    module.normalized_shape = guard["size"] if isinstance(shape, int) else type(shape)((guard["size"],))


# -- graphs ------------------------------------------------------------------------------------------------------


def _settle_graphs(module: GrownGraphModule, share: float) -> int:
    count = 0
    for graph in module.graphs().values():
        for node in graph.nodes:
            norm = read(node)
            if norm is not None and norm[2] < 1:
                name, arguments, _ = norm
                node.target, node.args = guards.settled_call(name, arguments, share)
                count += 1
        graph.lint()
    if count:
        module.recompile()
    return count
