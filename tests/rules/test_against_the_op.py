"""Every rule beside the op it describes, on random tensors: wrong claims, missed ties, disturbed outputs, proofs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fxgrow.rules.registry import rows
from fxgrow.testing.alone import Looked, look
from fxgrow.testing.judging import Judgement, check_equivariance, check_growth
from tests.rules.cases import CASES, brought_by_fxgrow

CASES_IN_MODES = [
    pytest.param((number, training), id=f"{case}-{'train' if training else 'eval'}")
    for number, case in enumerate(CASES)
    for training in (False, True)
]
SEEN: dict[int, set[object]] = {}
"""What the graph of a case calls, by the number of the case, where it has been looked at already."""


@pytest.fixture(scope="module", params=CASES_IN_MODES)
def looked(request: pytest.FixtureRequest) -> Looked:
    number, training = request.param
    result = look(CASES[number], training)
    SEEN[number] = set(called(result))
    return result


def called(looked: Looked) -> Iterator[object]:
    """The module classes, functions and methods that the graphs of an op call."""
    for graph in looked.captured.graphs.values():
        for node in graph.nodes:
            if node.op == "call_module":
                yield type(looked.captured.model.get_submodule(node.target))
            elif node.op in ("call_function", "call_method"):
                yield node.target


def test_a_rule_leaves_free_what_can_grow(looked: Looked) -> None:
    assert len(looked.free) == looked.case.free


def test_permuting_the_units_of_a_dimension_permutes_the_outputs(looked: Looked) -> None:
    if not looked.case.by_position:
        check_equivariance(looked)


NO_PROOF = (
    "the queries are more than they were",
    "the norm is taken over an axis that grows",  # batch
    "LayerNorm is taken over (3, 4)",
    "the weight is not made of parameters alone",
    "standardize has no proof rule",  # a guard beside itself is worked out from the weight
)
"""What no model grows, and the proof rules leave out."""


def assert_proved(judgement: Judgement) -> None:
    assert [text for text in judgement.unproved if not any(known in text for known in NO_PROOF)] == []


def test_new_units_that_a_rule_admits_leave_old_outputs_alone_and_that_is_proved(looked: Looked) -> None:
    assert_proved(check_growth(looked, most_unlike=2))


@pytest.mark.slow
def test_new_units_of_every_kind_beside_every_other_kind(looked: Looked) -> None:
    assert_proved(check_growth(looked))


def test_every_row_of_the_table_has_a_case() -> None:
    seen = {target for number, case in enumerate(CASES) for target in SEEN.get(number) or called(look(case))}
    here = {"cuda", "neg"}  # runs on no machine without one; is recorded as the operator
    missing = filter(brought_by_fxgrow, rows().keys() - seen - here)
    assert set(map(str, missing)) == set()
