"""The ends of a model, its inputs and outputs, which are fixed unless more of them is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from fxgrow.capture import Captured
from fxgrow.errors import PlanError
from fxgrow.planning.analysis import Analysis, analyse
from fxgrow.planning.heads import Heads, open_heads
from fxgrow.planning.input_channels import InputChannels, open_inputs
from fxgrow.planning.sizes import Sizes
from fxgrow.planning.targets import Distance

End = Heads | InputChannels

Asked = int | str | None
"""How many there are to be, or "+5" for 5 more; None: as many as there are."""


def open_ends(captured: Captured, classes: Asked, class_init: str, in_chans: Asked) -> tuple[Analysis, list[End]]:
    """The analysis of a captured model, and of its ends those that are to grow; the graphs are marked accordingly.

    Raises
    ------
    PlanError: it is not clear what its classes or input channels are. AmountError: there are more than are asked for.
    """
    ends: list[End] = []
    channels = open_inputs(captured, in_chans) if in_chans is not None else None
    if classes is not None:
        analysis, heads = open_heads(captured, classes, class_init)
        ends.append(heads)
    else:
        analysis = analyse(captured.model, captured.graphs)
    if channels is not None:
        ends.append(InputChannels.of(channels, analysis, captured.inputs))
    return analysis, ends


def sizes_between(ends: Iterable[End], distances: Iterable[Distance]) -> Sizes:
    """The sizes of a target in all that is no end of the model; ends grow as was asked.

    Raises
    ------
    PlanError: the target has others.
    """
    sizes = {distance.leaf: (distance.dimension, distance.last) for distance in distances}
    for end in ends:
        for leaf in end.leaves:
            dimension, last = sizes.pop(leaf, (None, leaf.size))
            if last != end.new:
                raise PlanError(
                    f"{end.new} {end.units} were asked for, and the target has {last}",
                    where=str(dimension) if dimension is not None else None,
                    remedy=f"pass {end.argument}={last}" if last > leaf.size else f"leave {end.argument}= out",
                )
    return Sizes(tuple(sizes.values()))
