"""The coordinate check of muP: does the size of activations stay the same while the model grows wider and trains?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor, nn

from fxgrow.capture.inputs import Inputs, example_inputs_for
from fxgrow.errors import AmountError
from fxgrow.growth.growing import grow
from fxgrow.measure.verification import in_precision, random_inputs
from fxgrow.modules.containers import flat_tensors
from fxgrow.modules.devices import device_of
from fxgrow.modules.switching import in_mode
from fxgrow.noise import WithoutNoise
from fxgrow.pages import Shown, titled
from fxgrow.plots import figure_of, legend_beside, panels, readable_log
from fxgrow.training.groups import param_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Coordinates(Shown):
    """Root mean square of each layer's output, by width and training step. `print` shows it as a table.

    Attributes
    ----------
    widths: the factors.
    steps: of training.
    layers: those with parameters, by their path.
    sizes: (width, step, layer) -> root mean square.
    """

    widths: tuple[float, ...]
    steps: int
    layers: tuple[str, ...]
    sizes: dict[tuple[float, int, str], float]

    def slope(self, layer: str, step: int | None = None) -> float:
        """d log(size) / d log(width) of a layer after some steps: 0 where the size does not depend on the width."""
        step = self.steps if step is None else step
        x = torch.tensor(self.widths, dtype=torch.float64).log()
        y = torch.tensor([self.sizes[w, step, layer] for w in self.widths], dtype=torch.float64).clamp(min=1e-300).log()
        x = x - x.mean()
        return float((x * (y - y.mean())).sum() / (x * x).sum())

    @property
    def steepest(self) -> float:
        """The largest |slope| of any layer after the last step."""
        return max((abs(self.slope(layer)) for layer in self.layers), default=0.0)

    def __rich__(self) -> Table:
        right = [*(f"x{width:g}" for width in self.widths), "slope"]
        table = titled(f"size of activations after {self.steps} steps", "layer", right=right)
        for layer in self.layers:
            sizes = [f"{self.sizes[width, self.steps, layer]:.3g}" for width in self.widths]
            table.add_row(layer, *sizes, f"{self.slope(layer):+.2f}")
        return table

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """One panel a step, one line a layer: size over width, both logarithmic. Flat is good.

        ax: matplotlib axes for the last step alone, or for every step from 0 on; a new figure unless given.

        Raises
        ------
        FxgrowError: matplotlib is not installed, or there are axes for other than one or all steps.
        """
        shown = panels(ax, self.steps + 1, (2.8, 3.4), share_y=True)
        steps = range(self.steps + 1)[-len(shown) :]
        for step, panel in zip(steps, shown, strict=True):
            for layer in self.layers:
                label = f"{layer} ({self.slope(layer):+.2f})"
                panel.plot(self.widths, [self.sizes[w, step, layer] for w in self.widths], marker="o", label=label)
            panel.set(title=f"step {step}", xlabel="width", xscale="log")
            panel.set_xticks(self.widths, [f"x{width:g}" for width in self.widths])
            panel.minorticks_off()
            panel.grid(alpha=0.25)
        drawn = [self.sizes[width, step, layer] for width in self.widths for step in steps for layer in self.layers]
        for panel in shown:
            readable_log(panel, min(drawn, default=1.0), max(drawn, default=1.0))
        shown[0].set_ylabel("root mean square of outputs")
        legend_beside(shown[-1])
        return figure_of(shown[-1])


def coordinate_check(
    make_model: Callable[[], nn.Module],
    widths: Sequence[float],
    *,
    example_inputs: Any = None,
    steps: int = 3,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    seed: int = 0,
    **growth: Any,
) -> Coordinates:
    """Grow a model to several widths, train each for a few steps, and tabulate how large activations are.

    Parameters
    ----------
    make_model: builds the narrow model.
    widths: factors; 1 is the narrow model itself.
    example_inputs: as in `fxgrow.grow`.
    steps: of training, on one random batch and random targets.
    optimizer: makes one for a model. Left out: Adam at 0.01, in the groups of `fxgrow.param_groups`, so that with
        parameterization="mup" the rates are those of µP.
    seed: of the weights, the batch and the targets.
    growth: passed on to `fxgrow.grow`: init, parameterization.

    Raises
    ------
    AmountError: fewer than two widths, which have no slope.

    Source: Yang et al., "Tensor Programs V", 2022, appendix D.1.

    >>> import fxgrow
    >>> from torch import nn
    >>> make = lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> found = fxgrow.coordinate_check(make, [1, 2], example_inputs=torch.randn(8, 4), steps=1)
    >>> found.layers
    ('0', '2')
    """
    factors = tuple(float(width) for width in widths)
    if len(set(factors)) < 2:
        raise AmountError("a coordinate check needs at least two widths", remedy="pass widths=[1, 2, 4]")
    sizes: dict[tuple[float, int, str], float] = {}
    layers: dict[str, None] = {}
    for width in factors:
        torch.manual_seed(seed)
        model = make_model()
        shapes = example_inputs_for(model, example_inputs)
        if width != 1:
            model = grow(model, width, example_inputs=example_inputs, seed=seed, verify=False, **growth)
        model = in_mode(in_precision(model), True)
        learning = optimizer(model) if optimizer else torch.optim.Adam(param_groups(model, lr=0.01), lr=0.01)
        for (step, layer), size in _trained(
            model, random_inputs(shapes, seed, device_of(model)), steps, learning, seed
        ).items():
            sizes[width, step, layer] = size
            layers[layer] = None
    common = [a for a in layers if all((w, k, a) in sizes for w in factors for k in range(steps + 1))]
    return Coordinates(factors, steps, tuple(common), sizes)


def _trained(
    model: nn.Module, inputs: Inputs, steps: int, learning: torch.optim.Optimizer, seed: int
) -> dict[tuple[int, str], float]:
    """Sizes of the outputs of all layers that have parameters, before training and after each step."""
    args, kwargs = inputs
    sizes: dict[tuple[int, str], float] = {}
    now = 0

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            for tensor in flat_tensors(output):
                sizes.setdefault((now, name), float(tensor.detach().square().mean().sqrt()))

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if name and next(nn.Module.parameters(module, recurse=False), None) is not None
    ]
    targets: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps + 1):
        now = step
        with WithoutNoise():
            outputs = [t for t in flat_tensors(model(*args, **kwargs)) if t.requires_grad]
        targets = targets or [torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device) for t in outputs]
        learning.zero_grad()
        torch.stack([(t - goal).square().mean() for t, goal in zip(outputs, targets, strict=True)]).sum().backward()
        learning.step()
    for hook in hooks:
        hook.remove()
    return sizes
