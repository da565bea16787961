"""Models whose forward no graph can hold: their parts grow, and they come back as their own class."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fxgrow
from fxgrow.errors import AmountError, CaptureError, PlanError, SettledError, VerificationError
from fxgrow.measure.liveness import unmoved
from fxgrow.noise import WithoutNoise
from fxgrow.proof.certificate import Verdict
from fxgrow.proof.code_between_parts import _names_read, between_parts
from tests.models import Branched, lively
from tests.pairing import few


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))

    def penalty(self) -> Tensor:
        return self.one.weight.new_zeros(())


class Settling(nn.Module):
    """Goes on until its own output says it may stop."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.body, self.leave = (
            nn.Linear(3, 4),
            Body(),
            nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)),
        )
        self.limit = 3

    def settled(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for _ in range(self.limit):
            if bool((x.abs() < 1e-3).all()):
                break
            x = x + self.body(x)
        return self.leave(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.settled(x) + self.body.penalty()


INPUTS = (torch.randn(5, 3),)


def test_the_parts_grow_and_the_class_stays() -> None:
    model = lively(Settling())
    grown: Any = fxgrow.grow(model, 2, example_inputs=INPUTS)
    assert type(grown) is Settling
    assert isinstance(grown.body, Body)
    assert grown.body.one.out_features == 16
    assert grown.leave.get_submodule("0").out_features == 12
    assert grown.enter.out_features == 4
    assert list(grown.state_dict()) == list(model.state_dict())
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=1e-12)
    assert grown.body.penalty() == 0
    plan = fxgrow.report(grown).plan
    assert plan.tier == 3
    assert plan.form == fxgrow.plan(model, 2, example_inputs=INPUTS).form == "module"
    assert plan.obstacle is not None and "values of a tensor" in plan.obstacle.what
    assert [path for path, _ in plan.parts] == ["enter", "body", "leave"]
    assert plan.totals.parameters_after == sum(p.numel() for p in grown.parameters())
    assert fxgrow.Plan.from_json(plan.to_json()) == plan


def test_births_amounts_and_the_original() -> None:
    model = lively(Settling())
    before = copy.deepcopy(model.state_dict())
    grown: Any = fxgrow.grow(model, {"leave": "+6"}, example_inputs=INPUTS)
    assert fxgrow.births(grown)["leave.0.bias"].counts() == {0: 6, 1: 6}
    assert fxgrow.births(grown)["body.one.bias"].counts() == {0: 8}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_growth_composes_and_survives_copies_pickles_and_files(tmp_path: Path) -> None:
    model = lively(Settling())
    once = fxgrow.grow(model, 2, example_inputs=INPUTS)
    twice: Any = fxgrow.grow(once, 1.5)
    assert twice.body.one.out_features == 24
    fxgrow.save(twice, tmp_path / "grown.safetensors")
    buffer = io.BytesIO()
    torch.save(twice, buffer)
    buffer.seek(0)
    x = torch.randn(5, 3, dtype=torch.float64)
    for twin in (
        copy.deepcopy(twice),
        torch.load(buffer, weights_only=False),
        fxgrow.load(tmp_path / "grown.safetensors", Settling().double()),
    ):
        assert torch.equal(twin(x), twice(x))
        assert twin.body.penalty() == 0
        assert fxgrow.births(twin)["body.one.bias"].counts() == {0: 8, 1: 8, 2: 8}
    torch.testing.assert_close(twice(x), model(x), rtol=1e-12, atol=1e-12)


class Doubled(nn.Module):
    """What its first part gives counts double where it is large."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.leave = (nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.body(x)
        return self.leave(2 * h if h.mean().item() > 100 else h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_multipliers_of_parts_are_folded_proved_and_saved(form: str, tmp_path: Path) -> None:
    model = lively(Doubled())
    grown: Any = fxgrow.grow(model, 2, example_inputs=INPUTS, parameterization="variance-transfer", form=form)
    folded: Any = fxgrow.fold(grown)
    last = "2.weight"
    assert not torch.equal(folded.body.get_parameter(last), grown.body.get_parameter(last))
    assert "mult" not in f"{folded} {getattr(folded.body, 'code', '')}"
    assert fxgrow.certify(folded, model).verdict is Verdict.PROVED
    fxgrow.save(folded, tmp_path / "folded.safetensors")
    x = torch.randn(5, 3, dtype=torch.float64)
    for twin in (folded, fxgrow.load(tmp_path / "folded.safetensors", Doubled().double())):
        torch.testing.assert_close(twin(x), model(x), rtol=1e-12, atol=1e-12)


def test_a_model_without_parts_says_why() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else x * self.weight

    text = "^control flow needs the values of a tensor, which no graph over shapes can have"
    with pytest.raises(fxgrow.FxgrowError, match=text):
        fxgrow.grow(Bare(), 2, example_inputs=INPUTS)


class Energy(nn.Module):
    """Gives the slope of what its network gives."""

    def __init__(self, by_grad: bool) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.by_grad = by_grad

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            place = x.detach().requires_grad_()
            energy = self.network(place).sum()
            if self.by_grad:
                return torch.autograd.grad(energy, place, create_graph=self.training)[0]
            energy.backward()
            return place.grad  # type: ignore[return-value]


@pytest.mark.parametrize(("by_grad", "call"), [(True, "grad"), (False, "backward")])
def test_parts_grow_in_a_forward_that_differentiates(by_grad: bool, call: str) -> None:
    model = lively(Energy(by_grad)).double().eval()
    grown = fxgrow.grow(model, 2, example_inputs=INPUTS)
    torch.testing.assert_close(grown(INPUTS[0].double()), model(INPUTS[0].double()), rtol=1e-12, atol=1e-12)
    assert grown.get_parameter("network.0.weight").shape == (16, 3)
    assert str(fxgrow.plan(model, 2, example_inputs=INPUTS).obstacle).startswith(f"{call} needs the values of a tensor")


class Straight(Settling):
    """Puts out what its last part gives."""

    def forward(self, x: Tensor) -> Tensor:
        return self.settled(x)


class Scored(Settling):
    """Does something with it first."""

    def forward(self, x: Tensor) -> Tensor:
        return self.settled(x).softmax(-1)


class Hidden(Straight):
    """Puts it out, in code that does not say so."""

    def settled(self, x: Tensor) -> Tensor:
        return next(iter([super().settled(x)]))


def test_classes_and_channels_of_the_parts_that_make_outputs_and_read_inputs(tmp_path: Path) -> None:
    model = lively(Straight())
    grown: Any = fxgrow.grow(model, 2, example_inputs=INPUTS, classes="+3", class_init="mean", in_chans=5)
    report = fxgrow.report(grown)
    assert type(grown) is Straight
    assert (grown.enter.in_features, grown.body.one.out_features, grown.leave[2].out_features) == (5, 16, 5)
    assert (report.plan.classes.new, report.plan.channels.places) == (5, ((0, 0, 1),))
    assert str(report.certificate.verdict) == str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert max(report.verification.eval_error, report.verification.train_error) <= 1e-12
    x = torch.randn(5, 5, dtype=torch.float64)
    after, before = grown(x), model(x[:, :3])
    torch.testing.assert_close(after[:, :2], before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after[:, 2], before.mean(1), rtol=1e-12, atol=1e-12)
    assert fxgrow.Plan.from_json(report.plan.to_json()) == report.plan
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", Straight().double())
    assert torch.equal(loaded(x), grown(x))


def decay(model: Any) -> Tensor:
    """Zero, of all weights of the body."""
    return sum(p.sum() for p in model.body.parameters()) * 0.0  # type: ignore[no-any-return]


class Decaying(Settling):
    def forward(self, x: Tensor) -> Tensor:
        return self.settled(x) + decay(self)


class OnItsDevice(Settling):
    def forward(self, x: Tensor) -> Tensor:
        return self.settled(x.to(next(self.body.parameters()).device))


class OfItsDtype(Settling):
    """As models of transformers ask."""

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def forward(self, x: Tensor) -> Tensor:
        return self.settled(x.to(self.dtype))


class OfItsWeights(Settling):
    def forward(self, x: Tensor) -> Tensor:
        return self.settled(x * next(p.abs().mean() for p in self.parameters() if p.is_floating_point()))


LOGGER = logging.getLogger(__name__)


class Logging(Settling):
    """Has a method of the name of a logger's, which its forward does not call."""

    def info(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        LOGGER.info("settling")
        return self.settled(x)


class Informed(Logging):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(x) < 100 else super().forward(x) * self.info()


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (Logging, "PROVED"),
        (Informed, "UNKNOWN"),
        (Decaying, "UNKNOWN"),
        (OfItsWeights, "UNKNOWN"),
        (OnItsDevice, "PROVED"),
        (OfItsDtype, "PROVED"),
    ],
)
def test_code_that_reads_all_weights_of_a_part_is_not_proved(kind: type[nn.Module], verdict: str) -> None:
    model = lively(kind())
    grown = fxgrow.grow(model, 2, example_inputs=INPUTS, verify=False)
    certificate = fxgrow.certify(grown, model)
    assert str(certificate.verdict) == verdict
    if verdict == "UNKNOWN":
        assert "parameters, which reaches whatever a part has" in certificate.weakest.detail


def test_what_is_not_seen_in_the_code_is_not_proved() -> None:
    grown = fxgrow.grow(lively(Hidden()), example_inputs=INPUTS, classes="+3")
    assert grown(INPUTS[0].double()).shape == (5, 5)
    certificate = fxgrow.report(grown).certificate
    assert str(certificate.verdict) == "TESTED"
    assert "what leave gives has grown, and its code may do more than put it out" in " ".join(str(certificate).split())


def test_ends_that_code_between_parts_works_on_are_refused() -> None:
    with pytest.raises(
        PlanError, match=r"those of .*leave, which softmax in forward \(test_parts.py, line \d+\) reads"
    ):
        fxgrow.plan(Scored(), example_inputs=INPUTS, classes="+1")
    with pytest.raises(
        PlanError, match=r"those of body, which add in settled \(.*\) reads; leave, which add in forward"
    ):
        fxgrow.plan(Settling(), example_inputs=INPUTS, classes="+1")

    class Shifted(Straight):
        def forward(self, x: Tensor) -> Tensor:
            return self.settled(x - 1)

    with pytest.raises(
        PlanError, match=r"in_chans= needs one part .*; sub in forward \(test_parts.py, line \d+\) reads"
    ):
        fxgrow.plan(Shifted(), example_inputs=INPUTS, in_chans="+1")


def detector(name: str) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    return lively(model)


DETECTORS = [
    "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_keep_their_detections_and_their_losses(name: str) -> None:
    model = detector(name)
    grown = fxgrow.grow(model, 2)
    assert type(grown) is type(model)
    assert fxgrow.report(grown).plan.ratio >= 2
    images = [torch.rand(3, 160, 200, dtype=torch.float64) for _ in range(2)]
    target: dict[str, Tensor] = {
        "boxes": torch.tensor([[20.0, 30.0, 90.0, 120.0]], dtype=torch.float64),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 160, 200, dtype=torch.uint8),
        "keypoints": torch.tensor([[[40.0, 60.0, 1.0]] * 17], dtype=torch.float64),
    }
    losses = []
    for network in (model, grown):
        torch.manual_seed(1)
        with WithoutNoise():
            losses.append(network.train()(images, [dict(target) for _ in images]))
    assert losses[0].keys() == losses[1].keys()
    for key, loss in losses[0].items():
        torch.testing.assert_close(losses[1][key], loss, rtol=1e-9, atol=1e-9)
    sum(losses[1].values()).backward()
    assert all(p.grad is not None for p in grown.parameters() if p.requires_grad)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(torch.relu(self.one(self.norm(x))))


class Deep(Body):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Sequential(Step(), Step())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.steps(x))


def deep() -> Settling:
    model = Settling()
    model.body = Deep()
    return lively(model)


@pytest.mark.parametrize("width", few((None, 1.5), 1.5))
def test_parts_gain_blocks(width: float | None, tmp_path: Path) -> None:
    model = deep()
    grown: Any = fxgrow.grow(model, width, 1.5, example_inputs=INPUTS)
    assert type(grown) is Settling
    plan = fxgrow.report(grown).plan
    assert plan.depth is not None
    assert [(run.path, run.before, run.after) for run in plan.depth.runs] == [("body.steps", 2, 3)]
    assert plan.totals.parameters_after == sum(p.numel() for p in grown.parameters())
    assert fxgrow.Plan.from_json(plan.to_json()) == plan
    x = INPUTS[0].double()
    with torch.no_grad():
        assert torch.allclose(grown(x), model(x), rtol=1e-10, atol=1e-12)
    births = fxgrow.births(grown)
    assert list(births) == [name for name, _ in grown.named_parameters()]
    assert set(births["body.steps.2.one.weight"].counts()) == {1}
    assert plan.old_name("body.steps.2.one.weight") is None
    assert unmoved(grown, (x,)) == []
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    again = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in grown.state_dict().items())
    more = fxgrow.grow(again, depth={"body.steps": "=5"}, example_inputs=INPUTS)
    with torch.no_grad():
        assert torch.allclose(more(x), model(x), rtol=1e-10, atol=1e-12)
    assert str(fxgrow.certify(more, model).verdict) != "REFUTED"


def test_keys_name_runs_of_any_part() -> None:
    plan = fxgrow.plan(deep(), depth={"body": "+1"}, example_inputs=INPUTS)
    assert plan.depth is not None and len(plan.depth.blocks) == 1
    with pytest.raises(AmountError) as caught:
        fxgrow.plan(deep(), depth={"body": "+1", "tail": 2}, example_inputs=INPUTS)
    assert str(caught.value) == "the key matches no module of the model (at tail): runs of blocks are body.steps"


class Refusing(Settling):
    """Looks at values, whatever they are all parts run: a divided model has none when its parts are found."""

    def settled(self, x: Tensor) -> Tensor:
        if bool((x.abs() > 1e6).any()):
            raise ValueError("out of range")
        return self.leave(self.body(self.enter(x)))


@pytest.mark.parametrize("how", [{"width": 2}, {"width": 2, "depth": 2, "init": "mirror"}], ids=str)
def test_divided_models_in_parts_get_the_weights_of_whole_ones(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Refusing()
    model.body = Deep()
    grown = fxgrow.grow(model, example_inputs=INPUTS, verify=False, **how)
    sharded = fxgrow.grow_sharded(model, shard=nn.Module.train, example_inputs=INPUTS, verify=False, **how)
    assert fxgrow.report(sharded).plan.parts
    assert [name for name, _ in sharded.named_parameters()] == [name for name, _ in grown.named_parameters()]
    for name, parameter in grown.named_parameters():
        assert torch.equal(sharded.get_parameter(name), parameter), name
    assert fxgrow.births(sharded) == fxgrow.births(grown)


class Result(NamedTuple):
    hidden: Tensor


class InAClass(Body):
    def forward(self, x: Tensor) -> Result:  # type: ignore[override]
        return Result(super().forward(x))


class OfAClass(Settling):
    def __init__(self) -> None:
        super().__init__()
        self.inner = InAClass()

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.inner(self.enter(x)).hidden) if bool(x.sum() > -99) else x


def test_parts_that_are_graphs_put_out_their_classes_in_copies_too() -> None:
    """A graph is compiled again once its class has been mixed in, where it puts a class around what it gives."""
    model = lively(OfAClass())
    grown: Any = fxgrow.grow(model, 2, example_inputs=INPUTS, form="graph")
    assert isinstance(grown.inner, torch.fx.GraphModule)
    x = INPUTS[0].double()
    for twin in (grown, copy.deepcopy(grown), copy.deepcopy(copy.deepcopy(grown)).train()):
        torch.testing.assert_close(twin(x), model(x), rtol=1e-10, atol=0)
        assert isinstance(twin.inner(torch.randn(2, 4).double()), Result)


class Part(nn.Module):
    """A hidden layer, with another head for those that ask for it, and a norm over its units."""

    def __init__(self, kept: list[Any] | None = None) -> None:
        super().__init__()
        self.one, self.two, self.aside = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.kept = kept

    def forward(self, x: Tensor, aside: bool = False, share: bool = False) -> Tensor:
        h = self.one(x).relu()
        if share:
            h = h / h.sum(-1, keepdim=True).clamp(min=0.1)
        y = self.aside(h) if aside else self.two(h)
        if self.kept is not None:
            self.kept.append(y)
        return y


class Around(nn.Module):
    """Looks at values, so that it grows in parts, and uses its part as it is told."""

    def __init__(self, use: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.part, self.other, self.use = Part(self.kept), Part(), use

    def forward(self, x: Tensor) -> Any:
        self.kept.clear()
        return self.use(self, self.other(x) if bool((x > 0).any()) else x)


X4 = torch.randn(5, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, x: model.part(x, aside=True) + model.part(x),
        lambda model, x: model.part(x, share=bool((x > 0).any())),
        lambda model, x: model.part(model.part(x)) + model.kept[0],
    ],
    ids=["a head that another call reads", "units shared out", "a list that both hold"],
)
def test_parts_are_called_otherwise_than_at_capture(use: Callable[[Any, Tensor], Any], tmp_path: Path) -> None:
    model = lively(Around(use)).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=(X4,))
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", Around(use).double())
    applied = fxgrow.Plan.from_json(fxgrow.report(grown).plan.to_json()).apply(model)
    for each in (grown, loaded, applied, copy.deepcopy(grown), fxgrow.grow(grown, 1.5)):
        assert each.get_parameter("part.one.weight").shape[0] >= 16
        for training in (False, True):
            torch.testing.assert_close(each.train(training)(X4), model.train(training)(X4), rtol=1e-10, atol=1e-12)
    assert grown.kept is grown.part.kept and grown.kept is not model.kept


def test_what_a_part_did_not_grow_for_is_refused_by_name() -> None:
    def squeezed(model: Any, x: Tensor) -> Any:
        return model.part(x, share=True)

    class Spread(Part):
        def forward(self, x: Tensor, aside: bool = False, share: bool = False) -> Tensor:
            h = self.one(x).relu()
            return self.two(h.softmax(-1) if share else h)

    model = lively(Around(lambda model, x: model.part(x))).double()
    model.part = lively(Spread()).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=(X4,))
    grown.use = squeezed
    with pytest.raises(SettledError, match=r"share is True, for which the model did not grow"):
        grown(X4)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda model, x: model.part(x) + model.part.one(x).mean(), "one is called outside of it"),
        (lambda model, x: (model.part(x), model.part.one.weight.abs().sum()), "one.weight is used outside of it"),
        (lambda model, x: model.part(x) / len(model.part.two.weight[0]), "two.weight is used outside of it"),
    ],
)
def test_parts_that_are_used_from_outside_stay_and_are_told(use: Callable[[Any, Tensor], Any], said: str) -> None:
    model = lively(Around(use)).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=(X4,))
    assert (grown.other.one.out_features, grown.part.one.out_features) == (16, 8)
    assert [held.reason for held in fxgrow.report(grown).plan.held if held.where == ("part",)] == [said]
    torch.testing.assert_close(grown(X4), model(X4), rtol=1e-12, atol=1e-12)


def test_a_tensor_that_a_part_keeps_is_told_too() -> None:
    class Keeping(Part):
        def forward(self, x: Tensor, aside: bool = False, share: bool = False) -> Tensor:
            self.hidden = self.one(x).relu()
            return self.two(self.hidden)

    model = Around(lambda model, x: model.part(x) + model.aside(model.part.hidden))
    model.part, model.aside = Keeping(), nn.Linear(8, 4)
    model.other = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(CaptureError, match="part cannot grow by itself: a tensor that it keeps is used outside of it"):
        fxgrow.grow(lively(model).double(), 2, example_inputs=(X4,))


@pytest.mark.parametrize("unchanged", [lambda x: x.contiguous(), lambda x: x.to(x.dtype), lambda x: x.float()])
def test_what_a_part_gives_on_as_it_was_given_is_not_kept_by_it(unchanged: Callable[[Tensor], Tensor]) -> None:
    class Tidy(Part):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(unchanged(x))  # type: ignore[no-any-return]

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Tidy()

        def forward(self, x: Tensor) -> Tensor:
            y = self.part(x)
            return y if bool(y.sum() > 1e6) else y + self.part(x * 0.5)

    model, x = Twice(), torch.randn(4, 4)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    torch.testing.assert_close(grown(x), model(x))


class Reading(nn.Module):
    """Reads lines of text of several lengths, which have to be those that the user gives."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.part, self.leave = Part(), nn.Linear(6, 2)
        self.cells = kind(4, 6, batch_first=True, dropout=0.3, num_layers=2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.part(x), lengths, batch_first=True, enforce_sorted=False)
        last = self.cells(packed)[1]
        return self.leave((last[0] if isinstance(last, tuple) else last)[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_lengths_are_those_that_the_user_gives(kind: type[nn.RNNBase]) -> None:
    model, lengths = lively(Reading(kind)).double(), torch.tensor([5, 3, 2])
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=(x, lengths))
    assert grown.get_parameter("part.one.weight").shape == (16, 4)
    torch.testing.assert_close(grown.eval()(x, lengths), model.eval()(x, lengths), rtol=1e-10, atol=1e-12)


def test_what_only_training_reads_is_seen_too() -> None:
    def regularised(model: Any, x: Tensor) -> Tensor:
        y = model.part(x)
        return y + sum(p.square().sum() for p in model.part.parameters()) if model.training else y

    grown: Any = fxgrow.grow(lively(Around(regularised)).double(), 2, example_inputs=(X4,))
    assert (grown.other.one.out_features, grown.part.one.out_features) == (16, 8)


class Told(Settling):
    """Calls its parts by functions that it holds, one of them behind a hook."""

    def __init__(self, reads: bool = False) -> None:
        super().__init__()
        called, read = lambda x: self.body(x), lambda x: self.body(x) * self.body.one.weight.mean()
        self.steps = {"body": read if reads else called}
        self.called = self.noted
        self.leave.register_forward_hook(lambda module, args, output: output + 0.0 * self.limit)

    def noted(self, x: Tensor) -> Tensor:
        return self.steps["body"](x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(self.called(x) if bool((x > 0).any()) else x)  # type: ignore[no-any-return]


def test_functions_that_a_model_holds_are_the_same_code_and_looked_into() -> None:
    model, reading = lively(Told()), lively(Told(reads=True))
    grown = fxgrow.grow(model, 2, example_inputs=INPUTS)
    assert grown.get_parameter("body.one.weight").shape == (16, 4)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    said = between_parts(reading, copy.deepcopy(reading), ["enter", "body", "leave"])
    assert said.verdict is Verdict.REFUTED and "steps" in said.detail  # functions of a deep copy are the original's
    assert {"one", "weight"} <= _names_read(reading, ["enter", "body", "leave"])


def test_objects_of_libraries_that_a_call_has_made_are_compared_by_what_they_hold() -> None:
    model = lively(Settling())
    grown = fxgrow.grow(model, 2, example_inputs=INPUTS)
    for levels, refuted in ((3, False), (4, True)):
        for network, last in ((model, 3), (grown, levels)):
            network.mapper = torchvision.ops.poolers.LevelMapper(2, last)
        assert (fxgrow.certify(grown, model).verdict is Verdict.REFUTED) is refuted


def test_a_weight_that_parts_share_is_used_by_either() -> None:
    model: Any = Around(lambda model, x: model.part(x))
    model.part.enter = model.other.enter = nn.Linear(4, 4)
    model.part.register_forward_pre_hook(lambda module, args: (module.enter(args[0]), *args[1:]))
    model.other.register_forward_pre_hook(lambda module, args: (module.enter(args[0]), *args[1:]))
    grown: Any = fxgrow.grow(lively(model).double(), 2, example_inputs=(X4,))
    assert (grown.other.one.out_features, grown.part.one.out_features) == (16, 16)
    torch.testing.assert_close(grown(X4), model(X4), rtol=1e-10, atol=1e-12)


class Reader(nn.Module):
    """A part whose dictionary names places among its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(4, 8), Branched(8, 8), Branched(8, 8), nn.Linear(8, 4))
        self.places = {"2": "middle", "3": "last"}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = {}
        for name, block in self.blocks.named_children():
            x = block(x)
            if name in self.places:
                made[self.places[name]] = x
        return made


class Looking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reader, self.leave = Reader(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        made = self.reader(x)
        if bool((made["last"].abs() < 1e-6).all()):
            return x
        return self.leave(made["middle"])  # type: ignore[no-any-return]


def test_places_among_blocks_of_a_part_follow() -> None:
    torch.manual_seed(0)
    model, x = Looking().double(), torch.randn(3, 4, dtype=torch.float64)
    grown: Any = fxgrow.grow(model, depth=2, example_inputs=x)
    assert fxgrow.report(grown).plan.parts and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert grown.reader.places == {"4": "middle", "5": "last"}
    assert model.reader.places == {"2": "middle", "3": "last"}
    torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=0)


def test_a_number_of_a_part_that_other_code_reads_is_named() -> None:
    def between(model: Any, x: Tensor) -> Tensor:
        return model.part(x) / model.part.one.out_features  # type: ignore[no-any-return]

    with pytest.raises(VerificationError, match=r"its code reads out_features, .*name the parts that may grow"):
        fxgrow.grow(lively(Around(between)).double(), 2, example_inputs=(X4,))


def test_a_part_that_is_called_on_a_size_of_another_course_says_so() -> None:
    class BySize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.one(x)
            return self.two(h.relu() if x.shape[1] > 2 else h - h.mean(-1, keepdim=True))  # type: ignore[no-any-return]

    model, x = Around(lambda model, x: model.part(x).sum(1) + model.part(x[:, :2]).sum(1)), torch.randn(2, 5, 4)
    model.part = BySize()
    with pytest.raises(VerificationError, match=r"x has 2 entries along axis 1, .* with example_inputs of as many"):
        fxgrow.grow(lively(model).double(), 2, example_inputs=(x.double(),))


def test_the_run_that_looks_for_parts_changes_no_draws() -> None:
    model = lively(Around(lambda model, x: model.part(x) + torch.rand(()) * 0)).double()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert fxgrow.plan(model, 2, example_inputs=(X4,)).parts
    assert torch.equal(torch.get_rng_state(), before)
