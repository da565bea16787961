"""What people do with a model, done with a grown one: compile, export, trace, copy, cast, checkpoint, group, hook."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import fxgrow
from fxgrow.measure.verification import relative_error
from tests.capture.assembled import EXACT, normal
from tests.models import lively
from tests.pairing import few

IMAGES = normal(2, 3, 96, 96)
NAMES = ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"]


def built(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    size = {"img_size": 96} if "vit" in name else {}
    return lively(timm.create_model(name, **size, **options)).double().eval()


class Pair:
    """A model and what it grew into, wider and deeper."""

    def __init__(self, name: str) -> None:
        self.model: Any = built(name, num_classes=7)
        self.grown: Any = fxgrow.grow(self.model, 1.5, depth=1.5, example_inputs=IMAGES, verify=False).eval()
        with torch.no_grad():
            self.expected: Tensor = self.model(IMAGES)

    def gives(self, output: Tensor, error: float = EXACT) -> bool:
        return relative_error(output, self.expected) <= error


@pytest.fixture(scope="module", params=few(NAMES, "test_resnet"))
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


@pytest.mark.slow
def test_it_compiles_whole(pair: Pair) -> None:
    torch._dynamo.reset()
    assert pair.gives(torch.compile(pair.grown, fullgraph=True, backend="eager")(IMAGES))
    torch._dynamo.reset()
    trained = copy.deepcopy(pair.grown).train()
    compiled = torch.compile(copy.deepcopy(trained), fullgraph=True, backend="aot_eager")
    for run in (trained, compiled):
        torch.manual_seed(0)
        run(IMAGES).square().mean().backward()
    for (name, expected), parameter in zip(trained.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.slow
def test_it_exports_for_any_batch(pair: Pair) -> None:
    program = torch.export.export(pair.grown, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = normal(5, 3, 96, 96)
    assert relative_error(program.module()(more), pair.grown(more)) <= 1e-10
    reference = torch.export.export(pair.model, (IMAGES,)).module()(IMAGES)
    assert relative_error(program.module()(IMAGES), reference) <= 1e-10


@pytest.mark.slow
def test_it_runs_in_onnxruntime(pair: Pair, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, images = str(tmp_path / "grown.onnx"), IMAGES.float()
    torch.onnx.export(copy.deepcopy(pair.grown).float(), (images,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert pair.gives(torch.tensor(output, dtype=torch.float64), 1e-5)


@pytest.mark.parametrize("name", few(("test_resnet", "test_convnext"), "test_resnet"))
def test_torch_fx_traces_it_as_it_does_the_original(name: str) -> None:
    pair = Pair(name)
    assert pair.gives(torch.fx.symbolic_trace(pair.grown)(IMAGES))
    assert pair.gives(torch.fx.symbolic_trace(pair.model)(IMAGES))


def test_torch_saves_it_whole(pair: Pair) -> None:
    file = io.BytesIO()
    torch.save(pair.grown, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert type(again) is type(pair.model)
    assert pair.gives(again(IMAGES))


def test_other_layouts_and_precisions(pair: Pair) -> None:
    last = copy.deepcopy(pair.grown).to(memory_format=torch.channels_last)
    assert pair.gives(last(IMAGES.contiguous(memory_format=torch.channels_last)), 1e-12)
    assert pair.gives(copy.deepcopy(pair.grown).float()(IMAGES.float()).double(), 1e-5)
    assert pair.gives(copy.deepcopy(pair.grown).bfloat16()(IMAGES.bfloat16()).double(), 0.05)


def test_hooks_on_blocks_see_them_run(pair: Pair) -> None:
    grown = copy.deepcopy(pair.grown)
    blocks = list(grown.get_submodule(grown.feature_info[-1]["module"]).modules())
    seen: list[nn.Module] = []
    for block in blocks[:1]:
        block.register_forward_hook(lambda module, inputs, output: seen.append(module))
        block.register_full_backward_hook(lambda module, into, out: seen.append(module))
    grown(IMAGES).square().mean().backward()
    assert seen == blocks[:1] * 2


def kept_for_backward(model: nn.Module) -> int:
    """How many numbers a forward pass keeps for the backward pass."""
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(IMAGES)
    return sum(sizes)


def test_checkpointing_saves_what_it_saved(pair: Pair) -> None:
    shares = []
    for model in (pair.model, pair.grown):
        twin = copy.deepcopy(model)
        plain = kept_for_backward(twin)
        twin.set_grad_checkpointing(True)
        shares.append(kept_for_backward(twin) / plain)
    assert shares[1] <= shares[0] < 1
    checkpointed = copy.deepcopy(pair.model)
    checkpointed.set_grad_checkpointing(True)
    grown: Any = fxgrow.grow(checkpointed, 1.5, depth=1.5, example_inputs=IMAGES, verify=False)
    assert type(grown) is type(pair.model)
    assert grown.grad_checkpointing if hasattr(checkpointed, "grad_checkpointing") else True
    assert kept_for_backward(grown) == pytest.approx(shares[1] * kept_for_backward(copy.deepcopy(pair.grown)), rel=1e-9)


def test_layer_decay_has_a_group_for_every_block(pair: Pair) -> None:
    wider = fxgrow.grow(pair.model, 1.5, example_inputs=IMAGES, verify=False)
    groups = [param_groups_layer_decay(model, 0.05, layer_decay=0.75) for model in (pair.model, wider, pair.grown)]
    assert len(groups[0]) == len(groups[1]) <= len(groups[2])
    assert sum(len(group["params"]) for group in groups[2]) == len(list(pair.grown.parameters()))
    described = [
        [(g["weight_decay"], g["lr_scale"], len(g["params"])) for g in model_groups] for model_groups in groups[:2]
    ]
    assert described[0] == described[1]


def test_features_at_every_depth(pair: Pair) -> None:
    last, features = pair.grown.forward_intermediates(IMAGES)
    assert pair.gives(pair.grown.forward_head(last))
    channels = [feature.shape[1] for feature in features]
    assert channels == [info["num_chs"] for info in pair.grown.feature_info]
    for info in pair.grown.feature_info:
        pair.grown.get_submodule(info["module"])


@pytest.mark.parametrize("name", few(("test_vit", "test_resnet", "test_efficientnet"), "test_resnet"))
def test_models_that_give_features_say_what_they_give(name: str) -> None:
    """Outputs keep their size, and so does what is said of them; a position among blocks follows."""
    model = built(name, features_only=True)
    grown: Any = fxgrow.grow(model, 1.5, depth=1.5, example_inputs=IMAGES).eval()
    assert isinstance(grown, type(model))
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    for feature, expected in zip(grown(IMAGES), model(IMAGES), strict=True):
        assert relative_error(feature, expected) <= 1e-10
    assert grown.feature_info.channels() == model.feature_info.channels()
    assert grown.feature_info.reduction() == model.feature_info.reduction()
    assert len(grown.feature_info.out_indices) == len(grown(IMAGES))
    if name == "test_vit":
        assert (model.out_indices, grown.out_indices) == ([3, 4, 5], [5, 6, 8])
        assert grown.feature_info.module_name() == ["blocks.5", "blocks.6", "blocks.8"]


def test_outputs_that_are_counted_from_the_end() -> None:
    model = built("test_resnet", features_only=True, out_indices=(0, -2, -1))
    grown: Any = fxgrow.grow(model, 1.5, depth=1.5, example_inputs=IMAGES, verify=False).eval()
    assert grown.feature_info.channels() == [feature.shape[1] for feature in grown(IMAGES)]
    assert grown.feature_info.channels() == model.feature_info.channels()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(self.norm(x).relu())


class Counted(nn.Module):
    """A stage that goes through its blocks by their number."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth, self.heads = depth, 3
        self.blocks = nn.ModuleList(Residual() for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in range(self.depth):
            x = self.blocks[number](x)
        return x.unflatten(-1, (self.heads, -1)).flatten(-2)


class Stages(nn.Module):
    def __init__(self, listed: bool) -> None:
        super().__init__()
        self.depths = [2, 3, 2]
        self.listed, self.stages = listed, nn.ModuleList(map(Counted, self.depths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.listed:
            for stage in self.stages:
                x = stage(x)
            return x
        for stage, depth in zip(self.stages, self.depths, strict=True):
            for number in range(depth):
                x = stage.blocks[number](x)
        return x


@pytest.mark.parametrize("listed", few((False, True), True))
def test_numbers_of_blocks_that_a_forward_counts_to_follow(listed: bool) -> None:
    model, x = Stages(listed).double(), torch.randn(2, 6, dtype=torch.float64)
    grown: Any = fxgrow.grow(model, depth="+1", example_inputs=x)
    assert isinstance(grown, Stages)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert relative_error(grown(x), model(x)) <= 1e-10
    assert [len(stage.blocks) for stage in grown.stages] == [3, 4, 3]
    assert (grown.depths if listed else [stage.depth for stage in grown.stages]) == [3, 4, 3]
    assert [stage.heads for stage in grown.stages] == [3, 3, 3]


def test_tied_tensors_stay_one_through_copies() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            return self.head(x + self.inner(x).relu())

    tokens = torch.arange(6).view(2, 3)
    model = lively(Tied()).double().eval()
    grown = fxgrow.grow(model, 2, example_inputs=tokens)
    assert type(grown) is Tied
    for twin in (grown, copy.deepcopy(grown), copy.deepcopy(grown).to(torch.float32)):
        assert twin.head.weight is twin.embed.weight
        assert tuple(twin.embed.weight.shape) == (11, 16)
    assert relative_error(grown(tokens), model(tokens)) <= EXACT
