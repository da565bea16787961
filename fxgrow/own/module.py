"""Puts a growth into a copy of the user's own module, or says what stands in the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.weight_norm import WeightNorm

from fxgrow import guards
from fxgrow.capture import Captured, GrownGraphModule, skeleton, spelled_out
from fxgrow.capture.alignment import Parting, parting, with_values
from fxgrow.capture.inputs import Inputs, with_channels
from fxgrow.capture.methods import held_forward
from fxgrow.capture.numbers import OF_SIZE, Attribute
from fxgrow.capture.probing import BATCH
from fxgrow.capture.probing import changed as changed_inputs
from fxgrow.capture.recording import Recording
from fxgrow.errors import CaptureError, SettledError
from fxgrow.grouping import grouped
from fxgrow.guarded_norms import NATIVE, PLAIN
from fxgrow.modules.devices import device_of
from fxgrow.modules.references import place_all
from fxgrow.modules.tensors import named_tensors, tensors_named
from fxgrow.own.call_edits import CallEdit
from fxgrow.own.edited import (
    HEAD,
    Edited,
    Multiplied,
    OutputRead,
    ReadOut,
    SpelledOutAttention,
    class_to_change,
    fit_attention,
    leave_fast_path,
    multiplied,
    read_out,
    spell_out,
    with_methods,
)
from fxgrow.own.following import follow_sizes, origins_of, sizes_of_parts
from fxgrow.own.positions import follow_positions, intermediates_apart
from fxgrow.own.reading import may_read
from fxgrow.own.sites import Site, further_sites, sites, sites_of_course
from fxgrow.own.sizes import SizeSettings, wanted
from fxgrow.planning.edits import set_attributes
from fxgrow.planning.plan import NodeEdit, Obstacle, Plan
from fxgrow.rules.shape import follow
from fxgrow.transforms.depth import rearranged
from fxgrow.transforms.width import widened


@dataclass(frozen=True)
class Conflict(Obstacle):
    """An attribute that would have to be several numbers; `numbers`: those that calls can be given in place of it."""

    numbers: tuple[NodeEdit, ...] = ()


def own_class(
    source: nn.Module,
    plan: Plan,
    grown: GrownGraphModule,
    changed: Sequence[Site],
    captured: Captured,
    *,
    others: Sequence[tuple[Captured, Plan]] = (),
    apart: Sequence[NodeEdit] = (),
    given: Mapping[tuple[str, str, tuple[Any, ...]], Any] = MappingProxyType({}),
) -> nn.Module | Obstacle:
    """A copy of a module, of its class, that computes what its grown graph does, over the very tensors of that graph.

    Parameters
    ----------
    changed: the calls that the plan changes. others: other courses of the forward, whose growth the plan has. apart:
        numbers among them that the plan does not change, but which would come out otherwise in the grown copy. given:
        what that has there, by mode, node and path.
    """
    before = captured.recording
    if isinstance(source, fx.GraphModule) or before is None:
        return Obstacle("it is a graph already", type(source).__name__)
    for each in (plan, *(course for _, course in others)):
        if (edit := next((edit for edit in each.nodes if edit.kind == "as_before"), None)) is not None:
            what = "a number is computed from a size that grows and from what each call is given, and has to stay"
            return Obstacle(what, type(source).__name__, edit.node)
    if "forward" in vars(source) and held_forward(source) is None:
        return Obstacle("its forward is a function that it holds, and no method of it", type(source).__name__)
    handed = dict(given)
    sure = [_with_given(site, handed) for site in changed if not site.aside]
    aside = [site for site in changed if site.aside]  # numbers that may come out by themselves
    inputs, part = with_channels(captured.inputs, plan.channels), Parting("")
    spelled = spelled_out(grown)
    graphs = {**_graphs_of_sizes(grown, spelled, inputs)}  # and those of other courses
    for number, (other, course) in enumerate(others):
        sure += further_sites(sites_of_course(other, course), sure)
        graph = widened(other, course, named_tensors(skeleton(source)), "")
        of_course = _graphs_of_sizes(graph, spelled_out(graph), with_channels(other.inputs, plan.channels))
        graphs.update((f"{mode} {number}", taken) for mode, taken in of_course.items())

    def with_numbers(numbers: Sequence[NodeEdit]) -> nn.Module | Obstacle:
        calls = sites(captured, plan, numbers)
        return own_class(source, plan, grown, calls, captured, others=others, apart=numbers, given=handed)

    def compared(own: nn.Module, recording: Recording | None = None) -> Parting | None:
        return parting(own, grown, inputs, recording, spelled=spelled)

    def followed(own: nn.Module, recording: Recording) -> nn.Module:
        """The copy, whose attributes follow that other methods read."""
        inputs_of_both = captured.inputs, inputs
        if plan.depth is not None:
            follow_positions(own, plan.depth, intermediates_apart(source, inputs_of_both), at_once=2)
        changes = follow_sizes(source, own, before, recording, inputs_of_both, plan.depth)
        read = may_read(own, [(module, name) for module, name, _ in changes])
        if read and compared(own) is not None:
            for module, name, value in changes:
                module.__dict__[name] = value if name in read else module.__dict__[name]
        return own

    failed: list[nn.Module] = []
    floats = [site for site in aside if isinstance(site.edit.value, float)]
    sizes = [site for site in aside if site not in floats]
    stages = [[], *([sizes] if sizes and floats else ()), *([aside] if aside else ())]
    for whole, numbers in itertools.product((False, True), stages):
        if whole and all(site.in_forward is None for site in changed):
            continue
        calls = [*sure, *(_with_given(site, handed) for site in _numbers(grown, spelled, numbers, inputs))]
        if whole:
            calls = [replace(site.in_forward or site, edit=site.edit, given=site.given) for site in calls]
        own = _copied(source, plan, grown, calls, graphs)
        numbers_here = own.numbers if isinstance(own, Conflict) else ()
        numbers_here = tuple(edit for edit in numbers_here if edit.mode in captured.graphs)  # not of another course
        if numbers_here and not apart:
            return with_numbers(numbers_here)
        if isinstance(own, Obstacle):
            return Obstacle(own.what, own.where, own.node)
        checked = _checked_as_read(own, plan, spelled, compared)
        if isinstance(checked, Recording):
            return followed(own, checked)
        part = checked
        handed = {**{(mode, node, path): own for mode, node, path, _, own in part.numbers}, **handed}
        failed.append(own)
    for own in failed:
        by_parameters = sizes_of_parts(source, own, plan.depth)
        for module, name, value in by_parameters:
            module.__dict__[name] = value
        if by_parameters and isinstance(checked := _checked_as_read(own, plan, spelled, compared), Recording):
            return followed(own, checked)
    literals = (number[:-1] for number in part.numbers if number[3] is not None)
    further = [NodeEdit(mode, node, "literal", path, value) for mode, node, path, value in literals]
    if further and not {*further} <= {*apart}:
        return with_numbers([*apart, *further])
    return Obstacle(f"the class computes something else: {part}", type(source).__name__, part.node)


Compare = Callable[[nn.Module, Recording], Parting | None]
"""Says where a module, recorded by what is given, does something else than the grown graph."""


def _checked_as_read(
    own: nn.Module, plan: Plan, graphs: Mapping[str, fx.Graph], compared: Compare
) -> Recording | Parting:
    """As `_checked`; outputs are read out where timm's head ends or, if that does not do, where the forward does."""
    checked = _checked(own, plan, graphs, compared)
    if isinstance(checked, Recording) or not isinstance(own, ReadOut) or own.reading == "forward":
        return checked
    reading, own.reading = own.reading, "forward"
    checked = _checked(own, plan, graphs, compared)
    if isinstance(checked, Parting):
        own.reading = reading
    return checked


def _checked(own: nn.Module, plan: Plan, graphs: Mapping[str, fx.Graph], compared: Compare) -> Recording | Parting:
    """What recorded a copy that computes what the graphs do, or where it does something else."""
    outcomes: list[Recording | Parting] = []
    order = {node.name: place for graph in graphs.values() for place, node in enumerate(graph.nodes)}

    def distance(copy: nn.Module) -> float:
        recording = Recording(skeleton(copy), device_of(copy))
        part = compared(copy, recording)
        outcomes.append(recording if part is None else part)
        return 0 if part is None else len(order) + 1 - order.get(part.node, 0)

    if plan.depth is None:
        distance(own)
    else:
        follow_positions(own, plan.depth, distance)
    return next((each for each in outcomes if isinstance(each, Recording)), outcomes[0])


def _copied(
    source: nn.Module,
    plan: Plan,
    grown: GrownGraphModule,
    changed: Sequence[Site],
    graphs: Mapping[str, fx.Graph],
) -> nn.Module | Obstacle:
    own = skeleton(source)
    if plan.depth is not None:
        rearranged(own, plan.depth)
    for readout in plan.readouts:
        own.register_parameter(readout.weight, grown.get_parameter(readout.weight))
    made = named_tensors(grown)
    place_all(own, {name: made[name] for name in tensors_named(own, made)})
    set_attributes(own, plan.attributes)
    head_dims = {id(part): part.head_dim for part in own.modules() if isinstance(part, nn.MultiheadAttention)}
    settings = SizeSettings(own, {Attribute(edit.module, (edit.attribute,)): edit.value for edit in plan.attributes})
    conflicts = settings.settle(list(wanted(graphs)))
    apart = {(site.edit.node, site.edit.path) for site in changed}
    conflict = next((met for met in conflicts if (met.node.name, met.path) not in apart), None)
    if conflict is not None:
        where = conflict.node.meta.get("module_path") or conflict.node.name
        what = f"{conflict.source} cannot be what it has to be at every place ({conflict.value} here)"
        numbers = [NodeEdit(met.mode, met.node.name, "literal", met.path, met.value) for met in conflicts]
        return Conflict(what, where, conflict.node.name, numbers=() if conflict.compared else tuple(numbers))
    settings.write(origins_of(dict(source.named_modules()), plan.depth))
    for module in own.modules():
        if type(module) is nn.MultiheadAttention:  # which keeps sizes of its own
            fit_attention(module, head_dims[id(module)])
    for path, edits in grouped((site.module, site) for site in changed).items():
        part = own.get_submodule(path)
        if isinstance(part, nn.MultiheadAttention) and all(site.edit.kind == "multiply" for site in edits):
            _multiply(part, path, plan)
            continue
        obstacle = _edit(own, path, edits)
        if obstacle is not None:
            return obstacle
    _fit_torchs_own(own)
    if plan.readouts:
        return _read_out(own, grown)
    return own


def _graphs_of_sizes(grown: GrownGraphModule, graphs: dict[str, fx.Graph], inputs: Inputs) -> dict[str, fx.Graph]:
    """The graphs of a module, with values where sizes of tensors were found equal to attributes."""
    nodes = (node for graph in graphs.values() for node in graph.nodes)
    if not any(path[0] == OF_SIZE for node in nodes for path in node.meta.get("sources", ())):
        return graphs
    bare = skeleton(grown)
    return {mode: with_values(graphs, bare, "eval" if mode == "both" else mode, inputs) for mode in graphs}


def _read_out(own: Any, grown: GrownGraphModule) -> nn.Module | Obstacle:
    """A copy whose outputs are read as those of the graph are."""
    if isinstance(own, ReadOut):
        return Obstacle("some of its outputs are read out already, and others grow", type(own).__name__)
    per_mode = {tuple(_outputs_read(graph)) for graph in grown.graphs().values()}
    if len(per_mode) != 1:
        return Obstacle("its outputs are streams that grow, and others in train mode", type(own).__name__)
    kind: Any = class_to_change(own)
    own.__class__, own.outputs_read = read_out(kind), per_mode.pop()
    own.reading = HEAD if hasattr(kind, HEAD) else "forward"
    return own  # type: ignore[no-any-return]


def _outputs_read(graph: fx.Graph) -> Iterator[OutputRead]:
    """The outputs of a graph that are read out, in order."""

    def within(value: Any, path: tuple[Any, ...]) -> Iterator[OutputRead]:
        if isinstance(value, fx.Node):
            if value.target is guards.readout:
                _, weight, axis, core = value.args
                yield OutputRead(path, str(weight.target), axis, core)  # type: ignore[union-attr, arg-type]
        elif isinstance(value, (tuple, list)):
            for key, item in enumerate(value):
                yield from within(item, (*path, key))
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from within(item, (*path, key))

    yield from within(graph.output_node().args[0], ())


def _multiply(module: Any, path: str, plan: Plan) -> None:
    """Let an attention of torch's multiply what its rescaled weights read."""
    if type(module) is nn.MultiheadAttention:
        spell_out(module, module.head_dim)
    inside = f"{path}." if path else ""
    for rescaling in plan.rescalings:
        if rescaling.by == "multiplier" and rescaling.name.startswith(inside):
            name = rescaling.name.removeprefix(inside).replace(".", "_").removesuffix("_weight") + "_factor"
            if name not in vars(module):  # one that multiplies already has taken on its number as an attribute
                setattr(module, name, 1 / rescaling.factor)


def _fit_torchs_own(own: nn.Module) -> None:
    """Layers of torch that are captured spelled out have kernels that look at weights."""
    for module in own.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):  # which the next call computes anew
                with torch.no_grad():
                    setattr(module, hook.name, hook.compute_weight(module))
    kinds = (SpelledOutAttention, Edited, Multiplied, *PLAIN)
    for module in own.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(isinstance(part, kinds) for part in module.modules()):
            leave_fast_path(module)


def _numbers(
    grown: GrownGraphModule, graphs: Mapping[str, fx.Graph], changed: Sequence[Site], inputs: Inputs
) -> Iterator[Site]:
    """The calls whose numbers do not come out by themselves, with what these are; not where they hang on inputs."""
    if not changed:
        return
    other = changed_inputs(inputs, frozenset({BATCH}))
    bare = skeleton(grown)
    for mode in graphs:
        run = "eval" if mode == "both" else mode
        tried = [with_values(graphs, bare, run, inputs)]
        if other is not None:
            with suppress(SettledError, CaptureError):  # more samples take another course, or are not taken
                tried.append(with_values(graphs, bare, run, other.inputs))
        named = [{node.name: node for node in graph.nodes} for graph in tried]
        for site in changed:
            if site.edit.mode == mode:
                values = [_value(nodes, site.edit) for nodes in named]
                if all(value == values[0] for value in values):
                    yield replace(site, edit=replace(site.edit, value=values[0]))


def _with_given(site: Site, found: Mapping[tuple[str, str, tuple[Any, ...]], Any]) -> Site:
    """A site with what the grown copy hands its call."""
    edit = site.edit
    return replace(site, given=found.get((edit.mode, edit.node, tuple(edit.path)), site.given))


def _value(nodes: Mapping[str, fx.Node], edit: NodeEdit) -> Any:
    """What a number has become; of a call in whose place there is a guard now it is what the plan says."""
    if edit.node not in nodes:
        return edit.value
    raw = follow(nodes[edit.node], edit.path)
    return raw.meta["value"] if isinstance(raw, fx.Node) else raw


def _edit(own: nn.Module, path: str, changed: list[Site]) -> Obstacle | None:
    """Let a module make other calls."""
    module: Any = own.get_submodule(path)
    if len(changed) == 1 and changed[0].called and changed[0].edit.kind == "guard" and type(module) in NATIVE:
        module.__class__ = NATIVE[type(module)]
        module.core = changed[0].edit.value["core"]
        return None
    if all(site.called and site.edit.kind == "multiply" for site in changed):
        if not isinstance(module, Multiplied):
            kind: Any = class_to_change(module)
            module.__class__, module.factor = multiplied(kind), 1.0
            for site in changed:
                module.factor *= site.edit.value
        return None  # one that multiplies already has taken on its number as an attribute
    if isinstance(module, fx.GraphModule):  # copies and changes of mode generate its forward anew, without these calls
        what = f"{type(module).__name__} is a graph, whose forward is generated: it cannot make this call another"
        return Obstacle(what, path or type(own).__name__, changed[0].edit.node)
    edits = []
    for site in changed:
        target = _FUNCTIONS.get(type(module)) if site.called else site.target
        weight = _name_within(module, own, site.weight) if site.weight else ""
        if target is None or (site.edit.kind == "multiply" and not weight):
            what = f"no subclass of {type(module).__name__} can make this call another"
            return Obstacle(what, path or type(own).__name__, site.edit.node)
        edit, where = site.edit, (site.method, site.within, site.caller, site.mode, site.inside)
        edits.append(
            CallEdit(target, site.index, edit.kind, edit.path, edit.value, *where, weight, site.given, site.onward)
        )
    before = module.edits if isinstance(module, Edited) else ()
    known = {replace(edit, value=None, given=...) for growth in before for edit in growth if edit.change == "multiply"}
    more = tuple(  # what multiplies already has taken on its number as an attribute
        edit for edit in edits if edit.change != "multiply" or replace(edit, value=None, given=...) not in known
    )
    methods = {name for edit in edits for name in (edit.method, *edit.within)}
    module.__class__ = with_methods(class_to_change(module), methods)
    module.edits = (*before, more) if more else before
    return None


def _name_within(part: nn.Module, model: nn.Module, name: str) -> str:
    """What a part of a model calls a tensor of it; "" where it has none such."""
    tensor = named_tensors(model)[name]
    return next((own for own, other in named_tensors(part).items() if other is tensor), "")


_FUNCTIONS: dict[type[nn.Module], Any] = {nn.Softmax: nn.functional.softmax}
"""What modules that are one node call."""
