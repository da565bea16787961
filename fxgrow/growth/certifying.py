"""`certify`: from two models to a certificate."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxgrow.capture import Captured, GrownGraphModule, copies, skeleton, spelled_out
from fxgrow.capture.capturing import as_graphs_call
from fxgrow.capture.contexts import STATEMENTS
from fxgrow.capture.inputs import with_channels
from fxgrow.capture.own_methods import called_by
from fxgrow.errors import FxgrowError
from fxgrow.growth.fingerprint import changed_since, fingerprint
from fxgrow.growth.intermediate import GrowthStep, intermediate_model
from fxgrow.growth.parts import Parts
from fxgrow.growth.record import CLAIM as RECORD
from fxgrow.growth.record import record
from fxgrow.growth.replay import as_graph, captured_before, grown_again
from fxgrow.history import History, drawn_by, history_of, known_history
from fxgrow.modules.devices import own_defaults
from fxgrow.modules.shards import Gathered, mesh_of, told_apart
from fxgrow.modules.tensors import named_tensors
from fxgrow.planning.indexing import old_positions
from fxgrow.planning.plan import Plan
from fxgrow.proof.certificate import Certificate, Verdict, tree
from fxgrow.proof.checker import Checker
from fxgrow.proof.claims import Claim, Map, Unproved, old_positions_cover, settled
from fxgrow.proof.code_between_parts import between_parts
from fxgrow.proof.ends import Ends
from fxgrow.proof.equivalence import proved_equivalent
from fxgrow.proof.models import Model
from fxgrow.rules.knowledge import GRADMAX

if TYPE_CHECKING:
    from fxgrow.measure.scale import Scale

CLAIM = "the grown model computes what the original computes"


def certify(grown: nn.Module, original: nn.Module | None = None) -> Certificate:
    """Prove, without running the models, that growth kept the function.

    Parameters
    ----------
    grown: what `fxgrow.grow` or `fxgrow.load` returned.
    original: the model before the last growth, or before any earlier one. Left out: the certificate of the last
        growth stands if graphs, modules and values are unchanged since, to the bit.

    Raises
    ------
    FxgrowError: the module was not grown by fxgrow, or holds no data.

    >>> import torch, fxgrow
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 4))
    >>> str(fxgrow.certify(grown, model).verdict)
    'PROVED'
    """
    with own_defaults():
        return _certified(grown, original)


def _certified(grown: nn.Module, original: nn.Module | None) -> Certificate:
    history = known_history(grown)
    if any(tensor.is_meta for tensor in named_tensors(grown).values()):
        raise FxgrowError("the model is on the meta device and holds no data", remedy="certify a model with weights")
    if original is None:
        return _recorded(grown, history)
    before = history_of(original)
    since = before.stage if before is not None else 0
    if since >= history.stage or (before is not None and before.steps != history.steps[:since]):
        raise FxgrowError(
            "the grown model did not grow from this original",
            where=type(original).__name__,
            remedy="pass the model that was grown, at any of its stages",
        )
    if any(step.settled for step in history.steps[since:]):
        detail = "fxgrow.settle changed it: new units count in norms that were taken over old ones"
        return Certificate.of(CLAIM, [Certificate("no norm was settled", "record", (), Verdict.UNKNOWN, detail)])
    steps = enumerate(history.steps[since:], since + 1)
    growths = [GrowthStep(step.plan, drawn_by(step.seed, stage), step.folded) for stage, step in steps]
    links = _links(growths)
    if any(growth.plan.init == GRADMAX for link in links[:-1] for growth in link):
        detail = "a model in between had units that were chosen by a loss; certify each growth beside what it grew from"
        return Certificate.of(CLAIM, [Certificate("growths are done again", "record", (), Verdict.UNKNOWN, detail)])
    if len(links) == 1:
        return certificate_of(original, grown, links[0], with_scale=True)
    if mesh_of(named_tensors(grown).values()) is not None:
        raise FxgrowError(
            f"the model is divided among processes and grew {len(growths)} times since this original",
            remedy="pass the model before the last growth, or gather both",
        )
    children = []
    for number, link in enumerate(links):
        last = number == len(links) - 1
        after = grown if last else _grown_by(original, link)
        certificate = certificate_of(original, after, link, with_scale=last)
        children.append(replace(certificate, claim=f"{_stages(since, link)} kept the function"))
        since, original = since + len(link), after
    return replace(Certificate.of(CLAIM, children), scale_of=children[-1].scale_of)


def _links(growths: Sequence[GrowthStep]) -> list[list[GrowthStep]]:
    """Groups of successive growths that one walk can check: the first of any kind, the others only widen."""
    links: list[list[GrowthStep]] = []
    for growth in growths:
        graphs = "module" not in (growth.plan.form, links[-1][0].plan.form) if links else False
        plans = (member.plan for member in (growth, *(links[-1] if links else ())))
        ends = any(plan.classes is not None or plan.channels is not None for plan in plans)
        if graphs and growth.only_widens and not links[-1][0].plan.parts and not ends:
            links[-1].append(growth)
        else:
            links.append([growth])
    return links


def _stages(since: int, link: Sequence[GrowthStep]) -> str:
    return f"growth {since + 1}" if len(link) == 1 else f"growths {since + 1} to {since + len(link)}"


def _grown_by(model: nn.Module, growths: Sequence[GrowthStep]) -> nn.Module:
    for growth in growths:
        model = grown_again(model, growth.plan, model, growth.seed, growth.folded)
    return model


def kept_for_proof(captured: Captured | Parts, growth: GrowthStep) -> Mapping[str, Captured] | None:
    """What was captured of the original, by the path of each part ("" for a whole model).

    None where it has been changed since, so that a proof captures it once more.
    """
    if isinstance(captured, Parts):
        return captured.captured if all(part.only_widens for part in growth.parts) else None
    if captured.before is not None:
        return {"": captured.before}
    return {"": captured} if not (growth.deepens or growth.plan.readouts) else None


def certificate_of(
    original: nn.Module,
    grown: nn.Module,
    growths: Sequence[GrowthStep],
    before: Mapping[str, Captured] | None = None,
    with_scale: bool = False,
    graph: GrownGraphModule | None = None,
) -> Certificate:
    """The certificate of growths of which all but the first only widen.

    Parameters
    ----------
    before: what was captured of the original, by part; None: it is captured here.
    graph: what the grown module computes, over its very tensors; None: it is worked out here.
    """
    mesh = mesh_of(named_tensors(grown).values())
    if mesh is not None:
        return _certificate_of_divided(original, grown, growths, mesh)
    plan = growths[0].plan
    captured = before if before is not None else captured_before(original, plan)
    if not plan.parts:
        try:
            if graph is None:
                graph = as_graph(grown, original, plan, growths[0].folded, captured[""])
        except FxgrowError as error:
            return Certificate.of(CLAIM, [Certificate(RECORD, "record", (), Verdict.UNKNOWN, str(error))])
        certificate = Comparison(captured[""], original, growths).certificate(graph, with_scale)
        courses = []
        for course in plan.courses:
            before_it, after_it = (called_by(model, *course.way) for model in (original, grown))
            courses.append(certificate_of(before_it, after_it, [replace(growths[0], plan=course)]))
        if not courses:
            return certificate
        by_course = [
            Certificate.of(f"{course.called}, where the forward takes another course", proved.children)
            for course, proved in zip(plan.courses, courses, strict=True)
        ]
        return replace(Certificate.of(CLAIM, [*certificate.children, *by_course]), scale_of=certificate.scale_of)
    children = []
    for (path, _), growth in zip(plan.parts, growths[0].parts, strict=True):
        whole = original.get_submodule(path), grown.get_submodule(path)
        of_part = certificate_of(*whole, [growth], {"": captured[path]})
        children.append(Certificate.of(f"{path} computes what it did", of_part.children))
    heads = [path for path, part in plan.parts if part.classes is not None]
    places = plan.channels.places if plan.channels is not None else ()
    first = [(path, argument) for path, part in plan.parts if part.channels is not None for argument, _, _ in places]
    children.append(between_parts(original, grown, [path for path, _ in plan.parts], heads, first))
    return Certificate.of(CLAIM, children)


def _certificate_of_divided(
    original: nn.Module, grown: nn.Module, growths: Sequence[GrowthStep], mesh: Any
) -> Certificate:
    """The certificate of models divided among processes, each of which takes every step of the proof.

    The structures are those of the models before they were divided. A tensor is gathered when a step looks at it.
    """
    plans = "".join(f"{growth.plan.to_json()} {growth.seed}" for growth in growths)
    before = {f"{name} of the original": text for name, text in fingerprint(original).items()}
    fingerprints = {**before, **fingerprint(grown), "plans": hashlib.sha256(plans.encode()).hexdigest()}
    apart = told_apart(fingerprints, mesh)
    claim = "every process has the same models"
    if apart:
        detail = f"differ between processes: {', '.join(apart[:3])}"
        return Certificate.of(CLAIM, [Certificate(claim, "record", (), Verdict.UNKNOWN, detail)])
    same = Certificate(
        claim, "record", (f"{len(fingerprints)} fingerprints", "each tensor was gathered when it was looked at")
    )
    plan = growths[0].plan
    if plan.parts:
        detail = "it grew in parts, of which none is proved while they are divided; gather both models and certify"
        return Certificate.of(CLAIM, [same, Certificate(RECORD, "record", (), Verdict.UNKNOWN, detail)])
    values = Gathered(named_tensors(original)), Gathered(named_tensors(grown))
    bare = [skeleton(model, whole=True) for model in (original, grown)]
    children = [same]
    for growth in (growths[0], *(replace(growths[0], plan=course) for course in plan.courses)):
        try:
            first, last = (called_by(model, *growth.plan.way) for model in bare)
            captured = captured_before(first, growth.plan)[""]
            graph = as_graph(last, first, growth.plan, growth.folded, captured)
        except FxgrowError as error:
            return Certificate.of(CLAIM, [Certificate(RECORD, "record", (), Verdict.UNKNOWN, str(error))])
        children.extend(Comparison(captured, first, [growth, *growths[1:]], values).certificate(graph).children)
    return Certificate.of(CLAIM, children)


@dataclass(frozen=True)
class _Divided(Model):
    """A model whose `tensors` are shapes only, with their values elsewhere."""

    values: Mapping[str, Tensor] = field(kw_only=True)

    def tensor(self, name: str) -> Tensor | None:
        return self.values[name] if name in self.values else super().tensor(name)


class _Recent(dict[str, Claim]):
    """The last claims of parameters: those of a layer are let go behind it."""

    def __setitem__(self, name: str, claim: Claim) -> None:
        super().__setitem__(name, claim)
        if len(self) > 8:
            del self[next(iter(self))]


class Comparison:
    """An original, as it was captured, with what growths should have made of it; any model can be put beside it."""

    def __init__(
        self,
        captured: Captured,
        original: nn.Module,
        growths: Sequence[GrowthStep],
        values: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
    ) -> None:
        """values: of the tensors of both models, where `original` and what is put beside it are without data."""
        self.captured = captured
        self.values = values
        self.original = original
        self.plans = [growth.plan for growth in growths]
        original = as_graphs_call(original, captured)
        self.old = Model(captured.graphs, original, captured.model, named_tensors(original), statements=STATEMENTS)
        if values is not None:
            self.old = _Divided(**vars(self.old), values=values[0])
        self.memory: dict[Any, Any] = {}
        self.lost: set[str] = set()
        self.first: list[Certificate] = []
        if not growths[0].only_widens:
            unchanged = replace(self.old, graphs=copies(captured.graphs))
            self.old = intermediate_model(captured, original, growths[0])
            if values is not None:
                self.old = replace(self.old, sources=values[0])
            for mode in unchanged.graphs:
                steps = proved_equivalent(unchanged, self.old, mode)
                claim = f"{_MODES[mode]}, new blocks pass their input on and rescalings cancel"
                self.first.append(tree(claim, steps, "passes on what it is given"))

    def certificate(self, grown: GrownGraphModule, with_scale: bool = False) -> Certificate:
        """Whether a grown model computes what the original does."""
        children, checker = self._begun(grown)
        if checker is None:
            return Certificate.of(CLAIM, children)
        walks, before = {}, len(self.lost)
        for mode in self.old.graphs:
            walks[mode] = checker.walk(mode)
            beside = ", beside the model with just these," if self.first else ","
            children.append(tree(f"{_MODES[mode]}{beside} random draws off", list(walks[mode].steps())))
        if len(self.lost) > before:
            return self.certificate(grown, with_scale)
        result = Certificate.of(CLAIM, children)
        if not with_scale:
            return result

        def scale() -> Scale:
            from fxgrow.measure.scale import scale_of

            return scale_of(walks, grown, with_channels(self.captured.inputs, self.plans[-1].channels))

        return replace(result, scale_of=scale)

    def proves(self, grown: GrownGraphModule) -> bool:
        """Whether the certificate would say PROVED; stops at the first step that is not."""
        children, checker = self._begun(grown)
        if checker is None or any(child.verdict is not Verdict.PROVED for child in children):
            return False
        before = len(self.lost)
        steps = (step for mode in self.old.graphs for step in checker.walk(mode).steps())
        proved = all(step.certificate.verdict is Verdict.PROVED for step in steps)
        return self.proves(grown) if len(self.lost) > before else proved

    def _begun(self, grown: GrownGraphModule) -> tuple[list[Certificate], Checker | None]:
        """What is said of the two models as a whole, and the checker of their graphs if they can be compared."""
        old, new = self.old, Model(spelled_out(grown), grown, grown, named_tensors(grown))
        if self.values is not None:
            new = _Divided(**vars(new), values=self.values[1])
        basis = record(self.captured, self.original, self.plans[-1])
        children = [basis, *self.first, _ties(old.tensors, new.tensors)]
        if old.graphs.keys() != new.graphs.keys():
            detail = f"graphs for {sorted(new.graphs)}, the original has {sorted(old.graphs)}"
            children.append(Certificate("both have the same graphs", "", (), Verdict.UNKNOWN, detail))
            return children, None
        try:
            maps, fills = self.growth
        except Unproved as error:
            return [Certificate("the plan fits", "", (), Verdict.UNKNOWN, str(error))], None
        hooks = _hooks(self.original, grown)
        children += [hooks] if hooks is not None else []
        classes, channels = self.plans[-1].classes, self.plans[-1].channels
        ends = Ends(
            (classes.old, classes.new) if classes is not None else None,
            (channels.old, channels.new) if channels is not None else None,
            channels.places if channels is not None else (),
        )
        checker = Checker(old, new, maps, fills, self.attributes, self.memory, ends, self.lost)
        if self.values is not None:
            checker.constants = _Recent()
        return children, checker

    @cached_property
    def growth(self) -> tuple[dict[str, tuple[Map, ...]], dict[str, frozenset[str]]]:
        """Where old positions are, and how the others were filled, by the plans."""
        return composed(self.plans, {**self.old.tensors, **self.old.plain_tensors()})

    @cached_property
    def attributes(self) -> dict[str, dict[str, Any]]:
        """Attributes that follow sizes, by module."""
        attributes: dict[str, dict[str, Any]] = {}
        deepened = [plan.depth.attributes for plan in self.plans if plan.depth is not None]
        for edit in itertools.chain(*deepened, *(plan.attributes for plan in self.plans)):
            attributes.setdefault(edit.module, {})[edit.attribute] = edit.value
        return attributes


_MODES = {"both": "in eval and in train mode", "eval": "in eval mode", "train": "in train mode"}


def _ties(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Certificate:
    """Names that share a tensor in the original share one in the grown model, and no others do."""
    claim = "tied parameters are tied, and no others"
    first: dict[int, str] = {}
    second: dict[int, str] = {}
    for name, tensor in old.items():
        old_name = first.setdefault(id(tensor), name)
        if name not in new:
            return Certificate(claim, "values", (), Verdict.REFUTED, f"{name} is missing")
        new_name = second.setdefault(id(new[name]), name)
        if old_name != new_name:
            now, before = (tied_name if tied_name != name else "nothing" for tied_name in (new_name, old_name))
            text = f"{name} shares its values with {now}, in the original with {before}"
            return Certificate(claim, "values", (), Verdict.REFUTED, text)
    shared = len(old) - len(first)
    return Certificate(claim, "values", (f"{shared} of {len(old)} names share another's tensor, in both",))


def _hooks(original: nn.Module, grown: nn.Module) -> Certificate | None:
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        before, after = (list(getattr(m, name).values()) for m in (original, grown))
        if [id(hook) for hook in before] != [id(hook) for hook in after]:
            return Certificate("the hooks of the whole are the same", "", (), Verdict.UNKNOWN, f"{name} differ")
    return None


def composed(
    plans: Sequence[Plan], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, tuple[Map, ...]], dict[str, frozenset[str]]]:
    """Where the old positions of each parameter are after several growths, and how the others were filled."""
    canonical: dict[int, str] = {}
    maps: dict[str, list[Tensor | None]] = {}
    fills: dict[str, frozenset[str]] = {}
    for plan in plans:
        for growth in plan.tensors:
            axes: list[Map] = [settled(old_positions(axis)) for axis in growth.axes]
            earlier = maps.get(growth.name)
            maps[growth.name] = axes if earlier is None else [_after(a, b) for a, b in zip(earlier, axes, strict=True)]
            own = frozenset(run.fill for axis in growth.axes for run in axis.runs())
            fills[growth.name] = fills.get(growth.name, frozenset()) | own
    placed: dict[str, tuple[Map, ...]] = {}
    for name, tensor in tensors.items():
        first = canonical.setdefault(id(tensor), name)
        if first not in maps:
            continue
        if len(maps[first]) != tensor.ndim:
            raise Unproved(f"the plan grows {first} on {len(maps[first])} axes, it has {tensor.ndim}")
        for position, size in zip(maps[first], tensor.shape, strict=True):
            if position is not None and not old_positions_cover(position, size):
                raise Unproved(f"the plan does not keep every old entry of {first}")
        placed[name] = tuple(maps[first])
        fills[name] = fills[first]
    return placed, fills


def _after(earlier: Map, later: Map) -> Map:
    """Two growths as one: newest position -> oldest position, or -1."""
    if earlier is None or later is None:
        return later if earlier is None else earlier
    return torch.where(later < 0, -1, earlier[later.clamp(min=0)])


def _recorded(grown: nn.Module, history: History) -> Certificate:
    """The certificate of the last growth, if nothing has changed since."""
    certificate = history.steps[-1].certificate
    record = history.steps[-1].fingerprint
    claim = f"{CLAIM}, as recorded when it grew"
    if certificate is None or record is None:
        detail = "fxgrow.settle changed it" if history.steps[-1].settled else "no certificate was made when it grew"
        return Certificate(claim, "record", (), Verdict.UNKNOWN, f"{detail}; pass the original")
    now, mesh = fingerprint(grown), mesh_of(named_tensors(grown).values())
    apart = told_apart(now, mesh) if mesh is not None else []  # asked by every process, changed or not
    changed = changed_since(record, now) or apart
    if changed:
        return Certificate(
            claim, "record", (), Verdict.UNKNOWN, f"changed since it grew: {', '.join(changed[:3])}; pass the original"
        )
    same = Certificate(
        "graphs, modules and values are to the bit what they were when the model grew",
        "record",
        (f"{len(record)} fingerprints",),
    )
    return Certificate.of(claim, [same, certificate])
