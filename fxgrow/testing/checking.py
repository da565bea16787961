"""`check_rule`: judge the rule of an op, built in or your own, by running the op."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.capture import Captured, skeleton
from fxgrow.capture.shapes import propagate
from fxgrow.errors import RuleError, as_error
from fxgrow.opaque import CustomFunction
from fxgrow.rules.registry import Target, law_of_function, law_of_method, law_of_module
from fxgrow.testing.alone import Alone, Case, looked_at
from fxgrow.testing.judging import Judgement, check_equivariance, check_growth
from fxgrow.zoo.nontrivial import lively


def check_rule(target: Target | nn.Module, *operands: tuple[int, ...] | Tensor, **arguments: Any) -> Judgement:
    """Compare the rule of an op with the op: what the rule ties, admits, says of new entries, and proves.

    The op runs on random operands, in eval and in train mode. It runs as it is. Then each dimension that the rule
    leaves free is doubled, with every kind of new entries that the rule admits: anything, zero, the mean of the old
    ones, and with guards if the rule asks for them. Old outputs have to stay. What the rule says or proves of new
    ones has to be true.

    Parameters
    ----------
    target: what the rule was registered for: a function, the name of a tensor method, a module class, a
        `torch.autograd.Function`; or a module, where the class needs arguments of its own.
    operands: the shape of each tensor that the op takes, or the tensor itself (an index, a mask).
    arguments: the op's other arguments; for a module class, those of its constructor.

    Raises
    ------
    RuleError: there is no rule, or it claims something untrue. An AssertionError's text says what was tried.

    >>> import torch, fxgrow.testing
    >>> fxgrow.testing.check_rule(torch.tanh, (3, 4)).growths
    12
    """
    name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
    judgement = Judgement()
    for training in (False, True):
        root, graph = _model_of(target, operands, arguments)
        lively(root).train(training)
        bare = skeleton(root)
        propagate(bare, graph, ((), {}))
        captured = Captured(bare, {"both": graph}, ((), {}))
        case = Case(name, lambda: None, ())
        what, remedy = f"the rule of {name} is wrong", "correct what the rule claims, or claim less"
        with as_error(RuleError, what, remedy=remedy, of=(AssertionError,)):
            looked = looked_at(case, root, captured, training)
            check_equivariance(looked)
            judged = check_growth(looked)
        judgement.growths += judged.growths
        judgement.proved += judged.proved
        judgement.unproved += judged.unproved
    return judgement


def _method(name: str) -> Callable[..., Any]:
    return lambda x, *others, **arguments: getattr(x, name)(*others, **arguments)


def _model_of(target: Any, operands: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[nn.Module, fx.Graph]:
    """A model of the op alone, its operands parameters, and its graph.

    Raises
    ------
    RuleError: the op has no rule.
    """
    torch.manual_seed(0)
    graph, module = fx.Graph(), target
    if isinstance(target, type):
        own = issubclass(target, torch.autograd.Function)
        module, arguments = (CustomFunction(target), arguments) if own else (target(**arguments), {})
    is_module = isinstance(module, nn.Module)
    law = (
        law_of_module(module) if is_module else (law_of_method if isinstance(target, str) else law_of_function)(target)
    )
    if law is None:
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        raise RuleError(f"{name} has no rule", remedy="give it one: fxgrow.rule(target, law)")
    called = _method(target) if isinstance(target, str) else target
    root = Alone(module if is_module else functools.partial(called, **arguments), operands)
    nodes = [graph.get_attr(f"x{k}") for k in range(len(operands))]
    kind = "call_module" if is_module else "call_method" if isinstance(target, str) else "call_function"
    graph.output(graph.create_node(kind, "op" if is_module else target, tuple(nodes), arguments))
    return root, graph
