"""Input channels: the axes of inputs that a first layer reads, which grow where more channels are asked for.

Inputs are fixed unless more channels are asked for. Then the axis of channels is a dimension like any other, whose new
units can be anything. They come after the old ones, and the weights that read them start at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from fxgrow.axes.layout import Leaf, leaves, resolve
from fxgrow.capture import Captured
from fxgrow.capture.inputs import Inputs, Place
from fxgrow.errors import PlanError
from fxgrow.modules.containers import flat_tensors
from fxgrow.planning.analysis import OPEN, Analysis, analyse
from fxgrow.planning.plan import Channels, Plan
from fxgrow.planning.sizing import Sizing, check_reached, more_than
from fxgrow.rules.calls import position_of
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.op import Op, Tensor, tensors


@dataclass(frozen=True)
class InputChannels:
    """The channels of inputs that grow, with their dimensions."""

    channels: Channels
    leaves: frozenset[Leaf]
    argument = "in_chans"
    units = "input channels"

    @property
    def new(self) -> int:
        return self.channels.new

    @classmethod
    def of(cls, channels: Channels, analysis: Analysis, inputs: Inputs) -> InputChannels:
        """The dimensions of channels that were opened, in an analysis made since."""
        return cls(channels, frozenset(leaf for _, leaf in _axes(analysis, inputs)))

    def put_into(self, sizing: Sizing) -> None:
        """Give channels the size that they are to have."""
        sizing.reach(self.leaves, self.new)

    def ask(self, know: Knowledge) -> None:
        """Nothing: what reads new channels starts at zero, as where any dimension grows."""

    def check_met(self, growth: dict[Leaf, int]) -> None:
        """Raise a PlanError where channels turned out to be tied down."""
        remedy = "let a layer with weights read the input first, or leave in_chans= out"
        check_reached(self.leaves, growth, self.new, self.units, remedy)

    def noted(self, plan: Plan, model: nn.Module) -> Plan:
        """A plan that says which channels come."""
        return replace(plan, channels=self.channels)


def open_inputs(captured: Captured, asked: int | str) -> Channels:
    """The channels of inputs, which the graphs of a captured model are marked to let grow.

    Raises
    ------
    PlanError: no layer reads the channels of an input. AmountError: there are more than are asked for.
    """
    _open(captured, lambda node: {(n, k) for n, tensor in _tensors(node) for k in range(1, tensor.ndim)})
    analysis = analyse(captured.model, captured.graphs)
    places = dict(_read_by_layers(analysis, captured.inputs))
    reasons = (leaf.reason for _, leaf in _axes(analysis, captured.inputs))
    why = dict.fromkeys(str(reason) for reason in reasons if reason is not None and not reason.quiet)
    _open(captured, lambda node: {(n, k) for argument, n, k in places if argument == _argument(node, captured.inputs)})
    sizes = sorted(set(places.values()))
    if len(sizes) != 1 or len({place[:2] for place in places}) < len(places):
        several = sorted({axis for argument, n, axis in places if sum(p[:2] == (argument, n) for p in places) > 1})
        said = "; ".join(("no layer with weights reads them", *why))
        if several:
            said = f"layers read its axes {' and '.join(map(str, several))}"
        elif sizes:
            said = f"layers read {' and '.join(map(str, sizes))} of them"
        raise PlanError(
            f"it is not clear what its input channels are: {said}",
            where=type(captured.model).__name__,
            remedy="pass in_chans= for a model whose first layers read one axis of each input, all of as many channels",
        )
    return Channels(sizes[0], more_than(sizes[0], asked, "in_chans"), tuple(sorted(places, key=str)))


def _open(captured: Captured, axes: Callable[[fx.Node], set[tuple[int, int]]]) -> None:
    """Mark the axes of inputs that are free to grow: which of the tensors of an argument, and which axis."""
    for graph in captured.graphs.values():
        for node in graph.nodes:
            if node.op == "placeholder":
                node.meta[OPEN] = frozenset(axes(node) if _argument(node, captured.inputs) is not None else ())


def _argument(node: fx.Node, inputs: Inputs) -> int | str | None:
    """Which of the arguments a placeholder is: its position, or its name; None for one that collects several."""
    name, (args, kwargs) = str(node.target), inputs
    if name.startswith("*"):
        return None
    position = position_of(node)
    return position if position < len(args) else name if name in kwargs else None


def _tensors(node: fx.Node) -> Iterator[tuple[int, torch.Tensor]]:
    """The floating-point tensors of an argument, numbered among all its tensors."""
    return ((n, t) for n, t in enumerate(flat_tensors(node.meta["value"])) if t.dtype.is_floating_point)


def _read_by_layers(analysis: Analysis, inputs: Inputs) -> Iterator[tuple[Place, int]]:
    """The axes of inputs that are summed over with weights (parameters, or made of these alone), with their sizes.

    Of an image that a layer reads whole, flattened, these are the channels alone: axis 1, as everywhere in torch.
    """
    summed: set[Leaf] = set()
    flattened: list[set[Leaf]] = []
    of_parameters: set[Op] = set()

    def is_weight(tensor: Tensor) -> bool:
        return tensor.op in of_parameters if tensor.op is not None else tensor.parameter is not None

    for op in analysis.ops:
        operands = (*op.operands(), *op.module_parameters())
        if operands and all(map(is_weight, operands)):  # such as a parametrization, which is given nothing
            of_parameters.add(op)
        if op.law.family in ("contraction", "recurrent"):
            output_leaves = {leaf for tensor in tensors(op.output) for leaf in tensor.leaves()}
            for layout in (axis for tensor in filter(is_weight, operands) for axis in tensor.axes):
                flattened.append({leaf for leaf in leaves(layout) if leaf not in output_leaves})
                summed |= flattened[-1]
    axes = dict(_axes(analysis, inputs))
    for (argument, number, axis), leaf in axes.items():
        channels = axes.get((argument, number, 1))
        is_image = (argument, number, 3) in axes
        is_position = is_image and axis > 1 and any({leaf, channels} <= together for together in flattened)
        if leaf in summed and not is_position:
            yield (argument, number, axis), leaf.size


def _axes(analysis: Analysis, inputs: Inputs) -> Iterator[tuple[Place, Leaf]]:
    """The axes of inputs that are free to grow, each with its dimension."""
    for graph in analysis.graphs.values():
        for node in graph.nodes:
            for number, axis in node.meta.get(OPEN, ()) if node.op == "placeholder" else ():
                tensor = list(tensors(analysis.trees[node]))[number]
                leaf, argument = resolve(tensor.axes[axis]), _argument(node, inputs)
                if isinstance(leaf, Leaf) and argument is not None and leaf.size > 0:
                    yield (argument, number, axis), leaf
