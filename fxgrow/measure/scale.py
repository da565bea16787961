"""What growth does to the scale of activations: second moments, layer by layer.

A new unit sums over n old inputs and m - n new ones. If weights are independent of each other and of the inputs, and
have mean zero, variances add up: the variance of a new unit is that of an old one times

    (s / sigma)^2 (n + (m - n) rho) / n

where sigma^2 and s^2 are the mean squares of old and of new weights, and rho is the second moment of new inputs
divided by that of old ones (0 where they are zero, 1/n where they are the mean of n).

The gradient of a weight is a product of what it reads and of the gradient of what it makes. Old units get the
gradient that they had, since the function of the old units is the same. So the second moment of an old weight's
gradient is 1/f^2 of what it was, if the weight was multiplied by f. That of a weight that reads a new unit is rho
times that of an old weight's; that of a weight that makes a new unit is (c / kappa)^2 times, where c^2 and kappa^2
are the mean squares of the weights through which old outputs read new units and old ones.

Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, eq. 7 and 13, for two kinds of inputs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import sympy as sp
import torch
from rich.console import Group
from torch import Tensor, fx, nn

from fxgrow.capture import GrownGraphModule
from fxgrow.capture.inputs import Inputs
from fxgrow.measure.verification import in_precision, random_inputs
from fxgrow.modules.containers import in_dtype
from fxgrow.modules.devices import device_of
from fxgrow.noise import WithoutNoise
from fxgrow.pages import Shown, titled
from fxgrow.plots import figure_of, legend_beside, named_ticks, panels, readable_log
from fxgrow.proof.atoms import atoms_of
from fxgrow.proof.checker import Walk
from fxgrow.proof.claims import Claim, taken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

n, m = sp.symbols("n m", positive=True, integer=True)
rho, s, sigma = sp.symbols("rho s sigma", nonnegative=True)
c, kappa, f = sp.symbols("c kappa f", nonnegative=True)
GRADIENTS = {"old weights": f**-2, "new columns": rho, "new rows": (c / kappa) ** 2}
"""Second moments of gradients: of old weights beside what they were, of new ones beside those of old ones."""

_ROUNDINGS = 256
"""What varies by less than this many times the rounding of a value does not vary."""

TOLERANCE = 0.1
"""How far from one a ratio may be."""

RATIO = (s / sigma) ** 2 * (n + (m - n) * rho) / n


@functools.cache
def _numeric(expression: sp.Expr) -> tuple[tuple[str, ...], Callable[..., float]]:
    """The names in an expression, and a function of them."""
    symbols = sorted(expression.free_symbols, key=str)
    return tuple(map(str, symbols)), sp.lambdify(symbols, expression, "math")


def evaluated(expression: sp.Expr, values: Mapping[str, float]) -> float:
    """The value of an expression, by the names of its symbols."""
    names, function = _numeric(expression)
    return float(function(*(values[name] for name in names)))


@dataclass(frozen=True)
class LayerScale:
    """One layer that makes new units.

    Attributes
    ----------
    layer: its path.
    node, mode: where it is called, and in which graph.
    axis, units, old_units: of its output.
    expression: the variance of new units' pre-activations over that of old units', in fan-ins n and m and in
        rho, s and sigma.
    values: of the symbols of the expression.
    reads: axis, units and old units of its input.
    measured: the ratio on data, where it was asked for.
    inputs: rho on the same data.
    gradients: second moments by "old weights", "new columns" and "new rows", as numbers.
    """

    layer: str
    node: str
    mode: str
    axis: int
    units: tuple[int, ...]
    old_units: tuple[int, ...]
    expression: sp.Expr
    values: Mapping[str, float]
    reads: tuple[int, tuple[int, ...], tuple[int, ...]] = (0, (), ())
    measured: float | None = None
    inputs: float | None = None
    gradients: Mapping[str, float] = field(default_factory=dict)

    @property
    def predicted(self) -> float:
        """The value of the expression."""
        return evaluated(self.expression, self.values)

    @property
    def expected(self) -> float | None:
        """The ratio with rho as it is on the data: the mean over all draws of new weights."""
        return None if self.inputs is None else evaluated(self.expression, {**self.values, "rho": self.inputs})

    @property
    def reason(self) -> str:
        """Why the measured ratio is further than a tenth from one; empty where it is not."""
        if self.measured is None or self.expected is None or abs(self.measured - 1) <= TOLERANCE:
            return ""
        if abs(self.expected - 1) > TOLERANCE:
            return f"new inputs have {self.inputs:.2f} of the variance of old ones"
        return "inputs are correlated: this draw meets other directions than the old weights do"


@dataclass(frozen=True)
class Scale(Shown):
    """The layers of a grown model that make new units: how large these start out beside the old ones.

    `print` shows it as two tables, of activations and of gradients.

    Attributes
    ----------
    layers: a `LayerScale` for each.
    grown: what the grown model computes, as a graph.
    inputs: the recorded ones, of which only shapes and dtypes count.
    """

    layers: tuple[LayerScale, ...]
    grown: GrownGraphModule
    inputs: Inputs

    def measured(self, *args: Any, seed: int = 0, **kwargs: Any) -> Scale:
        """The same with ratios measured on the given inputs, or on random ones of the recorded shapes."""
        inputs = (args, kwargs) if args or kwargs else random_inputs(self.inputs, seed)
        ratios = _ratios(self.grown, self.layers, inputs)
        nothing = (None, None)
        both = ((layer, *ratios.get(layer.node, nothing)) for layer in self.layers)
        layers = tuple(replace(layer, measured=of_outputs, inputs=of_inputs) for layer, of_outputs, of_inputs in both)
        return replace(self, layers=layers)

    def __rich__(self) -> Group:
        right = ("predicted", "expected", "measured")
        forward = titled("variance of new units' pre-activations beside old ones'", "layer", "expression", right=right)
        parts = [f"{part}: {expression}" for part, expression in GRADIENTS.items()]
        backward = titled("second moment of gradients: old weights', then beside them", "layer", right=parts)
        for layer in self.layers:
            on_data = (f"{value:.3f}" if value is not None else "" for value in (layer.expected, layer.measured))
            forward.add_row(layer.layer, str(layer.expression), f"{layer.predicted:.3f}", *on_data)
            backward.add_row(layer.layer, *(f"{layer.gradients[part]:.3f}" for part in GRADIENTS))
        return Group(forward, backward)

    def plot(self, ax: Axes | None = None) -> Figure:
        """Layer by layer the variance of new units beside old ones': predicted, and on data expected and measured.

        In the grey band new units start within a tenth of the scale of old ones. The axis is logarithmic; ratios of 0,
        as of layers that read nothing but new units which are silent, stand at its lower end.

        ax: matplotlib axes to draw on; a new figure unless given.

        Raises
        ------
        FxgrowError: matplotlib is not installed.
        """
        (panel,) = panels(ax, 1, (max(5.0, min(12.0, 2.5 + 0.22 * len(self.layers))), 4))
        panel.axhspan(1 - TOLERANCE, 1 + TOLERANCE, color="0.9", zorder=0)
        series = {
            kind: [
                (place, value) for place, layer in enumerate(self.layers) if (value := getattr(layer, kind)) is not None
            ]
            for kind in ("predicted", "expected", "measured")
        }
        positive = [value for points in series.values() for _, value in points if value > 0] or [1.0]
        lowest, highest = min(*positive, 0.8), max(*positive, 1.25)
        readable_log(panel, lowest, highest)
        for (kind, points), marker in zip(series.items(), ("_", "x", "."), strict=True):
            if points:
                places, values = zip(*points, strict=True)
                panel.plot(places, [max(value, lowest) for value in values], marker, markersize=9, label=kind)
        panel.set(ylabel="variance, new units / old ones")
        named_ticks(panel, [layer.layer for layer in self.layers])
        legend_beside(panel)
        return figure_of(panel)


def scale_of(walks: Mapping[str, Walk], grown: GrownGraphModule, inputs: Inputs) -> Scale:
    """The scale of a grown model along the walks of its graphs."""
    for walk in walks.values():
        walk.work_out_again()
    return Scale(tuple(layer for mode, walk in walks.items() for layer in layers_of(walk, mode)), grown, inputs)


def layers_of(walk: Walk, mode: str) -> Iterator[LayerScale]:
    """The layers of one graph that make new units which are neither zero, nor means, nor copies of old ones."""
    moments: dict[fx.Node, float] = {}
    readers = _readers(walk)
    for node in walk.new.nodes:
        bound = walk.bound.get(node)
        if bound is None or not isinstance(bound.claims, Claim):
            continue
        data = next((x for x in node.all_input_nodes if isinstance(_claim(walk, x), Claim)), None)
        moments[node] = moments.get(data, 1.0) if data is not None else 1.0
        weight, transposed = _weight(walk, node)
        if weight is None or data is None:
            continue
        layer = _layer(walk, node, data, weight, transposed, moments.get(data, 1.0), mode)
        if layer is not None and weight.held is not None:
            moments[node] = layer.predicted
            factor = walk.checker.original.factor(weight.held.name)
            read = readers.get(node, (0.0, 0.0))
            values = {"f": factor, "rho": layer.values["rho"], "c": read[0] ** 0.5, "kappa": read[1] ** 0.5 or 1.0}
            yield replace(layer, gradients={p: evaluated(e, values) for p, e in GRADIENTS.items()})


def _readers(walk: Walk) -> dict[fx.Node, tuple[float, float]]:
    """For every node, c^2 and kappa^2 of the layers that read what it makes, added up over them."""
    totals: dict[fx.Node, tuple[float, float]] = {}
    for node in reversed(walk.new.nodes):
        total = (0.0, 0.0)
        for user in node.users:
            more = _reading(walk, user) or totals[user]
            total = total[0] + more[0], total[1] + more[1]
        totals[node] = (total[0] / total[1], 1.0) if total[1] > 1e100 else total
    return totals


def _reading(walk: Walk, node: fx.Node) -> tuple[float, float] | None:
    """Mean squares of the weights of a layer through which old outputs read new units and old ones."""
    weight, transposed = _weight(walk, node)
    if weight is None or weight.held is None:
        return None
    reads, makes = (0, 1) if transposed else (1, 0)
    before = _mean_square(weight.held.old)
    if weight.maps[reads] is None:
        return 0.0, before
    rows = (weight.map(makes) >= 0).nonzero().flatten()
    columns = (weight.map(reads) < 0).nonzero().flatten()
    read = taken(weight.held.new, reads, columns)
    return _mean_square(taken(read, makes, rows)), before


def _claim(walk: Walk, node: fx.Node) -> Any:
    bound = walk.bound.get(node)
    return bound.claims if bound is not None and not getattr(bound.claims, "held", None) else None


def _weight(walk: Walk, node: fx.Node) -> tuple[Claim | None, bool]:
    if node.op == "call_module":
        module = walk.checker.grown.part(str(node.target))
        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        if not isinstance(module, kinds):
            return None, False
        return walk.checker.constant(f"{node.target}.weight"), bool(getattr(module, "transposed", False))
    name = getattr(node.target, "__name__", "")
    if name not in ("linear", "conv1d", "conv2d", "conv3d") or len(node.args) < 2:
        return None, False
    bound = walk.bound.get(node.args[1]) if isinstance(node.args[1], fx.Node) else None
    return (bound.claims if bound is not None and isinstance(bound.claims, Claim) else None), False


def _layer(
    walk: Walk, node: fx.Node, data: fx.Node, weight: Claim, transposed: bool, moment: float, mode: str
) -> LayerScale | None:
    tensors, output = weight.held, walk.bound[node].claims
    axis = output.rank - 1 if weight.rank == 2 else output.rank - weight.rank + 1
    position = output.maps[axis]
    if tensors is None or position is None:
        return None
    atoms = atoms_of(output, axis)
    units = (atoms.index >= atoms.size).nonzero().flatten()
    old_units = (position >= 0).nonzero().flatten()
    rows = tensors.new.movedim(1, 0) if transposed else tensors.new
    if not len(units) or rows.shape[0] != output.new[axis]:
        return None
    before, after = _mean_square(rows[old_units]), _mean_square(rows[units])
    reading = 0 if transposed else 1
    kernel = tensors.new[0, 0].numel() if weight.rank > 2 else 1
    fan = weight.old[reading], weight.new[reading]
    if before == 0 or after == 0 or not tensors.old.any():
        return None
    values = {"n": fan[0] * kernel, "m": fan[1] * kernel, "s": after**0.5, "sigma": _mean_square(tensors.old) ** 0.5}
    values["rho"] = _moment(walk.bound[data].claims, weight, moment)
    layer = str(node.target) if node.op == "call_module" else node.name
    indices = tuple(units.tolist()), tuple(old_units.tolist())
    return LayerScale(layer, node.name, mode, axis, *indices, RATIO, values, _reads(walk.bound[data].claims, weight))


def _reads(claim: Claim, weight: Claim) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The axis of the input that is read, and its new and old units."""
    axis = claim.rank - 1 if weight.rank == 2 else claim.rank - weight.rank + 1
    position = claim.map(axis)
    new, old = (position < 0).nonzero().flatten(), (position >= 0).nonzero().flatten()
    return axis, tuple(new.tolist()), tuple(old.tolist())


def _moment(claim: Claim, weight: Claim, moment: float) -> float:
    """The second moment of new inputs beside that of old ones."""
    axis = claim.rank - 1 if weight.rank == 2 else claim.rank - weight.rank + 1
    position = claim.maps[axis]
    if position is None:
        return 1.0
    atoms = atoms_of(claim, axis)
    new = atoms.index[position < 0]
    shares = [(new >= atoms.size, moment), (new == -2, 1 / atoms.size), ((new >= 0) & (new < atoms.size), 1.0)]
    return float(sum(float(where.float().mean()) * size for where, size in shares))


def _mean_square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2 / max(1, tensor.numel())


def _ratios(grown: GrownGraphModule, layers: tuple[LayerScale, ...], inputs: Inputs) -> dict[str, tuple[float, float]]:
    """By node, the mean variance of new units over batch and space beside that of old ones: made, and read.

    In train mode: a batch norm's statistics of new units are then their own, as they are once training has begun.
    """
    twin = in_precision(grown).train()
    assert isinstance(twin, GrownGraphModule)
    wanted = {layer.node: layer for layer in layers if layer.mode != "eval"}
    ratios: dict[str, tuple[float, float]] = {}

    class Measuring(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            layer = wanted.get(node.name)
            read = self.env[node.args[0]] if layer is not None else None  # type: ignore[index]
            inputs = variance_ratio(read, *layer.reads) if layer is not None else None  # before it can be written to
            value = super().run_node(node)
            if layer is not None:
                outputs = variance_ratio(value, layer.axis, layer.units, layer.old_units)
                if outputs is not None and inputs is not None:
                    ratios[node.name] = outputs, inputs
            return value

    args, kwargs = in_dtype(inputs, torch.float64, device_of(twin))
    placeholders = [x for x in twin.graph.nodes if x.op == "placeholder"]
    rest = [kwargs.get(str(x.target), x.args[0] if x.args else None) for x in placeholders[len(args) :]]
    with torch.no_grad(), WithoutNoise():
        Measuring(twin, garbage_collect_values=True).run(*copy.copy(args), *rest)
    return ratios


def variance_ratio(value: Any, axis: int, units: Sequence[int], old_units: Sequence[int]) -> float | None:
    """The mean variance of some units over that of others, over all axes but theirs; None where there are no values."""
    if not isinstance(value, Tensor):
        return None
    if not units:
        return 1.0
    exact = torch.promote_types(value.dtype, torch.float32)
    others = [k for k in range(value.ndim) if k != axis % value.ndim]
    variances, means = torch.var_mean(value.detach().to(exact), others, correction=0)
    rounding = (_ROUNDINGS * torch.finfo(value.dtype).eps) ** 2 * (variances + means.square()).mean()
    new, old = variances[list(units)].mean(), variances[list(old_units)].mean()
    return float(new / old) if old > rounding and new > rounding else 0.0
