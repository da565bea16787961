"""Depth, width, depth: random sequences of growths on the smallest model of each family."""

from __future__ import annotations

import gc
import itertools

import pytest
import torch
from fxgrow.zoo.choice import chosen
from fxgrow.zoo.examine import compared
from fxgrow.zoo.images import bare, resize_images_to
from fxgrow.zoo.nontrivial import lively
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import fxgrow
from fxgrow.catalogue import find
from fxgrow.errors import FxgrowError

SMALL = ("timm/test_resnet", "timm/test_vit", "timm/test_convnext", "timm/ese_vovnet19b_slim_dw")
"""What stands for them all where a test has to be short, the first two for a start."""

FAMILIES = dict.fromkeys([*SMALL, *(entry.full_name for entry in chosen())])

SINGLE_PRECISION = ("torchvision/raft_small",)
"""Models whose forward makes float32 tensors of its own: rounding adds up, so each step is compared."""

FEW_BOXES = {
    "box_detections_per_img": 8,
    "box_batch_size_per_image": 16,
    "rpn_post_nms_top_n_test": 64,
    "rpn_post_nms_top_n_train": 64,
}
"""Options of two-stage detectors, whose heads look at hundreds of regions otherwise."""

WAYS = {"depth": (None, "+1"), "width": ("1.25", None), "both": ("1.25", "+1")}
"""What a step of a sequence grows: amounts of width and depth."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL[:2])
def test_depth_and_width_and_depth_again_on_small_models(name: str) -> None:
    assert_sequence_stays_exact(name, ["both"], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@settings(
    max_examples=5,
    derandomize=True,
    phases=[Phase.generate],  # a smaller example is not worth minutes of growing
)
@given(middle=st.lists(st.sampled_from(sorted(WAYS)), min_size=1, max_size=2), seed=st.integers(0, 99))
def test_depth_width_and_depth_again(name: str, middle: list[str], seed: int) -> None:
    assert_sequence_stays_exact(name, middle, seed)


def assert_sequence_stays_exact(name: str, middle: list[str], seed: int) -> None:
    """After depth, then `middle`, then depth again, a model computes what it did, and every element has its birth."""
    model, options, inputs = bare(name, 96)
    options |= FEW_BOXES if "rcnn" in name else {}
    plan = fxgrow.plan(model, depth="+1", example_inputs=inputs[0])
    assert plan.depth is not None
    if not plan.depth.blocks:
        assert plan.held or not plan.depth.runs
        return

    def made() -> nn.Module:
        torch.manual_seed(seed)
        model = lively(find(name, **options), seed)
        resize_images_to(model, 64)
        return model.float() if name in SINGLE_PRECISION else model

    before, grown = nn.Module(), made()
    sizes = [sum(p.numel() for p in grown.parameters())]
    try:
        for step in ("depth", *middle, "depth"):
            before, (width, depth) = grown, WAYS[step]
            gc.collect()  # what has been let go is in cycles, of a graph and its module
            grown = fxgrow.grow(before, width, depth, example_inputs=inputs[0], seed=seed, verify=False)
            sizes.append(sum(p.numel() for p in grown.parameters()))
            in_steps = bool(fxgrow.report(grown).plan.parts) or name in SINGLE_PRECISION
            if in_steps:
                compared(before, grown, inputs, seed)
        if not in_steps:
            before = made()  # made again rather than kept: some take a third of the memory
            compared(before, grown, inputs, seed)
    except FxgrowError as error:
        raise AssertionError(f"{name} after depth, {', '.join(middle)}, depth: {error}") from None
    born = [0] * len(sizes)
    for birth in fxgrow.births(grown).values():
        for stage, count in birth.counts().items():
            born[stage] += count
    assert born == [sizes[0], *(after - before for before, after in itertools.pairwise(sizes))]
