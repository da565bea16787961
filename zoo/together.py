"""Several training runs in one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from fxgrow.zoo.training import Run


def together(runs: Iterable[Run], at_once: int = 1, stop: Callable[[], bool] = lambda: False) -> Iterator[Run]:
    """Train runs to their ends, `at_once` of them in turns, and give each back as it ends.

    On a GPU each has a stream of its own, and their steps overlap. stop: asked between turns; once it says so, all
    write checkpoints and none goes on.
    """
    coming, active, ended = iter(runs), deque[tuple[Run, Iterator[None]]](), object()
    while True:
        while len(active) < at_once and not stop() and (run := next(coming, None)) is not None:
            active.append((run, run.turns()))
        if not active:
            return
        run, turns = active.popleft()
        with run.on_its_stream():
            if stop() and run.pause():
                continue
            outcome = next(turns, ended)
        if outcome is ended:
            yield run
        else:
            active.append((run, turns))
