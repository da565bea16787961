"""What a terminal shows, as plain text: tables and trees."""

from __future__ import annotations

from rich.console import Console, RenderableType


def as_text(shown: RenderableType, width: int = 140) -> str:
    """Lines of at most `width` characters, without colours and without blanks at their ends."""
    console = Console(width=width, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
