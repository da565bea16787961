"""Examines one model for the sweep, and makes the row of its findings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from fxgrow.zoo.images import bare, resize_images_to
from fxgrow.zoo.nontrivial import lively
from torch import nn

import fxgrow
from fxgrow.capture.inputs import Inputs
from fxgrow.catalogue import on_device
from fxgrow.errors import CaptureError, FxgrowError, VerificationError, first_line
from fxgrow.growth.parts import captured_again, verify_parts
from fxgrow.growth.wish import grows
from fxgrow.history import Verification
from fxgrow.measure.liveness import unmoved
from fxgrow.measure.verification import dtype_of, random_inputs, verify
from fxgrow.modules.containers import in_dtype
from fxgrow.modules.devices import device_of
from fxgrow.planning.plan import Plan

_IDLE = "nothing in it repeats"


@dataclass(frozen=True)
class Task:
    """One model, and what to do with it.

    width, depth: amounts; a width of 1 grows in depth only. only_plan: plan on the meta device, grow nothing.
    side: of images, in pixels, in place of larger ones where the model takes them or can be built for them.
    device: where it is grown and run.
    """

    model: str
    family: str
    width: str
    init: str = "zero"
    seed: int = 0
    only_plan: bool = False
    depth: str | None = None
    side: int | None = None
    device: str = "cpu"

    @property
    def wider(self) -> str | None:
        """The width to grow by, None where it is depth alone."""
        return None if self.depth is not None and self.width == "1" else self.width


@dataclass(frozen=True)
class Row:
    """What came of a task.

    status: "grown", "planned", or why not: "not captured", "not grown", "differs", "dead units", "failed",
        "out of memory", "timed out", "crashed".
    tier: how it was captured; 0: not at all. share: of the parameters, those in tensors that grow.
    seconds: planning, and growing without verification. held: (size, places, reason) of what stays.
    verdict: of the certificate. dead: parameters whose new elements do not move. cause: of a failure.
    blocks: how many there are in runs, before and after.
    """

    task: Task
    status: str
    tier: int = 0
    parameters: int = 0
    grown_parameters: int = 0
    share: float = 0.0
    eval_error: float | None = None
    train_error: float | None = None
    plan_seconds: float = 0.0
    grow_seconds: float = 0.0
    verdict: str = ""
    held: tuple[tuple[int, int, str, str], ...] = ()
    dead: tuple[str, ...] = ()
    cause: str = ""
    blocks: tuple[int, int] = (0, 0)

    @property
    def ratio(self) -> float:
        return self.grown_parameters / max(1, self.parameters)

    @property
    def good(self) -> bool:
        return self.status in ("grown", "planned")


def examine(task: Task) -> Row:
    """Plan a model and, unless only planning is asked for, grow it in float64, compare, and see what learns.

    >>> examine(Task("timm/test_resnet", "resnet", "1.5", only_plan=True)).status
    'planned'
    """
    torch.manual_seed(task.seed)
    model, options, inputs = bare(task.model, None if task.only_plan else task.side)
    started = time.perf_counter()
    try:
        planned = fxgrow.plan(model, task.wider, task.depth, example_inputs=inputs[0], init=task.init)
    except FxgrowError as error:
        return Row(task, "not captured", cause=str(error))
    row = _planned(task, model, planned, time.perf_counter() - started)
    if not grows(planned):
        return replace(
            row, status="not grown", cause="; ".join(staying.reason for staying in planned.held[:3]) or _IDLE
        )
    if task.only_plan:
        return row

    def build() -> nn.Module:
        return lively(on_device(task.device, task.model, **options), task.seed)

    try:
        return _grown(task, row, build, inputs)
    except CaptureError:
        return _grown(task, row, lambda: build().float(), inputs)  # some forwards make float32 tensors of their own


def _planned(task: Task, model: nn.Module, planned: Plan, seconds: float) -> Row:
    growing = {tensor.name for tensor in planned.tensors}
    inside = sum(p.numel() for name, p in model.named_parameters() if name in growing)
    totals = planned.totals
    runs = planned.depth.runs if planned.depth is not None else ()
    return Row(
        task,
        "planned",
        tier=planned.tier,
        parameters=totals.parameters_before,
        grown_parameters=totals.parameters_after,
        share=inside / max(1, totals.parameters_before),
        plan_seconds=round(seconds, 3),
        blocks=(sum(run.before for run in runs), sum(run.after for run in runs)),
        held=tuple((staying.size, len(staying.where), staying.where[0], staying.reason) for staying in planned.held),
    )


def _grown(task: Task, row: Row, build: Callable[[], nn.Module], inputs: Inputs) -> Row:
    model = build()
    if task.side is not None:
        resize_images_to(model, task.side)
    started = time.perf_counter()
    try:
        grown = fxgrow.grow(
            model, task.wider, task.depth, example_inputs=inputs[0], init=task.init, seed=task.seed, verify=False
        )
    except CaptureError:
        raise
    except FxgrowError as error:
        return replace(row, status="not grown", cause=str(error))
    row = replace(row, grow_seconds=round(time.perf_counter() - started, 3))
    try:
        verification = compared(model, grown, _of_another_batch(inputs), task.seed)
    except VerificationError as error:
        return replace(row, status="differs", cause=str(error))
    verdict = str(fxgrow.certify(grown, model).verdict)
    row = replace(row, eval_error=verification.eval_error, train_error=verification.train_error, verdict=verdict)
    del model
    values = in_dtype(random_inputs(inputs, task.seed + 1)[0], dtype_of(grown), device_of(grown))
    dead = unmoved(grown, values, spend=True, original=build)
    return replace(row, status="dead units" if dead else "grown", dead=tuple(dead[:10]))


def compared(model: nn.Module, grown: nn.Module, inputs: Inputs, seed: int) -> Verification:
    """A model beside what its last growth made of it, on inputs like these; part by part if it grew in parts.

    Raises
    ------
    VerificationError: they differ.
    """
    plan = fxgrow.report(grown).plan
    if plan.parts:
        return verify_parts(model, grown, captured_again(model, plan), seed, plan)
    return verify(model, grown, inputs, seed)


def _of_another_batch(inputs: Inputs) -> Inputs:
    """Batches of one more than a model was captured on: what it took for a size of the model would show."""

    def larger(value: Any) -> Any:
        if isinstance(value, list):
            return [*value, *value[:1]]
        return torch.empty(value.shape[0] + 1, *value.shape[1:], dtype=value.dtype, device="meta")

    return tuple(map(larger, inputs[0])), inputs[1]


def failed(task: Task, status: str, error: BaseException | str) -> Row:
    """The row of a model that did not get through."""
    cause = error if isinstance(error, str) else f"{type(error).__name__}: {first_line(error)}"
    return Row(task, status, cause=cause)
