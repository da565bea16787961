"""The quick test of a growth that is proved: the full test on fewer samples and smaller images.

A proof rests on the rules, on the capture and on the tensors being where the plan says. A fault in these shows on few
samples and small images as it does on many and large ones. So the full test, in float64 on the inputs that the model
was captured on, would tell no more. It still runs where the quick test finds a difference.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from fxgrow.capture import Captured
from fxgrow.capture.inputs import Inputs, image_size_of
from fxgrow.errors import CaptureError, VerificationError
from fxgrow.history import Verification
from fxgrow.measure.verification import dtype_of, verify
from fxgrow.modules.containers import each_tensor, flat_tensors
from fxgrow.modules.libraries import is_known
from fxgrow.opaque import ByMode
from fxgrow.planning.plan import Plan
from fxgrow.rules.calls import targets
from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.registry import law_of_module

ENOUGH = 1e9
"""Floating-point operations for which float64 and the inputs as they are cost little."""

SAMPLES = 2
"""Fewer could not be mistaken for each other."""

SIDES = (64, 96, 128)
"""Of smaller images, in pixels, the first that a model takes."""


def verify_quickly(
    original: nn.Module,
    grown: nn.Module,
    inputs: Inputs,
    seed: int,
    plan: Plan,
    alike: bool,
) -> Verification:
    """Compare a model and what it grew to, as `verify` does, on the least that shows what a wrong edit does.

    Parameters
    ----------
    plan: of the growth. alike: whether both modes compute the same (`alike_by_mode`).

    Raises
    ------
    VerificationError: they differ in full.
    """
    each = plan.totals.flops_before + plan.totals.flops_after
    if each * _samples(inputs) <= ENOUGH:
        return verify(original, grown, inputs, seed, plan=plan)
    modes = (False,) if alike else (False, True)
    for smaller, share, text in _smaller(original, inputs):
        cheap = each * _samples(smaller) * share <= ENOUGH
        coarse = dtype_of(original) is torch.float32 and not cheap
        for precision in (torch.float32, torch.float64) if coarse else (torch.float64,):
            try:
                with redirect_stderr(io.StringIO()):  # where torch.fx prints what a graph cannot do
                    verification = verify(original, grown, smaller, seed, modes=modes, precision=precision, plan=plan)
            except CaptureError:
                break  # the model itself does not take it
            except VerificationError:
                continue  # rounding, or too few values for batch norms to average, or a difference
            if not alike:
                return replace(verification, quick=text)
            return replace(
                verification, quick=f"{text} in eval, which is as train", train_error=verification.eval_error
            )
    return verify(original, grown, inputs, seed, plan=plan)


def _samples(inputs: Inputs) -> int:
    return max((tensor.shape[0] for tensor in flat_tensors(inputs) if tensor.ndim), default=1)


def _smaller(original: nn.Module, inputs: Inputs) -> Iterator[tuple[Inputs, float, str]]:
    """Inputs to try, the smallest images first, with their share of the cost for a sample, and what to call them."""
    few = each_tensor(inputs, lambda tensor: tensor[:SAMPLES] if tensor.ndim else tensor)
    (args, kwargs), samples = few, "1 sample" if _samples(few) == 1 else f"{_samples(few)} samples"
    image = args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else None
    if image is not None and image.ndim == 4 and image.is_floating_point() and image_size_of(original) is None:
        height, width = image.shape[2:]
        for side in SIDES:
            if side < min(height, width):
                share = side * side / (height * width)
                yield ((image[..., :side, :side],), {}), share, f"{samples} of {side} x {side}"
    yield few, 1.0, samples


def alike_by_mode(captured: Captured) -> bool:
    """Whether a model computes the same in eval and in train mode, random draws off, as far as its graphs tell.

    >>> from fxgrow.capture import capture
    >>> alike_by_mode(capture(nn.Sequential(nn.Linear(4, 8), nn.Dropout()), torch.randn(1, 4)))
    True
    >>> alike_by_mode(capture(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), torch.randn(2, 4)))
    False
    """
    if captured.graphs.keys() != {"both"}:
        return False
    called = targets(captured.graphs.values(), "call_module")
    return all(map(_ignores_mode, map(captured.model.get_submodule, called)))


def _ignores_mode(module: nn.Module) -> bool:
    law = law_of_module(module)  # None: hooks, or a layer that nothing is known of
    of_library = is_known(type(module)) and not isinstance(module, ParametrizationList)
    keeps_statistics = isinstance(law, BatchNorm) or getattr(module, "track_running_stats", False)
    return law is not None and of_library and not keeps_statistics and not isinstance(module, ByMode)
