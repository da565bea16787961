"""The coverage sweep: examines every model of a choice in its own process, and keeps every finding at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from fxgrow.zoo.examine import Row, Task, examine, failed

from fxgrow.documents import built
from fxgrow.errors import FileError

_LOADED = ["torch", "torchvision", "timm", "fxgrow.zoo.examine"]
"""What every process needs, imported once."""


class Findings:
    """Rows on disk, one JSON object a line, each written out before the next model is begun.

    A line that was cut off by an interruption is dropped; its model is examined again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: dict[Task, Row] = {}
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        complete = []
        for number, line in enumerate(lines):
            try:
                row: Row = built(Row, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) - 1:
                    break
                raise FileError(
                    f"line {number + 1} is not a finding of the sweep ({type(error).__name__})",
                    where=str(path),
                    remedy="name another file, or delete the line",
                ) from None
            self.rows[row.task] = row
            complete.append(line if line.endswith("\n") else line + "\n")
        if complete != lines:
            path.write_text("".join(complete))

    def forget_failed(self) -> None:
        """Let models that failed be examined again; their newest row counts."""
        self.rows = {task: row for task, row in self.rows.items() if row.good}

    def keep(self, row: Row) -> None:
        """Take a row in, on disk first."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self.rows[row.task] = row


@dataclass(frozen=True)
class Limits:
    """What one model may take: seconds of wall clock, bytes of memory (of a GPU's, if it is one), threads."""

    seconds: float = 900.0
    memory: int = 14 * 2**30
    threads: int = 1


@dataclass
class _Running:
    task: Task
    process: BaseProcess
    answer: Connection
    until: float


def sweep(tasks: Iterable[Task], findings: Findings, limits: Limits, jobs: int = 1) -> Iterator[Row]:
    """Examine what is not among the findings yet; yields each new row once it is kept.

    A model that crashes, hangs or wants more memory than there is becomes one failed row.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    pending = [task for task in tasks if task not in findings.rows]
    running: list[_Running] = []
    try:
        while pending or running:
            while pending and len(running) < jobs:
                running.append(_started(context, pending.pop(0), limits))
            soonest = min(active.until for active in running) - time.monotonic()
            wait([active.answer for active in running], timeout=max(0.0, soonest))
            for job in list(running):
                row = _finished(job, limits)
                if row is not None:
                    running.remove(job)
                    findings.keep(row)
                    yield row
    finally:
        for job in running:
            job.process.kill()


def _started(context: multiprocessing.context.ForkServerContext, task: Task, limits: Limits) -> _Running:
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(task, limits, sending), daemon=True)
    process.start()
    sending.close()
    return _Running(task, process, receiving, time.monotonic() + limits.seconds)


def _finished(job: _Running, limits: Limits) -> Row | None:
    """The row of a process that has answered, died or overrun; None while it works."""
    row: Row | None = None
    if job.answer.poll():
        try:
            row = job.answer.recv()
        except EOFError:
            job.process.join()
            code = job.process.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            row = failed(job.task, "out of memory" if code == -9 else "crashed", how)
    elif time.monotonic() >= job.until:
        row = failed(job.task, "timed out", f"not done after {limits.seconds:g} seconds")
    if row is not None:
        job.process.kill()
        job.process.join()
        job.answer.close()
    return row


def _answer(task: Task, limits: Limits, sending: Connection) -> None:
    """In the process of its own: examine, answer, whatever happens."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (of this process; libraries chatter there)
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    torch.set_num_threads(limits.threads)
    try:
        _limit_memory(limits.memory, torch.device(task.device))
        row = examine(task)
    except (MemoryError, torch.OutOfMemoryError) as error:
        row = failed(task, "out of memory", error)
    except Exception as error:
        short = "can't allocate memory" in str(error) or "not enough memory" in str(error)
        row = failed(task, "out of memory" if short else "failed", error)
    sending.send(row)
    sending.close()


def _limit_memory(most: int, device: torch.device) -> None:
    """Let this process have so many bytes, of the device's memory if it is a GPU."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), device.index or 0)
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _end_with_the_sweep() -> None:
    """In the process of its own: a sweep that is killed leaves nothing running."""
    sweeping = multiprocessing.parent_process()
    assert sweeping is not None
    sweeping.join()
    os._exit(1)
