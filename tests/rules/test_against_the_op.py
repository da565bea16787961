"""Every rule beside the op it describes, on random tensors: wrong claims, missed ties, disturbed outputs, proofs."""

from __future__ import annotations

import pytest

from fxgrow.rules.registry import rows
from fxgrow.testing.alone import Case, look
from fxgrow.testing.judging import check_equivariance, check_growth
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
        check_equivariance(look(case, training))


NO_PROOF = (
    "the queries are more than they were",
    "the norm is taken over an axis that grows",  # batch
    "LayerNorm is taken over (3, 4)",
    "the weight is not made of parameters alone",
    "standardize has no proof rule",  # a guard beside itself is worked out from the weight
)
"""What no model grows, and the proof rules leave out."""


@both_modes
@every_case
def test_new_units_that_a_rule_admits_leave_old_outputs_alone_and_that_is_proved(case: Case, training: bool) -> None:
    unproved = check_growth(look(case, training)).unproved
    assert [text for text in unproved if not any(known in text for known in NO_PROOF)] == []


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
    here = {"cuda", "neg"}  # runs on no machine without one; is recorded as the operator
    missing = filter(brought_by_fxgrow, rows().keys() - seen - here)
    assert set(map(str, missing)) == set()
