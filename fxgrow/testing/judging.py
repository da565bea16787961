"""Compares what a rule claims of an op with what the op computes: ties, old outputs, facts about new ones, proofs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fxgrow.axes.layout import Layout, Leaf
from fxgrow.capture.modes import GrownGraphModule
from fxgrow.capture.norms import spelled_out
from fxgrow.modules.containers import has_fractions
from fxgrow.modules.tensors import named_tensors, place
from fxgrow.proof.certificate import Verdict
from fxgrow.proof.checker import Checker, Walk
from fxgrow.proof.claims import Claim, Map, at_old, settled
from fxgrow.proof.known_values import facts_of
from fxgrow.proof.models import NORM_GUARDS, Model
from fxgrow.proof.node_pair import claims_in
from fxgrow.proof.structures import described
from fxgrow.rules.law import Fact
from fxgrow.rules.op import tensors
from fxgrow.testing.alone import Grown, Guarded, Looked, computed, grown, permuted, units

_WORDS = {Fact.BASE: "anything", Fact.ZERO: "zero", Fact.MEAN: "the mean of the old"}


class WrongRule(AssertionError):
    """A rule claims something that its op does not do; says what, and for which operands."""


@dataclass
class Judgement:
    """What was tried.

    Attributes
    ----------
    growths: how many the rule admitted.
    proved: for how many of these it has a proof.
    unproved: why the others have none.
    """

    growths: int = 0
    proved: int = 0
    unproved: list[str] = field(default_factory=list)


def check_equivariance(looked: Looked) -> None:
    """Permuting the units of a dimension permutes the outputs: a tie that is missed, or one too many, breaks this.

    Raises
    ------
    WrongRule: it does not, for some dimension.
    """
    before = looked.outputs()
    for leaf in looked.free:
        order = torch.randperm(leaf.size, generator=torch.Generator().manual_seed(1)).roll(1)
        values = {name: permuted(value, axes, leaf, order) for name, (value, axes) in looked.operands().items()}
        said = f"with the units of {_places(looked, [leaf])} in another order, outputs are not in that order"
        try:
            after = looked.outputs(values)
        except (RuntimeError, ValueError) as error:
            raise WrongRule(f"{said}: {error}") from error
        for output, was, other in zip(tensors(looked.result), before, after, strict=True):
            _check_close(looked, other, permuted(was, output.axes, leaf, order), said)


def check_growth(looked: Looked, most_unlike: int | None = None) -> Judgement:
    """With all kinds of new entries that the rule admits, old outputs stay, facts are true and so are proofs.

    Parameters
    ----------
    most_unlike: of operands that have a dimension, how many may get another kind of entries than the rest; any number
        if None, which for the tensors of a recurrent layer are hundreds of combinations.

    Raises
    ------
    WrongRule: something that is claimed is not so, or a dimension is said to grow and never can.
    """
    before, judgement = looked.outputs(), Judgement()
    for together in looked.growing_together():
        having = [name for name, t in looked.analysis.parameters.items() if t.leaves() & set(together)]
        admitted = 0
        for facts, growth in _admitted(looked, together, having, most_unlike):
            admitted += 1
            entries = ", ".join(f"{name} {_WORDS[fact]}" for name, fact in zip(having, facts, strict=True))
            said = f"with {_places(looked, together)} twice as large and new entries of {entries or 'nothing'}"
            module, values = growth.assembled(), growth.operands(seed=admitted)
            try:
                after = computed(module, values)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise WrongRule(f"{said}, the op does not run: {error}") from error
            for output, old, new in zip(tensors(looked.result), before, after, strict=True):
                _check_close(looked, growth.old_entries(new, output.axes), old, f"{said}, old outputs move")
                for leaf in together:
                    _check_fact(growth, growth.know.fact(output, leaf), leaf, new, tuple(output.axes), said)
            _check_proof(growth, module, values, before, after, said, judgement)
        if not admitted:
            raise WrongRule(f"{_places(looked, together)} can grow, but the rule never lets it")
        judgement.growths += admitted
    return judgement


def _admitted(
    looked: Looked, together: list[Leaf], having: list[str], most_unlike: int | None
) -> Iterator[tuple[tuple[Fact, ...], Grown]]:
    """The op with some dimensions grown, in each way that its rule admits; with guards too, where it asks for them."""
    for facts in itertools.product((Fact.BASE, Fact.ZERO, Fact.MEAN), repeat=len(having)):
        alike = max(map(facts.count, facts), default=0)
        if most_unlike is not None and len(facts) - alike > most_unlike:
            continue
        for guarded in (Guarded(), Guarded(together)):
            growth = grown(looked, together, dict(zip(having, facts, strict=True)), guarded)
            if growth is not None:
                yield facts, growth
            if not guarded.asked:
                break


def _places(looked: Looked, leaves: list[Leaf]) -> str:
    """Where dimensions are, in words."""
    places = [
        f"{name}[{axis}]"
        for name, tensor in looked.analysis.parameters.items()
        for axis, layout in enumerate(tensor.axes)
        if any(bool((units(layout, leaf, {}) >= 0).any()) for leaf in leaves)
    ]
    return ", ".join(places) or "an output"


def _check_fact(growth: Grown, fact: Fact, leaf: Leaf, value: Tensor, axes: tuple[Layout, ...], said: str) -> None:
    """What a rule says of new entries of its output is true of them."""
    for number, layout in enumerate(axes):
        label = units(layout, leaf, growth.sizes)
        if fact is Fact.ZERO:
            zero = value.index_select(number, (label >= leaf.size).nonzero().flatten())
            _check_close(
                growth.looked, zero, torch.zeros_like(zero), f"{said}, new outputs are not zero, as `facts` says"
            )
        elif fact is Fact.MEAN and (label >= 0).any():
            entries = [value.index_select(number, (label == unit).nonzero().flatten()) for unit in range(2 * leaf.size)]
            mean = torch.stack(entries[: leaf.size]).mean(0)
            for entry in entries[leaf.size :]:
                _check_close(growth.looked, entry, mean, f"{said}, new outputs are not the mean, as `facts` says")


def _check_close(looked: Looked, actual: Tensor, expected: Tensor, said: str) -> None:
    if actual.shape != expected.shape:
        raise WrongRule(f"{said}: their shape is {list(actual.shape)}, it should be {list(expected.shape)}")
    if actual.is_complex():
        actual, expected = torch.view_as_real(actual.resolve_conj()), torch.view_as_real(expected.resolve_conj())
    actual, expected = actual.double(), expected.double()
    actual, expected = (torch.nan_to_num(t.detach(), nan=0.123, posinf=1e30, neginf=-1e30) for t in (actual, expected))
    wrong = (actual - expected).abs()
    if wrong.numel() and bool((wrong > looked.case.tolerance * (1 + expected.abs())).any()):
        raise WrongRule(f"{said}: they are off by {float(wrong.max()):.2g}")


class _Operands(Checker):
    """A checker to whom operands are tensors that a forward computes; parameters by their role stay what they are."""

    roles: Mapping[str, str]

    def constant(self, name: str) -> Claim:
        claim = super().constant(name)
        own = "." in name or self.roles.get(name, "weight") != "weight"
        if own or claim.held is None or not has_fractions(claim.held.new):
            return claim
        return Claim(claim.old, claim.new, claim.maps, *facts_of(claim))


def _check_proof(
    growth: Grown,
    module: GrownGraphModule,
    values: dict[str, Tensor],
    before: list[Tensor],
    after: list[Tensor],
    said: str,
    judgement: Judgement,
) -> None:
    """What `prove` claims of the outputs is true of them; where it claims nothing, that is noted."""
    walk = _walked(growth, module, values)
    steps = [step.certificate for step in walk.steps() if not step.certificate.claim.startswith("every output")]
    weak = [step for step in steps if step.verdict is not Verdict.PROVED]
    if weak:
        judgement.unproved.append(f"{said}: {weak[0].detail}")
        return
    outputs = [claim for node in walk.new.output_node().all_input_nodes for claim in claims_in(walk.bound[node].claims)]
    if len(outputs) != len(after):
        judgement.unproved.append(f"{said}: nothing is claimed of some outputs")
        return
    for claim, old, new in zip(outputs, before, after, strict=True):
        wrong = f"{said}, it is proved that {described(claim)}, and it is not so"
        if claim.new != tuple(new.shape) or claim.old != tuple(old.shape):
            raise WrongRule(f"{wrong}: the shape is {list(new.shape)}, claimed is {list(claim.new)}")
        _check_close(growth.looked, at_old(new, claim.maps, claim.old), old, wrong)
        if claim.zero is not None:
            zero = new[claim.zero.expand(new.shape)]
            _check_close(growth.looked, zero, torch.zeros_like(zero), wrong)
        for axis, source in claim.copies.items():
            _check_close(growth.looked, new.index_select(axis, source), new, wrong)
        for axis, where in claim.means.items():
            old_ones = new.index_select(axis, (claim.map(axis) >= 0).nonzero().flatten())
            means = new.index_select(axis, where.nonzero().flatten())
            _check_close(growth.looked, means, old_ones.mean(axis, keepdim=True).expand(means.shape), wrong)
        if claim.nonnegative and bool((new < 0).any()):
            raise WrongRule(f"{said}, it is proved that no output is negative, and some are")
    judgement.proved += 1


def _walked(growth: Grown, module: GrownGraphModule, values: dict[str, Tensor]) -> Walk:
    """The walk of a checker along the grown op beside the old one; the module gets the values."""
    looked = growth.looked
    training = looked.model.training
    old = Model(looked.captured.graphs, looked.model, looked.captured.model, named_tensors(looked.model))
    graphs = spelled_out(module)
    for name, value in values.items():
        is_parameter = isinstance(looked.analysis.learnable[looked.analysis.aliases[name]], nn.Parameter)
        place(module, name, nn.Parameter(value, False) if is_parameter else value)
    new = Model(graphs, module, module, named_tensors(module))
    maps = {name: tuple(_map(growth, layout) for layout in axes) for name, (_, axes) in looked.operands().items()}
    facts = {fact for fills in growth.know.fills.values() for fact in fills.values()}
    fills = dict.fromkeys(maps, frozenset({"mean"}) if Fact.MEAN in facts else frozenset[str]())
    attributes: dict[str, dict[str, object]] = {}
    for edit in growth.attributes:
        attributes.setdefault(edit.module, {})[edit.attribute] = edit.value
    mode = "both" if "both" in graphs else "train" if training else "eval"
    checker = _Operands(old, new, maps, fills, attributes)
    checker.roles = growth.planner.roles
    walk = checker.walk(mode)
    guards = [node for node in walk.new.nodes if node.target in NORM_GUARDS and node not in walk.partners]
    left = [node for node in walk.old.nodes if node.op.startswith("call") and node not in walk.partners.values()]
    walk.partners.update(zip(guards, left, strict=False))  # a norm is found by its gain where the input is no parameter
    walk.partners = {node: walk.partners[node] for node in walk.new.nodes if node in walk.partners}
    return walk


def _map(growth: Grown, layout: Layout) -> Map:
    kept = growth.is_old(layout)
    return settled(torch.where(kept, kept.long().cumsum(0) - 1, -1))
