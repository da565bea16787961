"""Capture: records a model's forward in eval and in train mode, and finds out what one record settled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from fxgrow.capture.attributes import note_written
from fxgrow.capture.contexts import STATE, Settled
from fxgrow.capture.inputs import Inputs, example_inputs_for, fitted
from fxgrow.capture.methods import HOOK, RunningHook, names_of_hooks
from fxgrow.capture.modes import GrownGraphModule, copied, merge, naming_alike
from fxgrow.capture.norms import spelled_out
from fxgrow.capture.outputs import Form
from fxgrow.capture.probing import AS_CAPTURED, FEATURES, Circumstances, differences
from fxgrow.capture.recording import Record, Recording
from fxgrow.capture.settling import OTHER, free_numbers, probe
from fxgrow.capture.shapes import propagate
from fxgrow.capture.skeleton import skeleton, twin_of
from fxgrow.garbage import collection_paused
from fxgrow.modules.devices import device_of
from fxgrow.modules.libraries import is_known
from fxgrow.modules.tensors import named_tensors
from fxgrow.opaque import has_hooks, take_off_hooks
from fxgrow.rules.calls import targets


@dataclass(frozen=True)
class Captured:
    """A model's structure and graphs.

    model: the skeleton, every tensor on the meta device.
    graphs: {"both": graph} where train and eval agree, else {"eval": graph, "train": graph}; every node has
        `meta["value"]` (its value on the meta device) and `meta["module_path"]` (whose forward made it), and
        `meta["sources"]` where literals come from attributes, `meta["written"]` where the forward gives numbers of
        the module that is called their values.
    inputs: the arguments and keyword arguments used, on the meta device.
    form: the class of the output, where the graphs return a plain container in its place.
    settled: what the graphs cannot keep of the forward. alike: what else the forward was recorded with, in words, to
        find that it does the same. recording: what recorded it in eval mode. left: the paths of attributes in which the
        forward leaves tensors. before: the same as it was captured, where new blocks have been put in since. hooked:
        layers that hooks run around; the graphs call these without them, and have nodes for what they compute.
        hooks: those of modules that compute something, and those around the whole, of which no record knows.
    """

    model: nn.Module
    graphs: dict[str, fx.Graph]
    inputs: Inputs
    form: Form | None = None
    settled: tuple[Settled, ...] = ()
    alike: tuple[str, ...] = ()
    recording: Recording | None = field(default=None, repr=False, compare=False)
    tier: int = 1
    left: tuple[str, ...] = ()
    before: Captured | None = field(default=None, repr=False, compare=False)
    hooked: tuple[str, ...] = ()
    hooks: tuple[RunningHook, ...] = ()

    def kept(self) -> Captured:
        """The same, as it is now: what is put into the one does not show in the other."""
        return replace(self, model=twin_of(self.model, share=True), graphs=naming_alike(self.graphs))


def capture(model: nn.Module, example_inputs: Any = None) -> Captured:
    """Capture a model in train and in eval mode; the model is not touched.

    Raises
    ------
    CaptureError: the model cannot be captured, or does not take these inputs.
    """
    bare = skeleton(model)
    return _captured(model, bare, example_inputs_for(model, example_inputs))


def recapture(model: nn.Module, inputs: Inputs) -> Captured:
    """Capture a model on inputs that an earlier capture recorded."""
    return _captured(model, skeleton(model), fitted(model, inputs))


def recorded(model: nn.Module, inputs: Inputs, under: Circumstances = AS_CAPTURED) -> Captured:
    """Capture a model on inputs, without a look at what hangs on them."""
    return _captured(model, skeleton(model), inputs, probing=False, under=under)


@collection_paused()
def _captured(
    model: nn.Module, bare: nn.Module, inputs: Inputs, probing: bool = True, under: Circumstances = AS_CAPTURED
) -> Captured:
    if isinstance(model, GrownGraphModule):
        return _recaptured(bare, model, inputs)
    originals = {id(tensor): name for name, tensor in named_tensors(model).items()}
    recording = Recording(bare, device_of(model), originals, under)
    first = recording.record("eval", inputs)
    records = {"eval": first, "train": recording.record("train", inputs)} if first.by_mode else {"eval": first}
    graphs = {mode: record.graph for mode, record in records.items()}
    computing = {node.meta[HOOK] for graph in graphs.values() for node in graph.nodes if HOOK in node.meta}
    computing.update(*(record.hooks for record in records.values()))
    hooks = tuple(sorted({*computing, *(RunningHook("", name) for name in names_of_hooks(bare))}))
    tree = twin_of(bare, share=True)  # what is put into it would be seen by a forward that goes through its parts
    graphs = merge(tree, graphs) if first.by_mode else {"both": first.graph}
    settled = [note for record in records.values() for note in record.settled]
    if type(model).__call__ is not nn.Module.__call__ and not isinstance(model, fx.GraphModule):
        settled.append(Settled("what __call__ does around the forward", type(model).__name__, lost=True))
    if probing and not all(is_known(type(part)) for part in model.modules()):
        settled.extend(_at_once_again(recording, first, inputs))
    settling = {name for record in records.values() for name in record.numbers}
    alike: list[frozenset[str]] = []
    for mode, graph in graphs.items() if probing else ():
        run = "eval" if mode == "both" else mode
        notes, same = probe(recording, run, graph, inputs, records[run])
        settled.extend(notes)
        alike.append(same)
        free_numbers(recording, run, graph, inputs, settling)
    for path, function in recording.functions.items():
        tree.add_module(path, function)
    called = sorted(targets(graphs.values(), "call_module"))
    hooked = tuple(path for path in called if has_hooks(tree.get_submodule(path)))
    for path in hooked:  # the graphs have what they compute around each call
        take_off_hooks(tree.get_submodule(path))
    attributes = targets(graphs.values(), "get_attr")
    for path, constant in recording.constants.items():
        if path in attributes:
            setattr(tree, path, constant)
    note_written(graphs.values(), {k: v for record in records.values() for k, v in record.written.items()})
    modes = {path: part.training for path, part in model.named_modules()}
    for path, part in tree.named_modules():
        part.training = modes.get(path, modes.get(path.rpartition(".")[0], model.training))
    tried = tuple(OTHER[feature] for feature in FEATURES if all(feature in same for same in alike))
    left = tuple(dict.fromkeys(path for record in records.values() for path in record.left))
    once = tuple(dict.fromkeys(settled))
    return Captured(tree, graphs, inputs, first.form, once, tried, recording, left=left, hooked=hooked, hooks=hooks)


def as_graphs_call(model: nn.Module, captured: Captured) -> nn.Module:
    """A model that was captured, with its layers as the graphs call them: without the hooks that run around them."""
    if not captured.hooked:
        return model
    twin = twin_of(model, share=True)
    for path in captured.hooked:
        take_off_hooks(twin.get_submodule(path))
    return twin


def _at_once_again(recording: Recording, first: Record, inputs: Inputs) -> Iterator[Settled]:
    """What is another in the next run of a forward, by state that is nowhere in the model."""
    difference = next(differences(first.graph, recording.record("eval", inputs).graph), None)
    if difference is not None:
        finding = f"{difference.what} hangs on what an earlier call left behind"
        yield Settled(finding, difference.place or type(recording.bare).__name__, True, STATE)


def _recaptured(bare: nn.Module, model: GrownGraphModule, inputs: Inputs) -> Captured:
    """Reuse the graphs of a module that fxgrow made; only the values are worked out again."""
    graphs = {}
    for mode, graph in spelled_out(model).items():
        twin = copied(graph)
        for node in twin.nodes:
            node.meta.pop("sources", None)  # a graph reads no attributes
        root = nn.Module()  # `copy.copy` of a graph module has only what the graph that runs now calls
        root.__dict__.update(bare.__dict__)
        propagate(root.train(mode == "train" or (mode == "both" and model.training)), twin, inputs)
        graphs[mode] = twin
    for part, original in zip(bare.modules(), model.modules(), strict=False):
        part.training = original.training
    return Captured(bare, graphs, inputs, model._form)
