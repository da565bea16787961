"""Models whose own forward no graph can hold: their largest parts that can be captured grow, each by itself.

Between the parts nothing changes: what goes into a part and what comes out of it keep their shapes. The model comes
back as its own class, with those parts in place of the old ones. Each is a graph module that is also of its old
class, because the rest of the model may call its other methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fxgrow.capture import Captured, GrownGraphModule, capture, example_inputs_for, kept_as, recapture, skeleton
from fxgrow.capture.inputs import Inputs, described, inputs_after, recalled
from fxgrow.errors import CaptureError, as_error, first_line
from fxgrow.growth.around_parts import Passage, Reach, passage
from fxgrow.growth.placing import Courses, grown_in_class, read_elsewhere
from fxgrow.history import Verification, drawn_in_part
from fxgrow.measure.verification import dtype_of, random_inputs, verify
from fxgrow.modules.containers import each_tensor, in_dtype, of_kind
from fxgrow.modules.devices import device_of, random_state_kept
from fxgrow.modules.references import counterparts, exchange, place_all
from fxgrow.modules.shared_state import SharedState
from fxgrow.modules.switching import in_mode
from fxgrow.modules.tensors import as_registered, dotted, each_once, named_tensors, parameter_count, place, within
from fxgrow.own.configs import follow_configs
from fxgrow.own.courses import still_held
from fxgrow.own.refusing import with_refusals
from fxgrow.planning.analysis import hold
from fxgrow.planning.deepening import Deepening, joined, renamed
from fxgrow.planning.plan import Held, Obstacle, Plan, Totals
from fxgrow.transforms.width import widened

_TIER = 3


@dataclass(frozen=True)
class Parts:
    """The captured parts of a model, by path, and the inputs of the whole.

    parameters: how many the whole model has. why: the whole could not be captured. shared: tensors of parts that are
    those of another part, or of the rest, too; they stay as they are. reached: what the rest uses of modules that are
    left out therefore.
    """

    captured: Mapping[str, Captured]
    inputs: Inputs
    parameters: int
    why: CaptureError | None = None
    shared: frozenset[str] = frozenset()
    reached: tuple[Held, ...] = ()

    def plan(
        self,
        name: str,
        init: str,
        parameterization: str,
        planned: Callable[[str, Captured], Plan],
        way: Passage | None = None,
    ) -> Plan:
        """One plan for all parts: theirs, under their paths, and what lies between them as it is.

        way: what of the parts goes straight in and out, where inputs or outputs are to grow.
        """
        plans = {path: planned(path, part) for path, part in self.captured.items()}
        moved = [_under(path, plan) for path, plan in plans.items()]
        flops = [plan.totals for plan in plans.values()]
        before = self.parameters
        added = sum(plan.totals.parameters_after - plan.totals.parameters_before for plan in plans.values())
        return Plan(
            model=name,
            init=init,
            groups=tuple(group for plan in moved for group in plan.groups),
            held=(*(staying for plan in moved for staying in plan.held), *self.reached),
            tensors=tuple(tensor for plan in moved for tensor in plan.tensors),
            nodes=(),
            attributes=(),
            totals=Totals(
                before, before + added, sum(t.flops_before for t in flops), sum(t.flops_after for t in flops)
            ),
            inputs=described(self.inputs),
            tier=_TIER,
            hooked_whole=True,
            depth=joined([plan.depth for plan in moved if plan.depth is not None]),
            parameterization=parameterization,
            rescalings=tuple(rescaling for plan in moved for rescaling in plan.rescalings),
            parts=tuple((path, replace(plan, form="auto")) for path, plan in plans.items()),
            form="module",
            obstacle=Obstacle(self.why.what, self.why.where or name) if self.why is not None else None,
            classes=next((plan.classes for plan in plans.values() if plan.classes is not None), None),
            channels=next(
                (
                    way.of_model(path, plan.channels)
                    for path, plan in plans.items()
                    if way is not None and plan.channels is not None
                ),
                None,
            ),
        )


def no_part_grows(why: CaptureError, reached: tuple[Held, ...]) -> CaptureError:
    """The refusal of a model of which neither the whole nor a part grows."""
    if not reached:
        return why
    what = f"{why.what}; and {reached[0].where[0]} cannot grow by itself: {reached[0].reason}"
    return type(why)(what, where=why.where, remedy=why.remedy)


def passage_through(model: nn.Module, parts: Parts) -> Passage:
    """What of a model's parts goes straight in and out of it."""
    twin = _with_values(model)
    inputs = in_dtype(random_inputs(parts.inputs, 0), dtype_of(twin), device_of(twin))
    what = "what goes in and out of its parts is seen in a run, and it does not run"
    remedy = "leave classes= and in_chans= out, or pass example_inputs of shapes that random values run on"
    with as_error(CaptureError, what, where=type(model).__name__, remedy=remedy):
        return passage(twin, inputs, parts.captured)


def _under(path: str, plan: Plan) -> Plan:
    """A part's plan with its names as the whole model has them."""

    def group(name: str) -> str:
        return f"{path}:{name}"

    def within(places: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{path}.{place}" for place in places)

    return replace(
        plan,
        depth=plan.depth.under(path) if plan.depth is not None else None,
        groups=tuple(replace(g, name=group(g.name), where=within(g.where)) for g in plan.groups),
        held=tuple(replace(h, where=within(h.where)) for h in plan.held),
        rescalings=tuple(replace(r, name=f"{path}.{r.name}") for r in plan.rescalings),
        tensors=tuple(replace(t.regrouped(group), name=f"{path}.{t.name}") for t in plan.tensors),
    )


def find_parts(model: nn.Module, example_inputs: Any, why: CaptureError) -> Parts:
    """The largest parts of a model that can be captured.

    Which inputs they get is seen from a run of the model's forward, on shapes alone as far as that leads.

    Raises
    ------
    CaptureError: no part with parameters can be captured; `why` the whole cannot.
    """
    bare = skeleton(model)
    inputs = example_inputs_for(model, example_inputs)
    seen, reached = _inputs_of_parts(model, bare, inputs)
    captured: dict[str, Captured] = {}
    _search("", model, {path: given for path, given in seen.items() if path not in reached}, captured, set())
    left_out = ((path, bare.get_submodule(path), used) for path, used in reached.items() if path in seen)
    held = tuple(Held(parameter_count(part), (path,), used) for path, part, used in left_out if part._modules)
    if not captured:
        raise no_part_grows(why, held)
    return Parts(captured, inputs, parameter_count(bare), why, _hold_shared(model, captured), held)


def _hold_shared(model: nn.Module, parts: Mapping[str, Captured]) -> frozenset[str]:
    """Let tensors stay that a part shares with another part, or with the rest; returns their names.

    Layers of a part that the model holds by another name, too, are the part's.
    """
    homes: dict[int, set[str]] = {}
    names: dict[str, tuple[str, Tensor]] = {}
    inside = {id(held): path for path in parts for held in model.get_submodule(path).modules()}
    owners = dict(model.named_modules(remove_duplicate=False))
    for name, tensor in named_tensors(model).items():
        home = next((path for path in parts if name.startswith(f"{path}.")), "")
        home = home or inside.get(id(owners[name.rpartition(".")[0]]), "")
        homes.setdefault(id(tensor), set()).add(home)
        names[name] = home, tensor
    shared = set()
    for name, (home, tensor) in names.items():
        if home and len(homes[id(tensor)]) > 1:
            shared.add(name)
            captured_tensor = named_tensors(parts[home].model)[name.removeprefix(f"{home}.")]
            hold(captured_tensor, "another part of the model holds it too")
    return frozenset(shared)


def _search(
    path: str, module: nn.Module, seen: Mapping[str, Inputs], captured: dict[str, Captured], taken: set[nn.Module]
) -> None:
    """Capture what of a module can be, a part before layers of it held apart; `taken`: what captured parts hold."""
    names = Counter(held for _, held in module.named_modules(remove_duplicate=False))
    for name, child in sorted(module.named_children(), key=lambda child: names[child[1]] > 1):
        below = dotted(path, name)
        if child in taken or not any(True for _ in nn.Module.parameters(child)):
            continue
        if below in seen:
            try:
                args, kwargs = seen[below]
                captured[below] = capture(child, args) if not kwargs else recapture(child, seen[below])
                taken.update(child.modules())
                continue
            except CaptureError:
                pass  # its children may do better
        _search(below, child, seen, captured, taken)


def _inputs_of_parts(model: nn.Module, bare: nn.Module, inputs: Inputs) -> tuple[dict[str, Inputs], dict[str, str]]:
    """What each module is called with first, tensors on the meta device, an empty batch as one of two; what is used
    of modules while they do not run.

    Shapes alone lead as far as the forward asks for values; only then is it run.
    """
    seen: dict[str, Inputs] = {}
    reached: dict[str, str] = {}
    problem = _watched_run(in_mode(skeleton(bare), False), inputs, seen, reached)
    if problem is not None:
        drawn = random_inputs(inputs, 0)
        problem = _watched_run(in_mode(_with_values(model), False), drawn, seen, reached)
        _watched_run(in_mode(_with_values(model), True), drawn, seen, reached)  # where it wants labels, it stops
    if not seen and problem is not None:
        raise CaptureError(
            f"the model itself does not run on inputs of these shapes and dtypes: {first_line(problem)}",
            where=type(bare).__name__,
            remedy="pass example_inputs as the model is called",
        ) from problem
    return seen, reached


def _watched_run(twin: nn.Module, inputs: Inputs, seen: dict[str, Inputs], reached: dict[str, str]) -> Exception | None:
    """Run a model and note what its modules are called with, and what is used of them from outside.

    Returns what stopped it, if anything.
    """

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if next(of_kind((args, kwargs), PackedSequence), None) is None:  # which has no shapes
                seen.setdefault(path, each_tensor((args, kwargs), _shape_alone))

        return hook

    shared = SharedState(twin)  # before it has the hooks, which are to write
    for path, module in twin.named_modules():
        if path:
            module.register_forward_pre_hook(note(path), with_kwargs=True)
    device, watch = device_of(twin), Reach(twin)
    args, kwargs = in_dtype(inputs, dtype_of(twin), device)
    try:
        with shared, shared.caches_bypassed(), random_state_kept(device), torch.device(device), torch.no_grad(), watch:
            twin(*args, **kwargs)
    except Exception as error:  # whatever a forward raises: what was seen before counts
        return error
    finally:
        reached.update(watch.reached)
    return None


def _shape_alone(value: Tensor) -> Tensor:
    shape = (2, *value.shape[1:]) if value.ndim and value.shape[0] == 0 else tuple(value.shape)
    return torch.empty(shape, dtype=value.dtype, device="meta")


def _with_values(model: nn.Module) -> nn.Module:
    """A skeleton that borrows a model's parameters; for a model on the meta device, zeros that take no memory."""
    twin, borrowed = skeleton(model), {}
    for name, tensor in named_tensors(model).items():
        if tensor.is_meta:
            dtype = torch.float32 if tensor.dtype.is_floating_point else tensor.dtype
            value = torch.zeros((), dtype=dtype).expand(tensor.shape)
        else:
            value = tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.detach().clone()
        borrowed[name] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    place_all(twin, borrowed)
    return twin


def captured_again(model: nn.Module, plan: Plan) -> Parts:
    """The parts that a plan was made for, captured on the inputs it recorded."""
    captured = {path: recapture(model.get_submodule(path), recalled(part.inputs)) for path, part in plan.parts}
    return Parts(captured, recalled(plan.inputs), parameter_count(model), shared=_hold_shared(model, captured))


def widen_parts(
    parts: Parts,
    plan: Plan,
    source: nn.Module,
    seed: str,
    form: str = "auto",
    courses: Callable[[str], Courses] | None = None,
) -> tuple[nn.Module, Plan]:
    """The model with its parts grown, between which tensors are copies, and the plan with the form of each part.

    courses: looks at those of the part at a path, which its plan may not have yet; None: the plans have them.
    """
    result = skeleton(source)
    inside = tuple(f"{path}." for path in parts.captured)
    outside = {n: t for n, t in named_tensors(source).items() if not n.startswith(inside) or n in parts.shared}
    place_all(result, each_once(outside, lambda name: as_registered(outside[name].detach().clone(), outside[name])))
    forms, before = [], {path: result.get_submodule(path) for path, _ in plan.parts}

    def widen(path: str, part: Plan) -> tuple[GrownGraphModule, Plan]:
        tensors = named_tensors(source.get_submodule(path))
        graph = widened(parts.captured[path], part, tensors, drawn_in_part(seed, path), classes=True)
        for name in named_tensors(graph):
            if f"{path}.{name}" in parts.shared:
                place(graph, name, named_tensors(result)[f"{path}.{name}"])
        return graph, part

    for path, planned in plan.parts:
        original, own = source.get_submodule(path), None
        if "graph" in (form, planned.form):
            graph, part = widen(path, planned)
        else:
            looking = courses(path) if courses is not None else None
            of_part = (original, original, parts.captured[path], planned)
            own, part, graph = grown_in_class(*of_part, partial(widen, path), looking)
        owner, _, name = path.rpartition(".")
        is_own = isinstance(own, nn.Module)
        if isinstance(own, nn.Module):
            elsewhere = partial(_read_elsewhere, path, original, part, parts.shared)
            seeded = drawn_in_part(seed, path)
            part = follow_configs(original, own, graph, inputs_after(part), part, seeded, elsewhere)
            with_refusals(own, part.refusals)
        result.get_submodule(owner)._modules[name] = own if is_own else kept_as(graph, original)  # type: ignore[assignment]
        obstacle = own if isinstance(own, Obstacle) else None
        forms.append((path, replace(part, form="module" if is_own else "graph", obstacle=obstacle)))
    others_now: dict[int, Any] = {}
    for path, part in forms:
        grown = result.get_submodule(path)
        others_now |= counterparts(before[path], grown) | _now_there(before[path], grown, part.depth)
    for module in list(result.modules()):
        module._modules.update({name: others_now.get(id(held), held) for name, held in module._modules.items()})
    exchange(result.modules(), others_now)
    return result, _with_more(plan, forms)


def _read_elsewhere(path: str, original: nn.Module, part: Plan, shared: Collection[str]) -> set[str]:
    """What is read of a part on other courses of its forward, and what others hold."""
    return read_elsewhere(original, part) | {name.removeprefix(f"{path}.") for name in shared if within(name, path)}


def _with_more(plan: Plan, parts: Sequence[tuple[str, Plan]]) -> Plan:
    """The plan of the whole with what the plans of its parts have gained: what only other calls read, or nothing."""
    known, names = {growth.name for growth in plan.tensors}, {group.name for group in plan.groups}
    moved = [_under(path, part) for path, part in parts]
    tensors = [growth for part in moved for growth in part.tensors if growth.name not in known]
    more = sum(part.totals.parameters_after for _, part in parts)
    more -= sum(part.totals.parameters_after for _, part in plan.parts)
    return replace(
        plan,
        groups=(*plan.groups, *(group for part in moved for group in part.groups if group.name not in names)),
        held=still_held(plan.held, tensors),
        tensors=(*plan.tensors, *tensors),
        totals=replace(plan.totals, parameters_after=plan.totals.parameters_after + more),
        parts=tuple(parts),
    )


def _now_there(before: nn.Module, grown: nn.Module, depth: Deepening | None) -> dict[int, Any]:
    """What has come in place of each layer of a part, by the identity of that layer."""
    moves = depth.moves if depth is not None else {}
    layers = ((layer, renamed(path, moves)) for path, layer in before.named_modules())
    now = dict(grown.named_modules(remove_duplicate=False))
    return {id(layer): now[path] for layer, path in layers if path in now}


def verify_parts(original: nn.Module, grown: nn.Module, parts: Parts, seed: int, plan: Plan) -> Verification:
    """Each part beside its original in both modes, and the whole model in eval mode.

    Raises
    ------
    VerificationError: a part, or the whole, differs by more than the tolerance.
    """
    plans = dict(plan.parts)
    of_parts = [
        verify(original.get_submodule(path), grown.get_submodule(path), part.inputs, seed, plan=plans[path])
        for path, part in parts.captured.items()
    ]
    of_whole = verify(original, grown, parts.inputs, seed, modes=(False,), parts=tuple(parts.captured), plan=plan)
    return reduce(_worse, [*of_parts, replace(of_whole, train_error=0.0)])


def _worse(first: Verification, second: Verification) -> Verification:
    return replace(
        first,
        eval_error=max(first.eval_error, second.eval_error),
        train_error=max(first.train_error, second.train_error),
        tolerance=max(first.tolerance, second.tolerance),
        in_place=first.in_place or second.in_place,
    )
