"""Growth in depth, end to end: exact in both modes, alive, named so that states can be moved, repeatable."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import AmountError, PlanError
from fxgrow.proof.certificate import Verdict
from tests.checks import example, unmoved, worst_error
from tests.models import Encoder, lively
from tests.pairing import few, in_turn

IMAGE = (torch.randn(2, 3, 32, 32),)


class Residual(nn.Module):
    """A branch beside the input, what follows it after the sum."""

    def __init__(self, branch: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.after = branch, after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.branch(x))


def stages(*blocks: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def conv(last: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), *([last] if last else []))


class Split(nn.Module):
    """Blocks whose layers are held in two lists, with functions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.leave(x)


class Named(nn.Module):
    """Blocks that are attributes, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.block1, self.block2 = Residual(conv()), Residual(conv())

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.block2(self.block1(self.enter(x))).mean((2, 3)))


class Twofold(nn.Module):
    """A block with parallel branches, squeeze and excitation, and a gain of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.gain = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        branch = self.one(y)
        return x + branch * self.gate(branch) + self.gain * self.two(y)


class Growing(nn.Module):
    """A dense layer that is given all channels so far and gives them back with its own behind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


class DualPath(nn.Module):
    """A dense layer that adds a branch to the first eight of the channels it is given, as in dual path networks."""

    def __init__(self, width: int, lead: bool = False) -> None:
        super().__init__()
        self.lead = nn.Conv2d(width, 12, 1) if lead else None
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, 6, 3, padding=1)
        self.added, self.behind = nn.Conv2d(6, 8, 1, bias=False), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(torch.relu(self.norm(x))))
        x = x if self.lead is None else self.lead(x)
        return torch.cat([x[:, :8] + self.added(y), x[:, 8:], self.behind(y)], dim=1)


class DualPathOfOneLayer(nn.Module):
    """The same, where one layer makes both the branch and the channels behind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.relu(x))
        return torch.cat([x[:, :8] + y[:, :8], x[:, 8:], y[:, 8:]], dim=1)


class Aggregated(nn.Module):
    """Layers in a row whose outputs are all concatenated, as in VoVNet; a norm over channels reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(nn.ReLU()) for _ in range(3))
        self.norm, self.leave = nn.LayerNorm(32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return self.leave(self.norm(torch.cat(outputs, 1).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Normed(nn.Module):
    """A dense layer that is given a list of what there was, and normalises over its channels, as in RDNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.map = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.map(self.norm(torch.cat(features, 1).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class NormedLayers(nn.Module):
    """Two such layers, and a norm that reads all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Normed(8), Normed(12)])
        self.norm, self.leave = nn.LayerNorm(16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return self.leave(self.norm(torch.cat(features, 1).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Scaled(nn.Module):
    """A residual block whose shortcut has a gain, and whose branch is a difference."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
        self.norm, self.pool = nn.GroupNorm(1, 8), nn.AvgPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x * self.gain.view(8, 1, 1) + (self.pool(y) - y)


def dense_net() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 3), 16, num_classes=5)


class Folded(nn.Module):
    """A residual branch that ends in a norm over folded axes, unfolded by what it was before."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(torch.relu(x))
        return x + self.norm(y.flatten(2)).reshape_as(y)


class Fine(nn.Module):
    """A block through which two streams pass, the finer of which enters the coarser one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.enter = nn.Linear(8, 6)
        self.outer = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        fine = fine + self.inner(fine)
        first, rest = coarse[:, :1], coarse[:, 1:]
        coarse = torch.cat([first, rest + self.enter(fine.flatten(2))], dim=1)
        return fine, coarse + self.outer(coarse)


class TwoStreams(nn.Module):
    """Blocks that take and give two tensors, of which the last gives one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Linear(5, 4), nn.Linear(8, 6)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.blocks = nn.ModuleList(Fine() for _ in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = torch.cat([self.token.expand(len(x), -1, -1), self.coarse(fine.flatten(2))], dim=1)
        for block in self.blocks:
            fine, coarse = block(fine, coarse)
        return self.head(coarse[:, 0])


MODELS: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
    "residual": (lambda: stages(Residual(conv()), Residual(conv()), Residual(conv())), IMAGE),
    "post-activation": (lambda: stages(Residual(conv(), nn.ReLU()), Residual(conv(), nn.ReLU())), IMAGE),
    "two branches": (lambda: stages(Twofold(), Twofold()), IMAGE),
    "folded": (lambda: stages(Folded(), Folded()), IMAGE),
    "gains": (lambda: stages(Scaled(), Scaled()), IMAGE),
    "one block": (lambda: stages(Residual(conv()), nn.Conv2d(8, 8, 1), nn.ReLU(), Residual(conv())), IMAGE),
    "dense list": (dense_net, IMAGE),
    "dense stream": (lambda: stages(Growing(8), Growing(12), Growing(16), nn.Conv2d(20, 8, 1)), IMAGE),
    "dual path": (lambda: stages(DualPath(8, lead=True), DualPath(16), DualPath(20), nn.Conv2d(24, 8, 1)), IMAGE),
    "dual path, one layer": (
        lambda: stages(DualPathOfOneLayer(8), DualPathOfOneLayer(12), DualPathOfOneLayer(16), nn.Conv2d(20, 8, 1)),
        IMAGE,
    ),
    "dense last": (lambda: stages(Aggregated(), Aggregated()), IMAGE),
    "dense norms": (lambda: stages(NormedLayers(), NormedLayers()), IMAGE),
    "two streams": (TwoStreams, (torch.randn(2, 3, 2, 5),)),
    "pre-norm": (lambda: Encoder(True), (torch.randn(2, 7, 6),)),
    "attributes": (Named, IMAGE),
    "chain": (Split, (torch.randn(2, 4),)),
    "test_vit": (lambda: timm.create_model("test_vit"), (torch.randn(2, 3, 160, 160),)),
    "test_convnext": (lambda: timm.create_model("test_convnext"), (torch.randn(2, 3, 160, 160),)),
    "starnet": (lambda: timm.create_model("starnet_s050"), (torch.randn(2, 3, 64, 64),)),
}


@pytest.mark.parametrize(
    ("name", "options"),
    in_turn(
        MODELS,
        [
            {"depth_init": "copy", "width": 1.25},
            {"depth_init": "random"},
            {"depth_init": "random", "width": 1.25},
            {"depth_init": "copy"},
        ],
        [name for name in MODELS if name not in ("test_vit", "test_convnext", "starnet")],
    ),
)
def test_new_blocks_change_nothing_are_proved_and_learn(name: str, options: dict[str, Any]) -> None:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = lively(make())
    before = copy.deepcopy(model.state_dict())
    grown = fxgrow.grow(model, depth=1.5, example_inputs=inputs, verify=False, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    values = example(inputs)
    for training in (False, True):
        assert worst_error(model, grown, values, training) <= 1e-10
    plan = fxgrow.report(grown).plan
    assert plan.depth is not None and plan.depth.blocks
    assert fxgrow.Plan.from_json(plan.to_json()) == plan
    assert plan.ratio > 1
    assert sum(p.numel() for p in grown.parameters()) == plan.totals.parameters_after
    certificate = fxgrow.certify(grown, model)
    assert certificate.verdict is Verdict.PROVED, str(certificate)
    assert unmoved(grown, values) == []


def grown_like(small: nn.Module, large: nn.Module, depth: Any) -> tuple[Tensor, Tensor]:
    """Outputs of a small model, and of a larger one that its grown state was loaded into."""
    grown = fxgrow.grow(small, depth=depth, verify=False)
    large.load_state_dict(grown.state_dict())
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        return small.eval()(x), large.eval()(x)


@pytest.mark.slow
def test_resnet18_becomes_resnet34() -> None:
    depth = {"layer1": "=3", "layer2": "=4", "layer3": "=6", "layer4": "=3"}
    output, expected = grown_like(timm.create_model("resnet18"), timm.create_model("resnet34"), depth)
    assert torch.equal(output, expected)


@pytest.mark.slow
def test_a_transformer_of_twelve_blocks_becomes_one_of_twenty_four() -> None:
    name = "vit_tiny_patch16_224"
    output, expected = grown_like(timm.create_model(name), timm.create_model(name, depth=24), "=24")
    assert torch.equal(output, expected)


@pytest.mark.parametrize("depth", few(("=4", "=6", "=9"), "=4"))
def test_blocks_of_two_streams_are_one_run_and_are_proved(depth: str) -> None:
    make, inputs = MODELS["two streams"]
    torch.manual_seed(0)
    model = lively(make())
    grown = fxgrow.grow(model, 1.5, depth, example_inputs=inputs, verify=False)
    plan = fxgrow.report(grown).plan
    assert [(run.path, run.before, run.after) for run in plan.depth.runs] == [("blocks", 3, int(depth[1:]))]
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    again = fxgrow.grow(grown, depth="+2")
    assert str(fxgrow.certify(again, model).verdict) == "PROVED"
    assert unmoved(again, example(inputs)) == []


def test_a_stream_goes_on_into_the_new_block_and_out_of_it() -> None:
    """Where a new block's fine stream is no longer silent, all later blocks see it."""
    make, inputs = MODELS["two streams"]
    model = lively(make())
    grown = fxgrow.grow(model, depth={"blocks": "+1"}, example_inputs=inputs)
    twin = make()
    twin.blocks.append(Fine())
    twin.double().load_state_dict(grown.state_dict())
    for module in (twin, grown):
        for number in range(4):
            with torch.no_grad():
                module.get_parameter(f"blocks.{number}.inner.3.weight").fill_(0.1)
    x = example(inputs)[0]
    assert torch.allclose(twin.eval()(x), grown.eval()(x), rtol=1e-12)


def test_new_modules_stand_next_to_their_twins() -> None:
    model = lively(timm.create_model("resnet18"))
    grown = fxgrow.grow(model, depth={"layer2": "+2"}, verify=False)
    stage = grown.get_submodule("layer2")
    assert isinstance(stage, nn.Sequential) and list(stage._modules) == ["0", "1", "2", "3"]
    assert torch.equal(grown.get_parameter("layer2.2.conv1.weight"), model.get_parameter("layer2.1.conv1.weight"))
    assert not grown.get_parameter("layer2.3.bn2.weight").any()
    assert not grown.get_parameter("layer2.3.bn2.bias").any()
    births = fxgrow.births(grown)
    assert list(births) == [name for name, _ in grown.named_parameters()]
    assert births["layer2.1.conv1.weight"].counts() == {0: 128 * 128 * 9}
    assert births["layer2.3.conv1.weight"].counts() == {1: 128 * 128 * 9}
    plan = fxgrow.report(grown).plan
    assert (plan.old_name("layer2.1.bn2.bias"), plan.old_name("layer2.2.bn2.bias")) == ("layer2.1.bn2.bias", None)


def test_later_parameters_follow_their_new_names() -> None:
    model = lively(stages(Residual(conv()), Residual(conv()), Residual(conv())))
    grown = fxgrow.grow(model, depth="+3", example_inputs=IMAGE)
    plan = fxgrow.report(grown).plan
    for name, tensor in grown.state_dict().items():
        old = plan.old_name(name)
        if old is not None:
            assert torch.equal(tensor, model.state_dict()[old]), name
    assert [plan.old_name(f"2.{k}.branch.0.bias") for k in range(6)] == [
        *("2.0.branch.0.bias", None, "2.1.branch.0.bias", None, "2.2.branch.0.bias", None)
    ]


def test_alternating_blocks_go_on_alternating() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", depths=(2, 2, 2, 2), embed_dim=24)
    plan = fxgrow.plan(model, depth={"layers.0.blocks": "+1", "layers.1.blocks": "+2"})
    blocks = plan.depth.blocks  # type: ignore[union-attr]
    assert [block.modules for block in blocks] == [
        (("layers.0.blocks.2", "layers.0.blocks.0"),),
        (("layers.1.blocks.2", "layers.1.blocks.0"),),
        (("layers.1.blocks.3", "layers.1.blocks.1"),),
    ]


def test_blocks_that_alternate_by_a_list_of_numbers_go_on_alternating() -> None:
    """torchvision gives the shift of windows to one function, which has no other steps where nothing shifts."""
    sizes: dict[str, Any] = {"patch_size": [4, 4], "embed_dim": 12, "window_size": [2, 2], "num_classes": 3}
    small, deep = (
        torchvision.models.SwinTransformer(depths=[blocks], num_heads=[2], **sizes).double().eval() for blocks in (2, 4)
    )
    images = IMAGE[0].double()
    grown: Any = fxgrow.grow(small, depth=2, example_inputs=images)
    assert [block.attn.shift_size for block in grown.features[1]] == [[0, 0], [1, 1], [0, 0], [1, 1]]
    deep.load_state_dict(grown.state_dict())
    torch.testing.assert_close(deep(images), small(images), rtol=1e-12, atol=1e-12)


def test_stacking_changes_the_function_and_says_so() -> None:
    model = lively(timm.create_model("test_vit", img_size=64))
    grown = fxgrow.grow(model, depth=1.5, depth_init="stack")
    step = fxgrow.report(grown)
    assert step.verification is not None
    assert step.verification.verdict == "CHANGED"
    assert step.verification.eval_error > 1e-3
    assert "copied whole: the function changes" in str(step.plan)
    assert not step.plan.preserving
    twin = grown.get_parameter("blocks.0.attn.proj.weight")
    births = fxgrow.births(grown)
    new = next(n for n, b in births.items() if n.endswith("attn.proj.weight") and 1 in b.counts())
    assert grown.get_parameter(new).norm() > 0.1 * twin.norm()


def test_a_file_gives_back_new_blocks(tmp_path: Path) -> None:
    model = lively(stages(Residual(conv(), nn.ReLU()), Residual(conv(), nn.ReLU())))
    grown = fxgrow.grow(fxgrow.grow(model, depth="+1", example_inputs=IMAGE), width=1.5, depth="+1")
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    again = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in grown.state_dict().items())
    assert fxgrow.births(again) == fxgrow.births(grown)
    x = example(IMAGE)[0]
    assert torch.equal(grown.eval()(x), again.eval()(x))


def test_batch_statistics_of_new_blocks_move_from_the_first_step() -> None:
    model = lively(stages(Residual(conv()), Residual(conv())))
    grown = fxgrow.grow(model, depth="+1", depth_init="random", example_inputs=IMAGE).train()
    new = next(name for name, b in fxgrow.births(grown).items() if name.endswith("branch.1.weight") and 1 in b.counts())
    norm = grown.get_submodule(new.rpartition(".")[0])
    before = norm.running_mean.clone()
    grown(example(IMAGE)[0])
    assert int(norm.num_batches_tracked) == 1
    assert not torch.equal(norm.running_mean, before)


def test_weights_shared_with_other_parts_stay_shared() -> None:
    blocks = [Residual(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))) for _ in range(2)]
    blocks[1].branch[0].weight = blocks[0].branch[0].weight  # type: ignore[index]
    grown = fxgrow.grow(lively(stages(*blocks)), depth="+1", example_inputs=IMAGE)
    owners = [grown.get_submodule(f"2.{k}.branch.0").weight for k in range(3)]
    assert owners[0] is owners[1] is owners[2]
    assert len({id(grown.get_submodule(f"2.{k}.branch.2").weight) for k in range(3)}) == 3


def test_both_graphs_get_the_block_where_modes_differ() -> None:
    class Modal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.tanh(self.layer(x))
            return x + (y if self.training else y * 0.5 + y * 0.25) * 1.0 if self.training else x + self.layer(y)

    model = lively(nn.Sequential(nn.Linear(4, 6), nn.Sequential(Modal(), Modal()), nn.Linear(6, 2)))
    with pytest.raises(PlanError):  # its branch ends in tanh(layer) in one mode and in the layer in the other
        fxgrow.grow(nn.Sequential(nn.Linear(4, 2)), depth=2, example_inputs=torch.randn(1, 4))
    grown: Any = fxgrow.grow(model, depth=2, example_inputs=torch.randn(1, 4), form="graph")
    assert set(grown.graphs()) == {"eval", "train"}
    for training in (False, True):
        assert worst_error(model, grown, example((torch.randn(3, 4),)), training) <= 1e-10


STEPS = st.lists(st.sampled_from(["depth", "width", "both"]), min_size=1, max_size=2).map(lambda s: ["depth", *s])


SEQUENCES = (
    *("residual", "post-activation", "two branches", "gains", "pre-norm", "chain"),
    *("dense list", "dense stream", "dual path", "dual path, one layer", "dense last", "dense norms"),
)


@pytest.mark.parametrize("name", few(SEQUENCES, "post-activation", "chain", "dense norms", "dual path, one layer"))
@settings(max_examples=2)
@given(steps=STEPS)
def test_random_sequences_stay_exact(name: str, steps: list[str]) -> None:
    assert_sequence_stays_exact(name, steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQUENCES)
@settings(max_examples=10)
@given(steps=STEPS)
def test_more_random_sequences_stay_exact(name: str, steps: list[str]) -> None:
    assert_sequence_stays_exact(name, steps)


def assert_sequence_stays_exact(name: str, steps: list[str]) -> None:
    make, inputs = MODELS[name]
    model = lively(make())
    grown: nn.Module = model
    for step in steps:
        width, depth = (1.5 if step != "depth" else None), ("+1" if step != "width" else None)
        grown = fxgrow.grow(grown, width, depth, example_inputs=inputs, verify=False)
    for training in (False, True):
        assert worst_error(model, grown, example(inputs), training) <= 1e-10
    born = {stage for birth in fxgrow.births(grown).values() for stage in birth.counts()}  # type: ignore[arg-type]
    assert born == set(range(len(steps) + 1))


def test_dense_layers_are_appended_and_what_reads_them_starts_at_zero() -> None:
    model = lively(dense_net())
    grown = fxgrow.grow(model, depth={"features.denseblock1": "+2"}, example_inputs=IMAGE)
    plan = fxgrow.report(grown).plan
    assert plan.depth is not None
    assert [(run.path, run.before, run.after, run.how) for run in plan.depth.runs] == [
        ("features.denseblock1", 2, 4, "its channels come last, what reads them starts at zero")
    ]
    block = grown.get_submodule("features.denseblock1")
    assert list(block._modules) == [f"denselayer{k}" for k in (1, 2, 3, 4)]
    shapes = [tuple(layer.conv1.weight.shape) for layer in block._modules.values()]  # type: ignore[union-attr]
    assert shapes == [(32, 16 + 8 * k, 1, 1) for k in range(4)]
    assert [layer.norm1.num_features for layer in block._modules.values()] == [16, 24, 32, 40]  # type: ignore[union-attr]
    reading = grown.get_parameter("features.transition1.conv.weight")
    assert torch.equal(reading[:, :32], model.get_parameter("features.transition1.conv.weight"))
    assert reading.shape[1] == 48 and not reading[:, 32:].any()
    births = fxgrow.births(grown)
    assert births["features.denseblock1.denselayer4.conv1.weight"].counts() == {1: 32 * 40}
    assert births["features.transition1.conv.weight"].counts() == {0: 16 * 32, 1: 16 * 16}
    certificate = fxgrow.report(grown).certificate
    assert certificate is not None and str(certificate.verdict) == "PROVED"


def test_dual_path_layers_leave_what_they_are_given_and_have_channels_behind() -> None:
    make, inputs = MODELS["dual path"]
    model = lively(make())
    grown = fxgrow.grow(model, depth="+2", example_inputs=inputs)
    plan = fxgrow.report(grown).plan
    assert plan.depth is not None
    how = "added.weight zero; its channels come last, what reads them starts at zero"
    (run,) = plan.depth.runs
    assert (run.before, run.after, run.how) == (3, 5, how)
    norms = [module.num_features for module in grown.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == [8, 16, 20, 24, 28]
    last = grown.get_submodule(plan.depth.blocks[-1].modules[0][0])
    weight = last.conv.weight  # type: ignore[union-attr]
    assert not last.added.weight.any()  # type: ignore[union-attr, operator]
    assert bool(weight[:, 20:24].any()) and not weight[:, 24:].any()  # type: ignore[index]
    certificate = fxgrow.report(grown).certificate
    assert certificate is not None and str(certificate.verdict) == "PROVED"


def test_a_branch_is_silent_where_its_layer_makes_other_channels_too() -> None:
    make, inputs = MODELS["dual path, one layer"]
    model = lively(make())
    grown = fxgrow.grow(model, depth="+1", example_inputs=inputs)
    plan = fxgrow.report(grown).plan
    assert plan.depth is not None
    (run,) = plan.depth.runs
    assert run.how == "rows of conv.weight and bias zero; its channels come last, what reads them starts at zero"
    layer = grown.get_submodule(plan.depth.blocks[0].modules[0][0]).conv
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    assert not layer.weight[:8].any() and bool(layer.weight[8:].any())
    assert not layer.bias[:8].any() and bool(layer.bias[8:].all())
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    with torch.no_grad():
        layer.weight[7, 0] += 1e-9
    assert str(fxgrow.certify(grown, model).verdict) == "REFUTED"


@pytest.mark.slow
def test_dense_layers_grow_with_width_again_and_from_a_file(tmp_path: Path) -> None:
    model = lively(dense_net())
    grown: nn.Module = model
    for width, depth, init in ((None, "+1", "zero"), (1.5, 1.5, "mirror"), (1.25, "+1", "replicate")):
        grown = fxgrow.grow(grown, width, depth, init=init, example_inputs=IMAGE, verify=False)
    values = example(IMAGE)
    for training in (False, True):
        assert worst_error(model, grown, values, training) <= 1e-10
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    again = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in grown.state_dict().items())
    assert fxgrow.births(again) == fxgrow.births(grown)


class Ghost(nn.Module):
    """A layer and a depthwise one that reads it, concatenated: their channels are one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.BatchNorm2d(8), nn.ReLU())
            for groups in (1, 8)
        )
        self.leave = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.layers[0](x)
        return self.leave(torch.cat([primary, self.layers[1](primary)], 1))


def test_dense_layers_whose_channels_are_tied_are_listed() -> None:
    plan = fxgrow.plan(stages(Ghost()), depth=1.5, example_inputs=IMAGE)
    assert plan.depth is not None and not plan.depth.blocks
    assert [(staying.where, staying.reason) for staying in plan.held] == [
        (("2.0.layers",), "its blocks stay as many as they are: its channels are tied to those of 2.0.layers.0.0")
    ]


def test_runs_inside_blocks_that_are_repeated_are_listed() -> None:
    inner = [nn.Sequential(Residual(conv()), Residual(conv()), nn.Conv2d(8, 8, 1)) for _ in range(2)]
    model = lively(stages(*(Residual(part) for part in inner)))
    plan = fxgrow.plan(model, depth=1.5, example_inputs=IMAGE)
    assert plan.depth is not None
    assert [(run.path, run.before, run.after) for run in plan.depth.runs] == [("2", 2, 3)], plan
    assert [(staying.where, staying.reason) for staying in plan.held] == [
        (
            ("2.0.branch", "2.1.branch"),
            "its blocks stay as many as they are: they are inside blocks of 2, which are repeated as they are; "
            "grow them in a second step",
        )
    ]
    plan = fxgrow.plan(model, depth={"2.0.branch": "+1"}, example_inputs=IMAGE)
    assert [(run.path, run.before, run.after) for run in plan.depth.runs] == [("2.0.branch", 2, 3)]  # type: ignore[union-attr]


def test_blocks_that_read_new_channels_are_listed() -> None:
    wide = [
        Residual(nn.Sequential(nn.Conv2d(20, 20, 3, padding=1), nn.BatchNorm2d(20))),
        Residual(nn.Sequential(nn.Conv2d(20, 20, 3, padding=1), nn.BatchNorm2d(20))),
    ]
    layers = nn.Sequential(Growing(8), Growing(12), Growing(16))
    model = lively(nn.Sequential(nn.Conv2d(3, 8, 3), layers, nn.Sequential(*wide), nn.Conv2d(20, 8, 1), nn.Flatten()))
    grown = fxgrow.grow(model, depth="+1", example_inputs=IMAGE)
    plan = fxgrow.report(grown).plan
    assert [run.path for run in plan.depth.runs] == ["1"]  # type: ignore[union-attr]
    assert [staying.reason for staying in plan.held] == [
        "its blocks stay as many as they are: 2.0.branch.0.weight reads channels of new dense layers; "
        "grow them in a second step"
    ]
    again = fxgrow.grow(grown, depth={"2": "+1"}, example_inputs=IMAGE, verify=False)
    assert worst_error(model, again, example(IMAGE), True) <= 1e-10


class Twice(nn.Module):
    """One encoder for two inputs: each of its blocks is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = stages(Residual(conv()), Residual(conv()))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.encoder(left) - self.encoder(right)


def test_blocks_that_are_called_for_several_inputs_grow() -> None:
    model, inputs = lively(Twice()), (IMAGE[0], torch.randn(2, 3, 24, 24))
    grown = fxgrow.grow(model, depth=1.5, example_inputs=inputs, verify=False)
    values = example(inputs)
    for training in (False, True):
        assert worst_error(model, grown, values, training) <= 1e-10
    assert len(fxgrow.report(grown).plan.depth.blocks) == 1  # type: ignore[union-attr]
    assert unmoved(grown, values) == []


class Repeated(nn.Module):
    """Two blocks that are called in turn, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.blocks = nn.ModuleList(Residual(nn.Sequential(conv(nn.ReLU()), conv())) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for _ in range(2):
            for block in self.blocks:
                x = block(x)
        return self.leave(x)


def test_blocks_that_are_called_in_turn_grow_or_are_listed() -> None:
    model = lively(Repeated())
    grown = fxgrow.grow(model, depth=2, example_inputs=IMAGE, verify=False)
    assert worst_error(model, grown, example(IMAGE), True) <= 1e-10
    assert unmoved(grown, example(IMAGE)) == []


class Alike(nn.Module):
    """One layer that several blocks share, as a module that each of them holds."""

    def __init__(self, shared: nn.Module, last: nn.Module | None = None) -> None:
        super().__init__()
        self.shared, self.last = shared, last

    def forward(self, x: Tensor) -> Tensor:
        y = self.shared(x)
        return x + (y if self.last is None else self.last(torch.tanh(y)))


class Beside(nn.Module):
    """A model that holds a layer of its blocks under another name first, as CoaT does."""

    def __init__(self, shared: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.shared, self.body = shared, body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def test_modules_that_several_blocks_hold_stay_shared() -> None:
    shared = nn.Conv2d(8, 8, 1)
    model = lively(stages(*(Alike(shared, nn.Conv2d(8, 8, 1)) for _ in range(2))))
    grown = fxgrow.grow(model, depth="+2", example_inputs=IMAGE, verify=False)
    values = example(IMAGE)
    assert worst_error(model, grown, values, True) <= 1e-10
    assert unmoved(grown, values) == []
    assert len({id(grown.get_submodule(f"2.{k}.shared").weight) for k in range(4)}) == 1


@pytest.mark.parametrize(("elsewhere", "width"), in_turn((False, True), (None, 1.5)))
def test_a_shared_part_that_has_to_be_silent_becomes_the_new_block_s_own(elsewhere: bool, width: float | None) -> None:
    shared = nn.Conv2d(8, 8, 1)
    model = stages(Alike(shared), Alike(shared))
    model = lively(Beside(shared, model) if elsewhere else model)
    grown = fxgrow.grow(model, width, 2, example_inputs=IMAGE, verify=False)
    values = example(IMAGE)
    assert worst_error(model, grown, values, True) <= 1e-10
    assert unmoved(grown, values) == []
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    body = "body.2" if elsewhere else "2"
    weights = [grown.get_submodule(f"{body}.{k}.shared").weight for k in range(4)]
    assert weights[0] is weights[2] and len({id(weight) for weight in weights}) == 3


def test_shared_statistics_hold_blocks() -> None:
    shared = nn.BatchNorm2d(8)
    model = stages(*(Alike(shared, nn.Conv2d(8, 8, 1)) for _ in range(2)))
    plan = fxgrow.plan(model, depth=2, example_inputs=IMAGE)
    assert [staying.reason for staying in plan.held] == [
        "its blocks stay as many as they are: 2.0.shared keeps statistics and is shared with another part"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("width", [None, 1.5])
def test_dense_layers_with_guarded_norms_get_more_once_they_are_wider(width: float | None) -> None:
    make, inputs = MODELS["dense norms"]
    torch.manual_seed(0)
    model = lively(make())
    wider = fxgrow.grow(model, 1.5, example_inputs=inputs, verify=False)
    deeper = fxgrow.grow(wider, width, depth="+2")
    assert fxgrow.report(deeper).plan.depth.blocks
    again = fxgrow.grow(deeper, 1.25, depth="+1")
    assert str(fxgrow.certify(again, model).verdict) == "PROVED"
    assert unmoved(again, example(inputs)) == []


class OwnNorm(nn.Module):
    """A residual block with a norm that is spelled out, whose mean is over old units once it is wider."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))
        self.enter, self.leave = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        return x + self.leave(torch.relu(self.enter(x * size * self.gain.reshape(1, -1, 1, 1))))


def test_norms_that_are_spelled_out_stay_in_their_blocks_once_these_are_wider() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(OwnNorm(), OwnNorm())
    model = lively(nn.Sequential(nn.Conv2d(3, 6, 1), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)))
    wider: Any = fxgrow.grow(model, 1.5, example_inputs=IMAGE, form="graph")
    assert "guards_core" in wider.code
    deeper = fxgrow.grow(wider, depth="+1")
    assert [(run.path, run.before, run.after) for run in fxgrow.report(deeper).plan.depth.runs] == [("1", 2, 3)]
    assert str(fxgrow.certify(deeper, model).verdict) == "PROVED"
    assert unmoved(deeper, example(IMAGE)) == []


def bad(depth: Any, **options: Any) -> str:
    model = stages(Residual(conv()), Residual(conv()))
    with pytest.raises((AmountError, PlanError)) as caught:
        fxgrow.grow(model, depth=depth, example_inputs=IMAGE, **options)
    return str(caught.value)


def test_bad_input_gets_a_clear_error() -> None:
    remedy = 'pass a factor of at least 1 such as 1.5, or a string such as "+2" (2 more) or "=6" (exactly 6)'
    assert bad("=1") == f"exactly 1 blocks were asked for, which is fewer than the 2 there are (at 2): {remedy}"
    assert bad({"2": 1.5, "7": 2}) == "the key matches no module of the model (at 7): runs of blocks are 2"
    assert bad({"0": 2}) == "there are no repeated blocks (at 0): runs of blocks are 2"
    assert bad(0.5) == (
        "a factor of 0.5 would shrink the model: pass a factor of at least 1 such as 1.5, "
        'or a string such as "+32" (32 more) or "=96" (exactly 96)'
    )
    assert bad(2, depth_init="clone") == (
        "depth_init='clone' is not a way to start new blocks: use one of copy, random, stack"
    )


def test_a_model_without_blocks_says_why() -> None:
    with torch.device("meta"):
        model = torchvision.models.squeezenet1_1()
    plan = fxgrow.plan(model, depth=2, example_inputs=torch.randn(1, 3, 64, 64))
    assert plan.depth is not None and plan.depth.runs == ()
    assert [(staying.where, staying.reason) for staying in plan.held] == [
        (
            ("features.4", "features.7", "features.10", "features.12"),
            "its blocks stay as many as they are: Conv2d changes the shape of its input",
        )
    ]
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    with pytest.raises(PlanError) as caught:
        fxgrow.grow(model, depth=2, example_inputs=torch.randn(1, 4))
    assert str(caught.value) == (
        "nothing in the model would grow (at Sequential): "
        "depth needs blocks that repeat and can be identities, such as x + f(x), or an amount that adds one"
    )


@pytest.mark.parametrize(
    ("branch", "reason"),
    [
        (lambda: conv(nn.ReLU()), "its branch ends in ReLU, which does not keep zeros or is flat there"),
        (
            lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid()),
            "its branch ends in Sigmoid, which does not keep zeros or is flat there",
        ),
    ],
)
def test_branches_that_cannot_be_silenced_are_held_with_the_reason(branch: Any, reason: str) -> None:
    plan = fxgrow.plan(stages(Residual(branch()), Residual(branch())), depth=2, example_inputs=IMAGE)
    assert [staying.reason for staying in plan.held] == [f"its blocks stay as many as they are: {reason}"]


def test_leaky_sums_are_not_identities() -> None:
    blocks = [Residual(conv(), nn.LeakyReLU()) for _ in range(2)]
    plan = fxgrow.plan(stages(*blocks), depth=2, example_inputs=IMAGE)
    assert plan.depth is not None and plan.depth.blocks == ()
    assert [staying.reason for staying in plan.held] == [
        "its blocks stay as many as they are: LeakyReLU acts on its output and is not idempotent there"
    ]


class Normalised(nn.Module):
    """A residual block whose last weight is divided by its own norm: were it zero, it would be no number."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.weight = nn.Linear(6, 8), nn.Parameter(torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.linear(torch.relu(self.enter(x)), self.weight / self.weight.norm())


def test_no_block_is_silenced_by_a_weight_that_is_divided_by_itself() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 6), *(Normalised() for _ in range(3)), nn.Linear(6, 2))).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(PlanError, match="by what the block computes, which would be zero, too"):
        fxgrow.grow(model, depth=2, example_inputs=x)
    deeper = fxgrow.grow(model, 2, example_inputs=x)
    assert fxgrow.report(deeper).certificate.verdict is Verdict.PROVED
