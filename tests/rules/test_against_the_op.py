"""Every rule beside the op it describes, on random tensors: wrong claims, missed ties, disturbed outputs, proofs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import fx, nn

from fxgrow.capture import Captured
from fxgrow.capture.capturing import recorded
from fxgrow.modules.containers import each_tensor, flat_tensors, holds_tensor
from fxgrow.modules.holders import attribute
from fxgrow.noise import WithoutNoise
from fxgrow.rules.calls import Call
from fxgrow.rules.elementwise import BINARY, UNARY
from fxgrow.rules.registry import law_of_call, rows
from fxgrow.testing.alone import Alone, Case, Looked, look
from fxgrow.testing.judging import Judgement, check_equivariance, check_growth
from tests.models import lively
from tests.rules.cases import CASES, brought_by_fxgrow


def asks_for_the_mode(op: Any) -> bool:
    """Whether an op is a module with parts that compute otherwise in train mode."""
    parts = op.modules() if isinstance(op, nn.Module) else ()
    moded = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)
    return any(isinstance(part, moded) or not type(part).__module__.startswith("torch.") for part in parts)


ELEMENTWISE = {
    name for kinds in (UNARY, BINARY) for names in kinds.values() for name in names.split() if hasattr(torch, name)
}
VARIANTS = (
    *("batch norm 2d", "batch norm 3d", "synchronised batch norm", "timm batch norm and sigmoid"),
    *("rnn cell", "gru", "gru cell"),
)
"""Ops that share a law with a case of every run: batch norm 1d, timm's with another activation, rnn, lstm."""


def is_of_every_run(case: Case, training: bool) -> bool:
    """Whether a case is no variant of another, as the methods of elementwise functions are, whose kind is theirs."""
    spelled_otherwise = case.name.removesuffix(" of two").removesuffix("_") in ELEMENTWISE
    return case.name not in VARIANTS and not spelled_otherwise and (not training or asks_for_the_mode(case.op))


CASES_IN_MODES = [
    pytest.param(
        (number, training),
        id=f"{case}-{'train' if training else 'eval'}",
        marks=() if is_of_every_run(case, training) else pytest.mark.slow,
    )
    for number, case in enumerate(CASES)
    for training in (False, True)
]
ROWS = frozenset(rows())
"""Those of the table, read before any test adds a row of its own."""

SEEN: dict[int, set[object]] = {}
"""What the graph of a case calls, by the number of the case, where it has been looked at already."""


@pytest.fixture(scope="module", params=CASES_IN_MODES)
def looked(request: pytest.FixtureRequest) -> Looked:
    number, training = request.param
    result = look(CASES[number], training)
    SEEN[number] = set(called(result.captured))
    return result


def called(captured: Captured) -> Iterator[object]:
    """The module classes, functions and methods that the graphs of an op call."""
    for graph in captured.graphs.values():
        for node in graph.nodes:
            if node.op == "call_module":
                yield type(captured.model.get_submodule(node.target))
            elif node.op in ("call_function", "call_method"):
                yield node.target


def test_a_rule_leaves_free_what_can_grow(looked: Looked) -> None:
    assert len(looked.free) == looked.case.free


def test_permuting_the_units_of_a_dimension_permutes_the_outputs(looked: Looked) -> None:
    if not looked.case.by_position:
        check_equivariance(looked)


NO_PROOF = (
    "the number of queries of scaled_dot_product_attention has grown",
    "an axis that the norm is taken over",  # batch
    "LayerNorm is taken over (3, 4)",
    "the weight is not made of parameters alone",
    "standardize has no proof rule",  # a guard beside itself is worked out from the weight
    "_weight_norm has no proof rule",  # likewise, from the direction and the gains
)
"""What no model grows, and the proof rules leave out."""


def assert_proved(judgement: Judgement) -> None:
    assert [text for text in judgement.unproved if not any(known in text for known in NO_PROOF)] == []


MANY = 4
"""Of so many tensors there are too many pairs for every run: one of them is unlike the rest."""


def test_new_units_that_a_rule_admits_leave_old_outputs_alone_and_that_is_proved(looked: Looked) -> None:
    assert_proved(check_growth(looked, most_unlike=2 if len(looked.analysis.parameters) < MANY else 1))


@pytest.mark.slow
def test_new_units_of_every_kind_beside_every_other_kind(looked: Looked) -> None:
    assert_proved(check_growth(looked))


def called_with(
    call: Call, values: dict[fx.Node, Any], zeros: Sequence[fx.Node | str], ones: Sequence[fx.Node | str]
) -> Any:
    """What a node gives once some of its operands and parameters are zero, and others one."""
    filled = dict.fromkeys(zeros, 0.0) | dict.fromkeys(ones, 1.0)
    module = copy.deepcopy(call.module)
    for term, number in filled.items():
        if isinstance(term, str) and module is not None:
            module.get_parameter(term.rpartition(".")[2]).data.fill_(number)
    operands = {node: values[node] for node in call.operands()}
    for node in operands.keys() & filled.keys():
        operands[node] = each_tensor(operands[node], lambda tensor, node=node: torch.full_like(tensor, filled[node]))
    return Call(call.node, module, call.law).run(operands)


def test_an_op_is_zero_or_an_operand_where_its_terms_say_so(looked: Looked) -> None:
    """The planner makes new blocks silent by what laws say of zeros and ones, and the kernel believes it."""
    graph = looked.captured.graphs.get("eval") or looked.captured.graphs["both"]
    model, read = copy.copy(looked.model), [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    constants = {name: getattr(looked.captured.model, name) for name in read if name.startswith("_constant")}
    model.__dict__.update(constants)
    interpreter = fx.Interpreter(model, graph=graph)
    interpreter.garbage_collect_values = False
    with torch.no_grad(), WithoutNoise():
        interpreter.run()
    for node in graph.nodes:
        module = looked.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        law = law_of_call(node, module)
        call = Call(node, module, law) if law is not None and holds_tensor(node.meta["value"]) else None
        terms = call.terms() if call is not None else None
        if call is None or terms is None or terms.tried or terms.after is not None:
            continue  # tried out where it is asked for
        for zeros in terms.silencing():
            made = list(flat_tensors(called_with(call, interpreter.env, zeros, ())))
            assert made and not any(tensor.any() for tensor in made), zeros
        for kept in terms.passed:
            ways, ones = terms.beside(kept)
            for zeros in ways:
                made = called_with(call, interpreter.env, zeros, ones)
                assert torch.equal(made, interpreter.env[kept].expand(made.shape)), (kept, zeros, ones)


def test_every_row_of_the_table_has_a_case() -> None:
    seen: set[object] = set()
    for number, case in enumerate(CASES):
        model = Alone(case.op, case.operands)
        seen.update(SEEN.get(number) or called(recorded(lively(model), ((), {}))))
    # runs on no machine without one; is recorded as the operator; picks from what a model is called with
    here = {"cuda", "neg", attribute}
    missing = filter(brought_by_fxgrow, ROWS - seen - here)
    assert set(map(str, missing)) == set()
