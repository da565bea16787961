"""The plan: an immutable value that says everything a growth will do, and why it does no more."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from fxgrow.documents import from_text, to_text
from fxgrow.errors import PlanError
from fxgrow.pages import Shown
from fxgrow.planning.deepening import Deepening
from fxgrow.planning.edits import AttributeEdit as AttributeEdit
from fxgrow.planning.edits import NodeEdit as NodeEdit
from fxgrow.planning.likeness import ConfigGrowth as ConfigGrowth
from fxgrow.planning.likeness import Likeness as Likeness
from fxgrow.planning.likeness import Setting as Setting
from fxgrow.planning.picture import picture
from fxgrow.planning.showing import shown
from fxgrow.planning.tensor_growth import Axis as Axis
from fxgrow.planning.tensor_growth import Calibration as Calibration
from fxgrow.planning.tensor_growth import TensorGrowth as TensorGrowth

if TYPE_CHECKING:
    import networkx as nx
    from torch import nn

FORMAT = 1


@dataclass(frozen=True)
class GrowthGroup:
    """Dimensions that grow as one.

    Attributes
    ----------
    name: d0, d1, ...
    old, new: sizes before and after.
    where: the parameter axes that make its units, such as "0.weight[0]".
    how: how new units stay invisible: zero-out, zero-in, mirror, replicate, or mean-fill, norms rescaled; with
        guarded statistics where norms are guarded.
    added: parameters that it adds; entries that several groups add together are shared evenly.
    """

    name: str
    old: int
    new: int
    where: tuple[str, ...]
    how: str
    added: int


@dataclass(frozen=True)
class Held:
    """Dimensions that stay at their size, and why; batch, space and classes are left out."""

    size: int
    where: tuple[str, ...]
    reason: str


UNBALANCED = "nothing: the function changes"
"""What makes up for a rescaling that keeps the scale of activations and not the function."""


@dataclass(frozen=True)
class Rescaling:
    """What a parameterization does to the old entries of one weight.

    Attributes
    ----------
    kind: "hidden" or "output".
    factor: multiplies them.
    by: what makes up for it: "batch norm PATH", "multiplier" or nothing (`UNBALANCED`).
    reason: why the factor is 1, where it is.
    """

    name: str
    kind: str
    factor: float
    by: str
    reason: str


@dataclass(frozen=True)
class Readout:
    """A readout of one output.

    Attributes
    ----------
    weight: the path of its weight `[size, units]`.
    axis: of the output that it reads.
    size: units that the output has.
    places: pairs of a graph (both, eval, train) and the node whose value is the output there.
    """

    weight: str
    axis: int
    size: int
    places: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Obstacle:
    """Why a growth cannot be put into the user's own module: what stands in the way, and where.

    node: the first node of the graph that the module cannot compute, if it is known.
    """

    what: str
    where: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.what} (at {self.where})"


CLASS_STARTS = ("zero", "mean", "random")
"""How new classes start: at zero, at the mean of the old ones, or drawn as weights are."""


@dataclass(frozen=True)
class Classes:
    """How many classes a model puts out, before and after, and how new ones start."""

    old: int
    new: int
    start: str


@dataclass(frozen=True)
class Channels:
    """How many channels of its inputs a model reads, before and after.

    places: of each of these, the argument (its position, or its name), which of the tensors in it, and which axis.
    """

    old: int
    new: int
    places: tuple[tuple[int | str, int, int], ...]


FORMS = ("auto", "module", "graph")
"""What can come back: the user's own module where it can hold the growth; it or nothing; always a graph module."""


@dataclass(frozen=True)
class Totals:
    """Parameters, and FLOPs of one forward pass on one sample, before and after; a multiply-add counts as two."""

    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int


@dataclass(frozen=True)
class Refusal:
    """An argument with some values of which a copy in the model's own class is not called, since it would go wrong.

    allowed: what it may be, in words: what it was, and what else was tried and is right. why: what would go wrong.
    method: which is called so. argument: "" where the method is not called at all. beside: another argument, if that
    has to be `said`, in words, for it to go wrong.
    """

    argument: str
    allowed: tuple[str, ...]
    why: str
    method: str = "forward"
    beside: str = ""
    said: str = ""

    def __str__(self) -> str:
        if not self.argument:
            return f"calls of {self.method}"
        return f"{self.argument} other than {' or '.join(self.allowed)}{self.company}"

    @property
    def company(self) -> str:
        """Beside what other value, in words; "" where there is none."""
        return f" beside {self.beside}={self.said}" if self.beside else ""

    @property
    def place(self) -> tuple[str, ...]:
        """What is refused some values, and beside what."""
        return self.method, self.argument, *((self.beside, self.said) if self.beside else ())


@dataclass(frozen=True)
class Plan(Shown):
    """What `fxgrow.grow` will do to a model: pure data, with a JSON round trip.

    `print` shows it as tables.

    Attributes
    ----------
    model: class name of the original.
    groups, held: what grows; what stays, and why.
    tensors: how each parameter and buffer grows.
    nodes, attributes: changes to nodes of the graph, and module attributes that follow.
    inputs: the example inputs, described: containers, shapes and dtypes.
    tier: how the model was captured: 1 as a whole, 3 in parts (2 is of older versions).
    depth: new blocks, which come first: all other names in the plan are those of the deeper model.
    readouts: layers that stand between a residual stream and the output that it is; they come after new blocks.
    parts: where the model was captured in parts, the plan of each part by its path.
    rescalings: what variance transfer does to old weights.
    form: "module" where the growth goes into a copy of the user's own module, "graph" where a graph module is made.
    obstacle: why it has to be a graph, or to grow in parts.
    courses: the same growth for inputs of other sizes, or other values of arguments, on which the forward of such a
        copy takes another course.
    calls: other values of arguments ("pool=False"), or other methods: of a course those that it is taken with, else
        those with which outputs of such a copy get other sizes. refusals: those that such a copy refuses.
    method, left, flags: of a course, which method is called, in which attributes it leaves tensors that are looked at,
        and which attributes of the modules of a class have other values.
    like: for growth toward a target, how the grown model differs from the target.
    classes, channels: where more of them were asked for, how many there were and are.
    configs: for a model that its class builds from a config, how the config grows.
    hooked_whole: whether layers that hooks run around are one node each in its graphs, as in all plans but old ones.
    hooks: path of a module and name of a function for each hook that computes something, and each around the whole.

    >>> import torch, fxgrow
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> plan = fxgrow.plan(model, width=2, example_inputs=torch.randn(1, 4))
    >>> plan.groups[0].old, plan.groups[0].new
    (8, 16)
    >>> fxgrow.Plan.from_json(plan.to_json()) == plan
    True
    """

    model: str
    init: str
    groups: tuple[GrowthGroup, ...]
    held: tuple[Held, ...]
    tensors: tuple[TensorGrowth, ...]
    nodes: tuple[NodeEdit, ...]
    attributes: tuple[AttributeEdit, ...]
    totals: Totals
    inputs: Any = ()
    tier: int = 1
    depth: Deepening | None = None
    readouts: tuple[Readout, ...] = ()
    parts: tuple[tuple[str, Plan], ...] = ()
    parameterization: str = "standard"
    rescalings: tuple[Rescaling, ...] = ()
    form: str = "graph"
    obstacle: Obstacle | None = None
    courses: tuple[Plan, ...] = ()
    calls: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    method: str = "forward"
    left: tuple[str, ...] = ()
    flags: tuple[tuple[str, str, Any], ...] = ()
    like: Likeness | None = None
    classes: Classes | None = None
    channels: Channels | None = None
    configs: tuple[ConfigGrowth, ...] = ()
    hooked_whole: bool = False
    hooks: tuple[tuple[str, str], ...] = ()

    def to_json(self, indent: int | None = None) -> str:
        """The plan as JSON text."""
        return to_text(self, FORMAT, indent)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises
        ------
        PlanError: the text is not a plan, or one of a newer format.
        """
        plan: Plan = from_text(cls, text, FORMAT, PlanError)
        return plan

    def apply(self, model: nn.Module, seed: int = 0, *, verify: bool | str = True, loss: Any = None) -> nn.Module:
        """Carry the plan out on the model that it was made for, or on another of the same structure.

        That may be an averaged copy of its weights, which stays the average of what was there: new entries are
        drawn as in the model, beside the copy's own old ones. The model is not touched. Of a plan toward a target it
        makes the grown model in its own class, without other settings of the target.

        Parameters
        ----------
        seed, verify, loss: as in `fxgrow.grow`, which makes the same bytes of the same model and seed.

        Raises
        ------
        PlanError: the plan was made for a model of another structure, or grows nothing.
        AmountError: an argument means nothing, or the plan chooses new units by a loss and there is none.

        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> plan = fxgrow.plan(model, width=2, example_inputs=torch.randn(1, 4))
        >>> fxgrow.Plan.from_json(plan.to_json()).apply(model).get_submodule("0")
        Linear(in_features=4, out_features=16, bias=True)
        """
        growing = importlib.import_module(
            "fxgrow.growth.growing"
        )  # a plan is a value that imports nothing which carries it out

        grown: nn.Module = growing.apply(self, model, seed, verify, loss)
        return grown

    @property
    def ratio(self) -> float:
        """Parameters after over parameters before."""
        return self.totals.parameters_after / max(1, self.totals.parameters_before)

    @property
    def way(self) -> tuple[Any, ...]:
        """How a course is taken: by which method, what it leaves where, and with which values of attributes."""
        return self.method, self.left, self.flags

    @property
    def called(self) -> str:
        """On which calls the forward takes this course, where the plan is one of another's `courses`."""
        return f"with {', '.join(self.calls)}" if self.calls else "on other inputs"

    @property
    def preserving(self) -> bool:
        """Whether the grown model computes what the original computed."""
        changed = any(
            rescaling.by == UNBALANCED
            for plan in (self, *(part for _, part in self.parts))
            for rescaling in plan.rescalings
        )
        return not changed and (self.depth is None or self.depth.preserving)

    def old_name(self, name: str) -> str | None:
        """What a parameter or buffer of the grown model was called before; None if it is of a new block or readout.

        >>> import torch, fxgrow
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.enter, self.leave = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)
        ...     def forward(self, x):
        ...         return x + self.leave(torch.relu(self.enter(x)))
        >>> model = torch.nn.Sequential(Block(), Block())
        >>> plan = fxgrow.plan(model, depth=1.5, example_inputs=torch.randn(1, 4))
        >>> plan.old_name("1.leave.bias"), plan.old_name("2.leave.bias")
        ('1.leave.bias', None)
        """
        return self._old_names.get(name, name)

    @cached_property
    def _old_names(self) -> dict[str, str | None]:
        readout_weights = [readout.weight for readout in self.readouts]
        if self.depth is None:
            return dict.fromkeys(readout_weights)
        return {
            **dict(self.depth.renamed),
            **dict.fromkeys([*readout_weights, *(tensor.name for tensor in self.depth.tensors)]),
        }

    def graph(self) -> nx.Graph:
        """Growth groups and the tensors they run through: a bipartite graph, `kind` "group" or "tensor".

        An edge carries `axes`, the axes of the tensor on which the group lies.

        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> graph = fxgrow.plan(model, width=2, example_inputs=torch.randn(1, 4)).graph()
        >>> sorted(graph.edges(data="axes"))
        [('d0', '0.bias', (0,)), ('d0', '0.weight', (0,)), ('d0', '2.weight', (1,))]
        """
        import networkx as nx

        graph: nx.Graph = nx.Graph()
        for group in self.groups:
            graph.add_node(group.name, kind="group", old=group.old, new=group.new)
        for tensor in self.tensors:
            graph.add_node(tensor.name, kind="tensor", old=tensor.old_shape, new=tensor.new_shape)
            for number, axis in enumerate(tensor.axes):
                for run in axis.runs():
                    before = graph.get_edge_data(run.group, tensor.name, {"axes": ()})["axes"]
                    graph.add_edge(run.group, tensor.name, axes=tuple(sorted({*before, number})))
        return graph

    def picture(self) -> str:
        """The model before and after growth, as the text of an SVG file.

        Blocks are boxes, with a bar for each dimension that they make. Tooltips say what grows, what stays, and why.

        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> plan = fxgrow.plan(model, width=2, example_inputs=torch.randn(1, 4))
        >>> plan.picture()[:40]
        '<svg xmlns="http://www.w3.org/2000/svg" '
        """
        return picture(self)

    def __rich__(self) -> RenderableType:
        return shown(self)

    def _repr_html_(self) -> str:
        return self.picture() + super()._repr_html_()
