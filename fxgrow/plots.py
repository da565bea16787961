"""Plots, drawn with matplotlib, which is imported when a plot is asked for.

All of them return the figure. They draw on the axes `ax`, or else on a figure of their own.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fxgrow.errors import FxgrowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

MOST_ENTRIES = 12
"""Lines that a legend names; what is more is counted."""


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


def panels(
    ax: Axes | Iterable[Axes] | None, wanted: int, size: tuple[float, float], *, share_y: bool = False
) -> list[Axes]:
    """The axes to draw on: those given, else as many as wanted beside each other, each of a size in inches.

    Raises
    ------
    FxgrowError: other than one or `wanted` axes were given, or a path, or matplotlib is not installed.
    """
    if ax is None:
        width, height = size
        return list(new_figure(wanted * width, height).subplots(1, wanted, sharey=share_y, squeeze=False)[0])
    if isinstance(ax, (str, os.PathLike)):
        raise FxgrowError(f"{str(ax)!r} is no axes", remedy=f"a plot returns its figure: plot().savefig({str(ax)!r})")
    axes = list(ax) if isinstance(ax, Iterable) else [ax]
    if len(axes) not in (1, wanted):
        count = "one" if wanted == 1 else f"one or {wanted}"
        raise FxgrowError(f"{len(axes)} axes were given as ax", remedy=f"pass {count}, or leave ax out")
    return axes


def figure_of(ax: Axes) -> Figure:
    """The whole figure that axes belong to."""
    figure = ax.figure.figure  # of a part of a figure, the whole; of a figure, itself
    assert figure is not None
    return figure


def colours_of(stages: Iterable[int]) -> dict[int, str]:
    """A colour for each birth stage, the same in all plots of as many stages: dark for what is old."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    wanted = sorted(set(stages))
    highest = max([1, *wanted])
    return {stage: to_hex(colormaps["viridis"](0.9 * stage / highest)) for stage in wanted}


def legend_beside(ax: Axes) -> None:
    """A legend on the right of axes, of a dozen lines at most."""
    _legend(ax, "and {} more", loc="center left", bbox_to_anchor=(1.01, 0.5))


def legend_below(ax: Axes) -> None:
    """A legend under axes, a line for each name, for names that are long."""
    said = "the largest, and {} more"
    _legend(ax, said, loc="upper center", bbox_to_anchor=(0.5, -0.16), title_fontsize="small")


def _legend(ax: Axes, said: str, **place: Any) -> None:
    """A legend of a dozen lines at most; `said`: of how many more there are."""
    handles, labels = ax.get_legend_handles_labels()
    more = len(labels) - MOST_ENTRIES
    title = said.format(more) if more > 0 else None
    ax.legend(handles[:MOST_ENTRIES], labels[:MOST_ENTRIES], title=title, frameon=False, fontsize="small", **place)


def readable_log(ax: Axes, lowest: float, highest: float) -> None:
    """A logarithmic axis of values with ticks at plain numbers, however few decades it spans."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_yscale("log")
    decades = highest / lowest if lowest > 0 else 1e9
    subs = (1.0,) if decades > 300 else (1.0, 2.0, 5.0) if decades > 6 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if lowest > 0 and decades < 3:
        middle = (lowest * highest) ** 0.5
        ax.set_ylim(middle / 3**0.5 / 1.05, middle * 3**0.5 * 1.05)


def draw_births(name: str, stages: Tensor, ax: Axes | None) -> Figure:
    """One parameter as a matrix coloured by birth stage; `stages`: that of each entry.

    Rows are its first axis, columns its second; further axes, such as those of a kernel, are left out, and so
    are axes of size one. A vector is a bar.
    """
    shape, counts = list(stages.shape), {int(k): int((stages == k).sum()) for k in stages.unique()}
    shown = [axis for axis, size in enumerate(shape) if size > 1]
    stages = stages.squeeze()
    while stages.ndim > 2:
        stages = stages.amax(-1)
    is_bar = stages.ndim < 2
    while stages.ndim < 2:
        stages = stages.unsqueeze(0)
    (ax,) = panels(ax, 1, (6.5, 1.7 if is_bar else 4))
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    highest = max(counts)
    colours = colours_of(range(highest + 1))
    scale = BoundaryNorm([k - 0.5 for k in range(highest + 2)], highest + 1)
    colour_map = ListedColormap([colours[stage] for stage in range(highest + 1)])
    ax.imshow(stages.numpy(), cmap=colour_map, norm=scale, aspect="auto", interpolation="nearest")
    ax.set_title(f"{name} {shape}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if is_bar:
        ax.set(xlabel=f"axis {shown[0]}" if shown else "", yticks=[], ylim=(0.5, -0.5))
        ax.set_box_aspect(0.15)
    else:
        ax.set(xlabel=f"axis {shown[1]}", ylabel=f"axis {shown[0]}")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    patches = [Patch(color=colours[stage], label=f"stage {stage}: {count:,}") for stage, count in counts.items()]
    ax.legend(handles=patches, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure_of(ax)


def draw_by_stage(
    kinds: Mapping[str, Mapping[int, float]], ax: Axes | None, *, title: str, ylabel: str, percent: bool = False
) -> Figure:
    """Bars in groups: for each birth stage one of each kind."""
    (ax,) = panels(ax, 1, (6.5, 3.6))
    stages = sorted({stage for values in kinds.values() for stage in values})
    width = 0.8 / max(1, len(kinds))
    for number, (kind, values) in enumerate(kinds.items()):
        offset = (number - (len(kinds) - 1) / 2) * width
        heights = [values.get(stage, 0.0) for stage in stages]
        ax.bar([place + offset for place in range(len(stages))], heights, width, label=kind)
    ax.set_xticks(range(len(stages)), [f"stage {stage}" for stage in stages])
    ax.set(title=title, ylabel=ylabel)
    if percent:
        _in_percent(ax)
    legend_beside(ax)
    return figure_of(ax)


def draw_stages(ax: Axes, edges: Sequence[int], lines: Mapping[str, Sequence[float]], *, beside: str = "") -> None:
    """Steps over the epochs, one line of them for each label; beside: what is 1 throughout, and fills what is below."""
    for edge in edges[1:-1]:
        ax.axvline(edge, color="0.88", linewidth=0.8, zorder=0)
    for label, values in lines.items():
        ax.stairs(
            values, edges, baseline=0 if beside else None, fill=bool(beside), alpha=0.5 if beside else 1, label=label
        )
    if beside:
        ax.plot([edges[0], edges[-1]], [1.0, 1.0], color="0.3", linestyle="--", label=beside)
    ax.set(xlabel="epoch", xlim=(edges[0], edges[-1]))
    if any(lines):
        legend_below(ax)


def over_time(
    records: Mapping[int, Mapping[int, float]],
    ax: Axes | None = None,
    *,
    ylabel: str = "",
    xlabel: str = "step",
    percent: bool = False,
) -> Figure:
    """What each birth stage had over time, one line a stage: rates by age, or its share of gradients.

    Parameters
    ----------
    records: step -> stage -> value, as collected from `AdaptedRates.by_stage`, `Vitality.gradient_shares` and
        `Vitality.update_shares` during training. A stage's line begins where it is first there.
    ax: axes to draw on; a new figure unless given.
    percent: whether the values are parts of a whole.

    Raises
    ------
    FxgrowError: matplotlib is not installed.

    >>> over_time({0: {1: 0.2}, 10: {1: 0.3}, 20: {1: 0.4, 2: 0.1}}, ylabel="rate").axes[0].get_ylabel()
    'rate'
    """
    (ax,) = panels(ax, 1, (6.5, 3.6))
    stages = sorted({stage for values in records.values() for stage in values})
    colours = colours_of(stages)
    for stage in stages:
        line = sorted((step, values[stage]) for step, values in records.items() if stage in values)
        marker = "o" if len(line) == 1 else None
        ax.plot(*zip(*line, strict=True), color=colours[stage], marker=marker, label=f"stage {stage}")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    highest = max((value for values in records.values() for value in values.values()), default=0.0)
    ax.set_ylim(0, 1.08 * highest if highest > 0 else 1)
    if percent:
        _in_percent(ax)
    ax.grid(alpha=0.25)
    legend_beside(ax)
    return figure_of(ax)


def _in_percent(ax: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def named_ticks(ax: Axes, names: Sequence[str]) -> None:
    """A name for each place from 0 on; of very many, some."""
    step = -(-len(names) // 60)
    ax.set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize="x-small")
    ax.set_xlim(-0.5, len(names) - 0.5)


def as_svg(figure: Figure, name: str) -> str:
    """A figure as SVG to put into a page, the same text for the same figure; name: what no other on the page has."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return text.getvalue()[text.getvalue().index("<svg") :]


def draw_schedule(
    model: str,
    edges: Sequence[int],
    widths: Mapping[str, Sequence[float]],
    costs: Sequence[float],
    share: float,
    ax: Axes | Sequence[Axes] | None,
) -> Figure:
    """Widths and costs over the epochs: `Schedule.plot`.

    Parameters
    ----------
    model: whose sizes are drawn; "" where only relative widths are known, and no costs.
    edges: epochs at which stages begin, and the last one's end.
    widths: by what a legend calls them, a number for each stage; costs likewise, relative to the last stage.
    """
    shown = panels(ax, 2 if model else 1, (5.5, 3.6))
    draw_stages(shown[0], edges, widths)
    if model:
        shown[0].set(ylabel="units", title=f"{model}: sizes", ylim=(0, None))
    else:
        shown[0].set(ylabel="width relative to the last stage", ylim=(0, 1.05))
    if len(shown) > 1:
        draw_stages(shown[1], edges, {"this schedule": costs}, beside="the large model")
        title = f"{percent(share)} of the large model's FLOPs"
        shown[1].set(ylabel="FLOPs relative to the last stage", title=title, ylim=(0, 1.08))
    return figure_of(shown[0])


def percent(part: float) -> str:
    """A share in words."""
    return f"{100 * part:.3g}%" if part >= 0.9995 else f"{100 * part:.1f}%"
