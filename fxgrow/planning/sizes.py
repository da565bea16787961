"""Exact sizes for single dimensions, as against amounts for parts of a model; and the cost of a choice of sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from fxgrow.axes.layout import Layout, Leaf, leaves
from fxgrow.errors import AmountError, PlanError
from fxgrow.modules.containers import flat_tensors
from fxgrow.planning.analysis import Analysis
from fxgrow.planning.sizing import Sizing, settle_equal_sizes, size_after


@dataclass(frozen=True)
class DimensionPlace:
    """Where a dimension is found in any model built alike: the parameter, its axis, and which part of that axis.

    An axis of heads x head width has two parts. The text is that of a plan, with the part where there are several.

    >>> str(DimensionPlace("blocks.0.attn.qkv.weight", 0, 1, 3)), str(DimensionPlace("conv1.weight", 0, 0, 1))
    ('blocks.0.attn.qkv.weight[0] part 1', 'conv1.weight[0]')
    """

    parameter: str
    axis: int
    part: int
    parts: int

    def __str__(self) -> str:
        place = f"{self.parameter}[{self.axis}]"
        return f"{place} part {self.part}" if self.parts > 1 else place


@dataclass(frozen=True)
class Sizes:
    """An exact size for each of some dimensions; what is not named stays. `fxgrow.grow` takes it as `width`.

    Stages of a `Schedule` toward a model carry one. In an axis of heads x head width, the number of heads and the
    head width are dimensions of their own, so that a target is met in what it is made of, not only in its shapes.
    """

    by_dimension: tuple[tuple[DimensionPlace, int], ...]

    def resolved(self, analysis: Analysis) -> dict[Leaf, tuple[DimensionPlace, int]]:
        """The dimensions in an analysed model.

        Raises
        ------
        AmountError: the model is not built like the one the sizes are for, or something would shrink.
        """
        by_leaf: dict[Leaf, tuple[DimensionPlace, int]] = {}
        for dimension, size in self.by_dimension:
            tensor = analysis.parameters.get(dimension.parameter)
            parts = list(leaves(tensor.axes[dimension.axis])) if tensor and dimension.axis < tensor.rank else []
            if len(parts) != dimension.parts:
                raise AmountError(
                    "the sizes are for a model with a dimension that this one does not have",
                    where=str(dimension),
                    remedy="grow the model that the schedule was made for",
                )
            leaf = parts[dimension.part]
            if size < leaf.size:
                raise AmountError(
                    f"exactly {size} units were asked for, which is fewer than the {leaf.size} there are",
                    where=str(dimension),
                    remedy="take the stages of a schedule in order, each once",
                )
            by_leaf[leaf] = (dimension, size)
        return by_leaf

    def sizing(self, analysis: Analysis) -> Sizing:
        """These sizes, as far as dimensions are free to take them; `check_met` says what is missing."""
        wanted = self.resolved(analysis)
        growth = {leaf: size for leaf, (_, size) in wanted.items() if size > leaf.size and not leaf.fixed}
        sizing = Sizing(growth, {})
        settle_equal_sizes(analysis, sizing)
        return sizing

    def check_met(self, analysis: Analysis, growth: dict[Leaf, int]) -> None:
        """Raise a PlanError if a dimension does not get its size, with the reason."""
        for leaf, (dimension, size) in self.resolved(analysis).items():
            if growth.get(leaf, leaf.size) != size:
                reason = leaf.reason or "another dimension is tied to it"
                raise PlanError(
                    f"a dimension of {leaf.size} cannot grow to {size}: {reason}",
                    where=str(dimension),
                    remedy="give that part the size it has in the target from the start",
                )


def parameters_after(analysis: Analysis, growth: dict[Leaf, int]) -> int:
    """How many parameters the model has at these sizes; tied ones count once."""
    trained = (
        tensor for name, tensor in analysis.parameters.items() if isinstance(analysis.learnable[name], nn.Parameter)
    )
    return sum(math.prod(size_after(axis, growth) for axis in tensor.axes) for tensor in trained)


def flops_after(analysis: Analysis, growth: dict[Leaf, int]) -> int:
    """Floating-point operations of one forward pass on one sample at these sizes; a multiply-add counts as two."""
    graph = analysis.graphs.get("both") or analysis.graphs["eval"]
    inputs = (t for node in graph.nodes if node.op == "placeholder" for t in flat_tensors(node.meta["value"]))
    batch = max(1, next((tensor.shape[0] for tensor in inputs if tensor.ndim), 1))

    def size(layout: Layout) -> int:
        return size_after(layout, growth)

    return 2 * sum(op.law.operations(op, size) for op in analysis.ops if op.node.graph is graph) // batch
