"""Outputs that a model takes back at its next call: caches of keys and values, states of recurrent layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fxgrow.capture.capturing import Captured
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.outputs import taken_apart
from fxgrow.capture.recording import bound
from fxgrow.capture.skeleton import twin_of
from fxgrow.modules.containers import flat_tensors
from fxgrow.modules.devices import callers_code
from fxgrow.modules.switching import in_mode


def given_back(captured: Captured) -> frozenset[int]:
    """Which tensors of the output, in order, the forward takes in place of an argument that was None.

    The output is given back in parts, the first of which is what the model is called for.
    """
    if captured.recording is None:
        return frozenset()
    model: Any = in_mode(twin_of(captured.recording.bare, share=True), False)
    free = list(_free(model, captured.inputs))
    output = _called(model, captured.inputs) if free else None
    if not isinstance(output, (tuple, list, Mapping)):
        return frozenset()
    items = dict(output.items()) if isinstance(output, Mapping) else dict(enumerate(output))
    taken: set[int] = set()
    start = 0
    for place, (key, item) in enumerate(items.items()):
        tensors = list(flat_tensors(taken_apart(item)[0]))
        names = [key] if key in free else free
        if place and tensors and any(_takes(model, captured.inputs, name, item, place) for name in names):
            taken.update(range(start, start + len(tensors)))
        start += len(tensors)
    return frozenset(taken)


def _free(model: nn.Module, inputs: Inputs) -> Iterator[str]:
    """The arguments that are None and may be something else."""
    called = bound(model, inputs)
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.default is None and called.get(name) is None:
            yield name


def _takes(model: nn.Module, inputs: Inputs, name: str, item: Any, place: int) -> bool:
    """Whether a call with an item of the output gives another of its kind in the same place."""
    again = _called(model, (inputs[0], {**inputs[1], name: item}))
    if not isinstance(again, (tuple, list, Mapping)) or len(again) <= place:
        return False
    other = list(again.values() if isinstance(again, Mapping) else again)[place]
    ranks = [[tensor.ndim for tensor in flat_tensors(taken_apart(each)[0])] for each in (item, other)]
    return ranks[0] == ranks[1]


def _called(model: Any, inputs: Inputs) -> Any:
    try:
        with callers_code(), torch.device("meta"), torch.no_grad():
            return model(*inputs[0], **inputs[1])
    except Exception:  # whatever a forward raises that does not take it
        return None
