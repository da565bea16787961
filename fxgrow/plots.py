"""Plots, drawn with matplotlib, which is imported when a plot is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxgrow.errors import FxgrowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches; it belongs to no window, and `savefig` keeps it.

    Raises
    ------
    FxgrowError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise FxgrowError("plots need matplotlib", remedy="pip install matplotlib") from None
    return Figure(figsize=(width, height), layout="constrained")


def draw_births(name: str, stages: Tensor, axes: Axes | None) -> Axes:
    """One parameter as a matrix coloured by birth stage; `stages`: that of each entry.

    Rows are its first axis, columns its second; further axes, such as those of a kernel, are left out, and so
    are axes of size one.
    """
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    shape, counts = list(stages.shape), {int(k): int((stages == k).sum()) for k in stages.unique()}
    stages = stages.squeeze()
    while stages.ndim > 2:
        stages = stages.amax(-1)
    while stages.ndim < 2:
        stages = stages.unsqueeze(0)
    axes = axes if axes is not None else new_figure(5.5, 4).subplots()
    highest = max(counts)
    colours = colormaps["viridis"].resampled(highest + 1)(range(highest + 1))
    scale = BoundaryNorm([k - 0.5 for k in range(highest + 2)], highest + 1)
    axes.imshow(stages.numpy(), cmap=ListedColormap(colours), norm=scale, aspect="auto", interpolation="nearest")
    axes.set(title=f"{name} {shape}", xlabel="axis 1", ylabel="axis 0")
    patches = [Patch(color=colours[stage], label=f"stage {stage}: {count:,}") for stage, count in counts.items()]
    axes.legend(handles=patches, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return axes
