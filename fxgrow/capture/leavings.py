"""What a run of a forward leaves: in attributes, in state that models share, in its arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture import contexts
from fxgrow.capture.answers import made_of_sizes
from fxgrow.capture.contexts import Settled
from fxgrow.capture.held_state import Key, contents_of, with_tensors
from fxgrow.capture.recorder import Recorder
from fxgrow.modules.containers import of_kind
from fxgrow.modules.shared_state import Change
from fxgrow.modules.tensors import dotted
from fxgrow.rules.calls import draws, name_of, reached, targets, writes
from fxgrow.rules.registry import shown_by

OF_ARGUMENT = "argument "
"""Begins the place of what a forward leaves in one of its arguments."""


@dataclass(frozen=True)
class Leavings:
    """What a run has left: in buffers and attributes, in state that models share, in arguments.

    assigned: the buffers and attributes that are others than before. written: the numbers that were given to modules
    which are a node, with what they were before.
    """

    recorder: Recorder
    assigned: Mapping[Key, Any]
    written: Mapping[tuple[str, str], tuple[Any, Any]]
    shared: list[Change]
    arguments: list[str]

    @property
    def name(self) -> str:
        """Where things are said to be that are in no part of the model."""
        return type(self.recorder.root).__name__

    @property
    def in_attributes(self) -> dict[str, Any]:
        return {dotted(path, name): value for (path, kind, name), value in self.assigned.items() if kind == "attribute"}

    @property
    def values(self) -> list[Any]:
        """What is in attributes and in shared state."""
        return [*self.in_attributes.values(), *(change.value for change in self.shared)]

    def tensors(self) -> list[torch.Tensor]:
        """The tensors in these."""
        return list(of_kind(contents_of(self.values, set()), torch.Tensor))

    def in_modules(self) -> Iterator[Settled]:
        """What is assigned to buffers and attributes: lost are numbers, and buffers that are not made of sizes."""
        for (path, kind, attribute), value in self.assigned.items():
            lost = isinstance(value, (int, float)) or (
                kind == "buffer" and not made_of_sizes(self.recorder.nodes.get(id(value)))
            )
            yield Settled(f"what the forward assigns to the {kind} {attribute}", path or self.name, lost)

    def in_layers(self) -> Iterator[Settled]:
        """The numbers of modules that are a node which are others than before."""
        for (path, attribute), (before, number) in self.written.items():
            if before is not None and number != before:
                yield Settled(f"what the forward assigns to the attribute {attribute}", path, lost=True)

    def elsewhere(self) -> Iterator[Settled]:
        """What is put into shared state and into arguments."""
        for text, value, _ in self.shared:
            lost = isinstance(value, (int, float, torch.Tensor))
            yield Settled(f"what the forward assigns to {text}", self.name, lost)
        for argument in self.arguments:
            yield Settled(f"what the forward puts into its argument {argument}", self.name, lost=True)

    def places(self) -> Iterator[str]:
        """Where tensors are left, but for tables that are made of weights alone."""
        for path, attribute in self.in_attributes.items():
            for where, value in with_tensors(attribute, path):
                if isinstance(value, torch.Tensor) or not _is_cache(value, self.recorder):
                    yield where
        for change in self.shared:
            if change.place and not _is_cache(change.value, self.recorder):
                yield change.place
        yield from (f"{OF_ARGUMENT}{argument}" for argument in self.arguments)

    def decided_by(self) -> Iterator[Settled]:
        """The attributes and buffers that are others than before by which the forward decides."""
        changed = {str(node.target) for node in _changing(self.recorder.graph)} | self.in_attributes.keys()
        changed |= {dotted(path, name) for path, kind, name in self.assigned if kind == "buffer"}
        numbers = {dotted(asked.module, asked.keys[0]) for asked in self.recorder.attributes_asked}
        for asked, where in {**self.recorder.asked, **dict.fromkeys(sorted(numbers), self.name)}.items():
            if asked in changed:
                finding = f"the course of the forward hangs on what an earlier call left in {asked}"
                yield Settled(finding, where, True, contexts.STATE)

    def written_into(self) -> Iterator[Settled]:
        """The tensors in attributes that are written into; where they were read, they may be constants."""
        unregistered = set(self.recorder.plain.values())
        for node in dict.fromkeys(_changing(self.recorder.graph)):
            if node.target in unregistered:
                finding = f"what the forward writes into the tensor {node.target}"
                yield Settled(finding, node.meta.get("module_path") or self.name, lost=True)


def _is_cache(value: Any, recorder: Recorder) -> bool:
    """Whether a container has tensors that are made of weights alone: a table by sizes, kept for the next call."""
    made = [recorder.nodes[id(tensor)] for tensor in of_kind(value, torch.Tensor) if id(tensor) in recorder.nodes]
    return set(made) <= set(made_of_weights(recorder.graph, made))


def made_of_weights(graph: fx.Graph, results: Iterable[fx.Node]) -> list[fx.Node]:
    """The nodes behind results whose value hangs on tensors alone that the model has and leaves as they are."""
    changing = set(_changing(graph))
    unchanging: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            is_made = node not in changing
        else:
            calls = node.op in ("call_function", "call_method") and not writes(node) and not draws(name_of(node))
            is_made = calls and bool(_sources(node)) and unchanging.issuperset(_sources(node))
        unchanging |= {node} if is_made else set()
    return sorted(reached(unchanging.intersection(results), _sources))


def _sources(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values a node reads: not those that say of which type a tensor is, or where."""
    types = (torch.dtype, torch.device)
    return [source for source in node.all_input_nodes if not isinstance(source.meta["value"], types)]


def _changing(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes of tensors of the model that a run writes to, also through what may be a view, or a layer may."""
    layers = targets([graph], "call_module")
    for node in graph.nodes:
        is_buffer = node.op == "get_attr" and not isinstance(node.meta["value"], nn.Parameter)
        if is_buffer and str(node.target).rpartition(".")[0] in layers:
            yield node
        written = node.args[0] if writes(node) and node.args else None
        made = shown_by(written) if isinstance(written, fx.Node) else None
        if made is not None and made.op == "get_attr":
            yield made
