"""What growth does to the scale of activations: second moments, layer by layer.

A new unit sums over n old inputs and m - n new ones. With weights independent of each other and of the
inputs, and of mean zero, variances add up, so that beside an old unit it has

    (s / sigma)^2 (n + (m - n) rho) / n

times the variance: sigma^2 and s^2 are the mean squares of old and of new weights, rho the second moment of
new inputs beside that of old ones (0 where they are zero, 1/n where they are the mean of n). Source: He, Zhang,
Ren, Sun, "Delving Deep into Rectifiers", 2015, eq. 7, for two kinds of inputs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn

from fxgrow.capture import GrownGraphModule
from fxgrow.capture.inputs import Inputs
from fxgrow.containers import each_tensor
from fxgrow.proof.checker import Walk
from fxgrow.proof.claims import Claim
from fxgrow.proof.rules.contraction import atoms_of
from fxgrow.proof.verification import WithoutNoise, in_precision, random_inputs

n, m = sp.symbols("n m", positive=True, integer=True)
rho, s, sigma = sp.symbols("rho s sigma", nonnegative=True)
RATIO = (s / sigma) ** 2 * (n + (m - n) * rho) / n


@functools.cache
def _numeric(expression: sp.Expr) -> tuple[tuple[str, ...], Callable[..., float]]:
    """The names in an expression, and a function of them."""
    symbols = sorted(expression.free_symbols, key=str)
    return tuple(map(str, symbols)), sp.lambdify(symbols, expression, "math")


@dataclass(frozen=True)
class LayerScale:
    """One layer that makes new units.

    expression: the variance of their pre-activations beside that of old units', in fan-ins n and m and in
    rho, s and sigma. predicted: its value. measured: the same on data, where it was asked for.
    """

    layer: str
    node: str
    mode: str
    axis: int
    units: tuple[int, ...]
    old_units: tuple[int, ...]
    expression: sp.Expr
    values: Mapping[str, float]
    measured: float | None = None

    @property
    def predicted(self) -> float:
        names, function = _numeric(self.expression)
        return float(function(*(self.values[name] for name in names)))


@dataclass(frozen=True)
class Scale:
    """The layers of a grown model that make new units: how large these start out beside the old ones."""

    layers: tuple[LayerScale, ...]
    grown: GrownGraphModule
    inputs: Inputs

    def measured(self, *args: Any, seed: int = 0, **kwargs: Any) -> Scale:
        """The same with ratios measured on the given inputs, or on random ones of the recorded shapes."""
        given = each_tensor((args, kwargs), _exact) if args or kwargs else random_inputs(self.inputs, seed)
        variances = _variances(self.grown, self.layers, given)
        layers = tuple(replace(layer, measured=variances.get(layer.node)) for layer in self.layers)
        return replace(self, layers=layers)

    def __rich__(self) -> Table:
        table = Table(title="variance of new units' pre-activations beside old ones'", title_justify="left")
        table.add_column("layer")
        table.add_column("expression")
        for heading in ("predicted", "measured"):
            table.add_column(heading, justify="right")
        for layer in self.layers:
            measured = f"{layer.measured:.3f}" if layer.measured is not None else ""
            table.add_row(layer.layer, str(layer.expression), f"{layer.predicted:.3f}", measured)
        return table

    def __str__(self) -> str:
        console = Console(width=140, no_color=True, highlight=False, force_terminal=False)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get().rstrip()


def _exact(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype.is_floating_point else tensor


def layers_of(walk: Walk, mode: str) -> Iterator[LayerScale]:
    """The layers of one graph that make new units which are neither zero, nor means, nor copies of old ones."""
    moments: dict[fx.Node, float] = {}
    for node in walk.new.nodes:
        found = walk.bound.get(node)
        if found is None or not isinstance(found.claims, Claim):
            continue
        data = next((x for x in node.all_input_nodes if isinstance(_claim(walk, x), Claim)), None)
        moments[node] = moments.get(data, 1.0) if data is not None else 1.0
        weight, transposed = _weight(walk, node)
        if weight is None or data is None:
            continue
        layer = _layer(walk, node, data, weight, transposed, moments.get(data, 1.0), mode)
        if layer is not None:
            moments[node] = layer.predicted
            yield layer


def _claim(walk: Walk, node: fx.Node) -> Any:
    found = walk.bound.get(node)
    return found.claims if found is not None and not getattr(found.claims, "held", None) else None


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
    found = walk.bound.get(node.args[1]) if isinstance(node.args[1], fx.Node) else None
    return (found.claims if found is not None and isinstance(found.claims, Claim) else None), False


def _layer(
    walk: Walk, node: fx.Node, data: fx.Node, weight: Claim, transposed: bool, moment: float, mode: str
) -> LayerScale | None:
    held, output = weight.held, walk.bound[node].claims
    axis = output.rank - 1 if weight.rank == 2 else output.rank - weight.rank + 1
    position = output.maps[axis]
    if held is None or position is None:
        return None
    atoms = atoms_of(output, axis)
    units = (atoms.index >= atoms.size).nonzero().flatten()
    old_units = (position >= 0).nonzero().flatten()
    rows = held.new.movedim(1, 0) if transposed else held.new
    if not len(units) or rows.shape[0] != output.new[axis]:
        return None
    before, after = _mean_square(rows[old_units]), _mean_square(rows[units])
    reading = 0 if transposed else 1
    kernel = held.new[0, 0].numel() if weight.rank > 2 else 1
    fan = weight.old[reading], weight.new[reading]
    if before == 0 or after == 0 or not held.old.any():
        return None
    values = {"n": fan[0] * kernel, "m": fan[1] * kernel, "s": after**0.5, "sigma": _mean_square(held.old) ** 0.5}
    values["rho"] = _moment(walk.bound[data].claims, node, weight, moment)
    layer = str(node.target) if node.op == "call_module" else node.name
    return LayerScale(layer, node.name, mode, axis, tuple(units.tolist()), tuple(old_units.tolist()), RATIO, values)


def _moment(claim: Claim, node: fx.Node, weight: Claim, moment: float) -> float:
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


def _variances(grown: GrownGraphModule, layers: tuple[LayerScale, ...], inputs: Inputs) -> dict[str, float]:
    """By node, the mean variance of new units over batch and space beside that of old units, in eval mode."""
    twin = in_precision(grown).eval()
    assert isinstance(twin, GrownGraphModule)
    wanted = {layer.node: layer for layer in layers}
    found: dict[str, float] = {}

    class Measuring(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            layer = wanted.get(node.name)
            if layer is not None and isinstance(value, Tensor):
                units = value.detach().movedim(layer.axis, 0).flatten(1).var(1, correction=0)
                old = units[list(layer.old_units)].mean()
                found[node.name] = float(units[list(layer.units)].mean() / old) if old > 0 else 0.0
            return value

    args, kwargs = inputs
    placeholders = [x for x in twin.graph.nodes if x.op == "placeholder"]
    rest = [kwargs.get(str(x.target), x.args[0] if x.args else None) for x in placeholders[len(args) :]]
    with torch.no_grad(), WithoutNoise():
        Measuring(twin, garbage_collect_values=True).run(*copy.copy(args), *rest)
    return found
