"""The ends of a model, its inputs and outputs, which are fixed unless more of them is asked for."""

from __future__ import annotations

from fxgrow.capture import Captured
from fxgrow.planning.analysis import Analysis, analyse
from fxgrow.planning.heads import Heads, open_heads
from fxgrow.planning.input_channels import InputChannels, open_inputs

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
