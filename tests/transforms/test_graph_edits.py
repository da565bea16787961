"""Edits of graphs: each to the node it names, and to that one only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxgrow.transforms.graph_edits import edit_graphs, put
from torch import Tensor, fx, nn

from fxgrow.errors import PlanError
from fxgrow.planning.plan import NodeEdit

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def edited(model: nn.Module, *edits: NodeEdit) -> fx.GraphModule:
    """The model's graph after some edits, over the same parameters."""
    graph = fx.Tracer().trace(model)
    edit_graphs({"both": graph}, edits)
    return fx.GraphModule(model, graph)


def nodes(model: nn.Module) -> list[str]:
    return [node.name for node in fx.Tracer().trace(model).nodes]


@pytest.mark.parametrize(
    ("arguments", "path", "expected"),
    [
        ([1, [2, [3, 4]]], (1, 1, 0), [1, [2, [9, 4]]]),
        ((1, 2, 3), (-1,), (1, 2, 9)),
        ({"size": (1, 2)}, ("size", 1), {"size": (1, 9)}),
        ({"size": 1}, ("scale",), {"size": 1, "scale": 9}),
        (slice(1, 2, 3), ("start",), slice(9, 2, 3)),
        (slice(1, 2, 3), ("step",), slice(1, 2, 9)),
        ([(slice(None), slice(0, 4))], (0, 1, "stop"), [(slice(None), slice(0, 9))]),
    ],
    ids=str,
)
def test_a_value_is_put_at_any_depth(arguments: Any, path: tuple[Any, ...], expected: Any) -> None:
    assert put(arguments, path, 9) == expected


def test_what_a_value_is_put_into_is_copied() -> None:
    inner = [1, 2]
    outer = {"shape": inner, "other": inner}
    assert put(outer, ("shape", 0), 9) == {"shape": [9, 2], "other": [1, 2]}
    assert outer == {"shape": [1, 2], "other": [1, 2]}


def test_kinds_of_containers_are_kept() -> None:
    assert isinstance(put((1, 2), (0,), 9), tuple)
    assert isinstance(put([1, 2], (0,), 9), list)
    assert isinstance(put(fx.immutable_collections.immutable_list([1, 2]), (0,), 9), list)


class Reshaping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.reshape(x, (-1, 3))


def test_a_literal_among_the_positional_arguments() -> None:
    grown = edited(Reshaping(), NodeEdit("both", "reshape", "literal", ("args", 1, 1), 4))
    assert grown(X).shape == (3, 4)


def test_a_literal_among_the_keyword_arguments() -> None:
    class Summing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sum(x, dim=0)

    grown = edited(Summing(), NodeEdit("both", "sum_1", "literal", ("kwargs", "dim"), 1))
    assert torch.equal(grown(X), X.sum(1))


def test_a_keyword_argument_that_was_not_given() -> None:
    class Attending(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    edit = NodeEdit("both", "scaled_dot_product_attention", "literal", ("kwargs", "scale"), 0.25)
    expected = nn.functional.scaled_dot_product_attention(X, X, X, scale=0.25)
    assert torch.equal(edited(Attending(), edit)(X), expected)


def test_an_end_of_a_slice() -> None:
    class Slicing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0:2]

    grown = edited(Slicing(), NodeEdit("both", "getitem", "literal", ("args", 1, 1, "stop"), 5))
    assert torch.equal(grown(X), X[:, :5])


class Measuring(nn.Module):
    """Reshapes to half of a size that it measures."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.size(1))


def test_a_measured_number_is_multiplied_by_a_fraction() -> None:
    grown = edited(Measuring(), NodeEdit("both", "reshape", "ratio", ("args", 2), (2, 3)))
    assert grown(X).shape == (3, 4)


def test_a_measured_number_is_multiplied_by_a_whole_number() -> None:
    grown = edited(Measuring(), NodeEdit("both", "reshape", "ratio", ("args", 2), (2, 1)))
    assert grown(X).shape == (1, 12)
    assert "floordiv" not in grown.code


def test_a_scale_that_is_computed_is_multiplied_back() -> None:
    class Scaling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.mul(x, x.size(1) ** -0.5)

    grown = edited(Scaling(), NodeEdit("both", "mul", "ratio", ("args", 1), 0.5))
    torch.testing.assert_close(grown(X), X * 6**-0.5 * 0.5, rtol=1e-15, atol=0)


def test_an_assertion_is_dropped() -> None:
    class Asserting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.size(1) == 3, "three of them")
            return x

    with pytest.raises(AssertionError, match="three of them"):
        edited(Asserting())(X)
    assert edited(Asserting(), NodeEdit("both", "_assert", "erase"))(X) is X


def test_a_reduction_sees_old_units_only() -> None:
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.amax(x, -1)

    grown = edited(Largest(), NodeEdit("both", "amax", "core_input", value={"axis": 1, "core": ((0, 1), (3, 5))}))
    assert torch.equal(grown(X), X[:, [0, 3, 4]].amax(-1))


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_a_norm_takes_its_statistic_over_old_units(affine: bool) -> None:
    norm = nn.LayerNorm(6, elementwise_affine=affine).double()
    names = {"weight": "0.weight", "bias": "0.bias"} if affine else {}
    value = {
        "function": "layer_norm",
        "core": ((0, 4),),
        "arguments": {**names, "eps": 1e-5},
        "size": 6,
        "module": True,
    }
    grown = edited(nn.Sequential(norm), NodeEdit("both", "_0", "guard", value=value))
    old = X[:, :4]
    expected = (X - old.mean(1, keepdim=True)) / (old.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(grown(X), expected, rtol=1e-12, atol=1e-12)


def test_edits_of_one_node_add_up() -> None:
    grown = edited(
        Reshaping(),
        NodeEdit("both", "reshape", "literal", ("args", 1, 0), 2),
        NodeEdit("both", "reshape", "literal", ("args", 1, 1), 6),
    )
    assert grown(X).shape == (2, 6)


def test_an_edit_is_made_in_the_graph_of_its_mode() -> None:
    graphs = {mode: fx.Tracer().trace(Reshaping()) for mode in ("eval", "train")}
    edit_graphs(graphs, [NodeEdit("train", "reshape", "literal", ("args", 1, 1), 4)])
    shapes = {mode: tuple(fx.GraphModule(nn.Module(), graph)(X).shape) for mode, graph in graphs.items()}
    assert shapes == {"eval": (4, 3), "train": (3, 4)}


@pytest.mark.parametrize(
    "edit",
    [NodeEdit("both", "view", "erase"), NodeEdit("eval", "reshape", "erase")],
    ids=["no such node", "no such graph"],
)
def test_a_node_that_is_not_there_is_refused(edit: NodeEdit) -> None:
    assert nodes(Reshaping()) == ["x", "reshape", "output"]
    with pytest.raises(PlanError) as caught:
        edited(Reshaping(), edit)
    assert str(caught.value) == (
        f"the plan names a node that the graph does not have (at {edit.node}): "
        "apply a plan to the model it was made for"
    )
