"""Every rule beside the op it describes, on random tensors: wrong claims, missed ties, disturbed outputs."""

from __future__ import annotations

import itertools

import pytest
import torch

from fxgrow.axes.layout import Layout, Leaf
from fxgrow.rules.law import Fact
from fxgrow.rules.op import tensors
from fxgrow.rules.registry import rows
from tests.rules.alone import Case, Grown, Looked, grown, look, permuted, units
from tests.rules.cases import CASES, brought_by_fxgrow

every_case = pytest.mark.parametrize("case", CASES, ids=str)
both_modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@every_case
def test_a_rule_leaves_free_what_can_grow(case: Case) -> None:
    assert len(look(case).free) == case.free


@both_modes
@every_case
def test_permuting_the_units_of_a_dimension_permutes_the_outputs(case: Case, training: bool) -> None:
    if not case.by_position:
        assert_equivariant(look(case, training))


@both_modes
@every_case
def test_new_units_that_a_rule_admits_leave_old_outputs_alone(case: Case, training: bool) -> None:
    assert_undisturbed(look(case, training))


def test_every_row_of_the_table_has_a_case() -> None:
    seen: set[object] = set()
    for case in CASES:
        looked = look(case)
        for graph in looked.captured.graphs.values():
            for node in graph.nodes:
                if node.op == "call_module":
                    seen.add(type(looked.captured.model.get_submodule(node.target)))
                elif node.op in ("call_function", "call_method"):
                    seen.add(node.target)
    here = {"cuda"}  # runs on no machine without one
    here |= {torch.arange, torch.randint, torch.randperm}  # settled by capture unless an input decides their size
    missing = filter(brought_by_fxgrow, rows().keys() - seen - here)
    assert set(map(str, missing)) == set()


def assert_equivariant(looked: Looked) -> None:
    """A tie that is missed, or one claimed where there is none, breaks this for some dimension."""
    before = looked.outputs()
    for leaf in looked.free:
        order = torch.randperm(leaf.size, generator=torch.Generator().manual_seed(1)).roll(1)
        values = {name: permuted(value, axes, leaf, order) for name, (value, axes) in looked.operands().items()}
        for output, one, other in zip(tensors(looked.result), before, looked.outputs(values), strict=True):
            assert_close(looked.case, other, permuted(one, output.axes, leaf, order))


def assert_undisturbed(looked: Looked) -> None:
    """Whatever new entries hold within what the rule was told of them, old outputs are what they were."""
    before = looked.outputs()
    for together in looked.growing_together():
        having = [name for name, t in looked.analysis.parameters.items() if t.leaves() & set(together)]
        admitted = 0
        for facts in itertools.product((Fact.BASE, Fact.ZERO, Fact.MEAN), repeat=len(having)):
            for guarded in (False, True):
                found = grown(looked, together, dict(zip(having, facts, strict=True)), guarded)
                if found is None:
                    continue
                admitted += 1
                outputs = found.run(found.operands(seed=admitted))
                for output, one, other in zip(tensors(looked.result), before, outputs, strict=True):
                    assert_close(looked.case, found.old_entries(other, output.axes), one)
                    for leaf in together:
                        assert_fact(found, found.know.fact(output, leaf), leaf, other, tuple(output.axes))
        assert admitted, f"{together} can grow, but the rule never lets it"


def assert_fact(found: Grown, fact: Fact, leaf: Leaf, value: torch.Tensor, axes: tuple[Layout, ...]) -> None:
    """What a rule says of new entries of its output is true of them."""
    for number, layout in enumerate(axes):
        label = units(layout, leaf, found.sizes)
        if fact is Fact.ZERO:
            zero = value.index_select(number, (label >= leaf.size).nonzero().flatten())
            assert_close(found.looked.case, zero, torch.zeros_like(zero))
        elif fact is Fact.MEAN and (label >= 0).any():
            entries = [value.index_select(number, (label == unit).nonzero().flatten()) for unit in range(2 * leaf.size)]
            mean = torch.stack(entries[: leaf.size]).mean(0)
            for entry in entries[leaf.size :]:
                assert_close(found.looked.case, entry, mean)


def assert_close(case: Case, actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=case.tolerance, atol=case.tolerance, equal_nan=True)
