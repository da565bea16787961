"""Schedules: the paper's numbers, targets met exactly, and every wrong number named."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor, nn

import fxgrow
from fxgrow.curves import exponential_epochs, exponential_sizes, interpolated_sizes
from fxgrow.errors import AmountError, FxgrowError, PlanError, ScheduleError
from fxgrow.narrowing import narrowed
from fxgrow.schedule import Schedule
from tests.pairing import few

x = torch.randn(2, 3, 32, 32)


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, inner, 3, padding=1), nn.Conv2d(inner, width, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


def net(width: int, inner: int = 0, classes: int = 5) -> nn.Module:
    stem = nn.Conv2d(3, width, 3, padding=1)
    block = Block(width, inner or 2 * width)
    return nn.Sequential(stem, block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


# -- the paper's numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (160, (8, 10, 12, 14, 17, 20, 24, 29, 26)),
        (200, (10, 12, 14, 17, 20, 24, 29, 35, 39)),
        (90, (4, 5, 6, 7, 8, 10, 12, 14, 24)),
    ],
)
def test_epochs_are_the_papers(total: int, expected: tuple[int, ...]) -> None:
    schedule = Schedule.exponential(stages=9, start=0.25, width_rate=0.2, epochs=total, epoch_rate=0.2)
    assert tuple(stage.epochs for stage in schedule) == expected
    assert schedule.epochs == total
    assert [stage.first_epoch for stage in schedule] == [sum(expected[:k]) for k in range(9)]


def test_widths_are_the_papers() -> None:
    assert exponential_sizes(16, 64, 9, 0.2) == (16, 20, 24, 28, 34, 40, 48, 58, 64)
    assert exponential_sizes(4, 16, 9, 0.2) == (4, 6, 8, 10, 12, 14, 16, 16, 16)  # a fifth of 4 would add none


@given(st.integers(1, 300), st.integers(0, 900), st.integers(2, 12), st.floats(0, 1))
def test_sizes_grow_evenly_and_land_on_the_target(first: int, added: int, stages: int, rate: float) -> None:
    last = first + added
    fractions = [0.25 + 0.75 * k / (stages - 1) for k in range(stages)]
    for sizes in (exponential_sizes(first, last, stages, rate), interpolated_sizes(first, last, fractions)):
        steps = [after - before for before, after in itertools.pairwise(sizes)]
        assert (sizes[0], sizes[-1], len(sizes)) == (first, last, stages)
        assert all(step >= 0 for step in steps)
        assert all(step % 2 == 0 for step, after in zip(steps, sizes[1:], strict=False) if after < last)


@given(st.integers(1, 500), st.integers(1, 12), st.floats(0, 1))
def test_epochs_add_up(total: int, stages: int, rate: float) -> None:
    try:
        epochs = exponential_epochs(total, stages, rate)
    except ScheduleError:
        return
    assert sum(epochs) == total
    assert len(epochs) == stages
    assert min(epochs) >= 1


# -- toward a target ---------------------------------------------------------------------------------------


def test_a_schedule_lands_on_its_target_dimension_by_dimension() -> None:
    small, large = net(4, inner=6), net(10, inner=23)
    schedule = Schedule.exponential(stages=4, epochs=12).between(small, large, example_inputs=x)
    model: nn.Module = small
    for stage in schedule:
        before = model
        model = stage.grow(model, example_inputs=x, init="mirror", seed=1)
        assert sum(p.numel() for p in model.parameters()) == stage.parameters
        torch.testing.assert_close(model.eval()(x), before.eval()(x), rtol=1e-4, atol=1e-5)
    assert shapes(model) == shapes(large)
    assert dict(schedule.trajectories) == {"0.weight[0]": (4, 6, 8, 10), "1.conv1.weight[0]": (6, 8, 10, 23)}


@pytest.mark.parametrize(
    "name", few(("test_resnet", "test_vit", "test_convnext", "test_efficientnet"), "test_efficientnet")
)
def test_a_schedule_lands_on_models_of_timm(name: str) -> None:
    large = timm.create_model(name)
    small = narrowed(large, 0.25)
    size = large.pretrained_cfg["input_size"][-1]
    inputs = torch.randn(1, 3, size, size)
    schedule = Schedule.exponential(stages=3, epochs=30).between(small, large, example_inputs=inputs)
    model: nn.Module = small
    for stage in schedule:
        model = stage.grow(model, example_inputs=inputs, init="mirror", verify=stage.number == 1)
    assert shapes(model) == shapes(large)
    assert schedule[-1].flops == fxgrow.plan(large, 1.5).totals.flops_before
    assert schedule[-1].parameters == sum(p.numel() for p in large.parameters())


def test_heads_and_head_width_are_told_apart() -> None:
    """The shapes of a query-key-value layer would allow both; the target says which one grows."""

    def vit(width: int, heads: int) -> nn.Module:
        return timm.create_model("test_vit", embed_dim=width, num_heads=heads, depth=2)

    for heads, part in ((2, 2), (4, 1)):
        schedule = Schedule.of([0.5, 1], [1, 1]).between(vit(32, 2), vit(64, heads))
        name = f"blocks.0.attn.qkv.weight[0] part {part}"
        assert dict(schedule.trajectories)[name] == ((16, 32) if part == 2 else (2, 4))
        grown = schedule[1].grow(vit(32, 2))
        assert shapes(grown) == shapes(vit(64, heads))


def test_shares_are_of_the_large_models_budget() -> None:
    schedule = Schedule.of([0.5, 1.0], [3, 1]).between(net(8), net(16), example_inputs=x)
    first, last = schedule
    assert first.flops is not None and last.flops is not None and schedule.share is not None
    assert first.share == pytest.approx(3 * first.flops / (4 * last.flops))
    assert schedule.share == pytest.approx(first.share + 1 / 4)
    assert 0.2 < first.flops / last.flops < 0.3


@pytest.mark.parametrize(("budget", "last_epochs"), [(0.5, 1), (0.5, 3), (0.8, 1)])
def test_late_schedules_spend_their_budget_and_no_more(budget: float, last_epochs: int) -> None:
    schedule = Schedule.late(0.5, epochs=24, budget=budget, last_epochs=last_epochs)
    schedule = schedule.between(net(8), net(16), example_inputs=x)
    seed, last = schedule
    assert seed.flops is not None and last.flops is not None and schedule.share is not None
    assert last.epochs == last_epochs and last.first_epoch == seed.epochs
    spent = seed.epochs * seed.flops + last.epochs * last.flops
    assert spent <= budget * 24 * last.flops < spent + seed.flops
    assert schedule.share == pytest.approx(spent / (24 * last.flops))
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert "operations in 24 epochs" in str(schedule)


def test_late_schedules_name_what_they_cannot_spend() -> None:
    with pytest.raises(ScheduleError, match="leave nothing for the seed"):
        Schedule.late(epochs=8, budget=0.5, last_epochs=4)
    with pytest.raises(ScheduleError, match="is not a share of operations"):
        Schedule.late(epochs=8, budget=-1)


def test_meta_models_will_do() -> None:
    with torch.device("meta"):
        small, large = net(4), net(16)
    schedule = Schedule.linear(3, epochs=9).between(small, large, example_inputs=x)
    assert dict(schedule.trajectories)["0.weight[0]"] == (4, 10, 16)


def test_a_schedule_without_a_target_grows_by_factors() -> None:
    schedule = Schedule.of([0.25, 0.5, 1.0], [1, 2, 3])
    model: nn.Module = net(4)
    for stage in schedule:
        model = stage.grow(model, example_inputs=x)
    assert shapes(model) == shapes(net(16))
    assert [stage.width for stage in schedule] == [1.0, 2.0, 2.0]


def test_a_stage_that_changes_nothing_returns_the_model() -> None:
    schedule = Schedule.exponential(stages=9, epochs=40).between(net(4), net(6), example_inputs=x)
    assert [stage.grows for stage in schedule] == [False, True] + [True] + [False] * 6
    model = net(6)
    assert schedule[5].grow(model) is model
    assert schedule[0].grow(model) is model


# -- batches -----------------------------------------------------------------------------------------------


def test_narrow_stages_can_take_larger_batches() -> None:
    def batches(rates: str) -> list[tuple[int | None, float]]:
        schedule = Schedule.of([0.25, 0.5, 1.0], [1, 1, 1], 64, 192, rates)
        return [(stage.batch_size, stage.lr_scale) for stage in schedule]

    assert batches("keep") == [(192, 1.0), (128, 1.0), (64, 1.0)]
    assert batches("linear") == [(192, 3.0), (128, 2.0), (64, 1.0)]
    assert batches("root") == [(192, math.sqrt(3)), (128, math.sqrt(2)), (64, 1.0)]
    assert [stage.batch_size for stage in Schedule.of([0.5, 1], [1, 1], 32)] == [32, 32]


# -- a value -----------------------------------------------------------------------------------------------


def test_a_schedule_is_a_value() -> None:
    free = Schedule.exponential(stages=3, epochs=30, batch_size=32, largest_batch=64, batch_rates="root")
    bound = free.between(net(4), net(16), example_inputs=x)
    for schedule in (free, bound):
        assert Schedule.from_json(schedule.to_json()) == schedule
        assert hash(Schedule.from_json(schedule.to_json(indent=2))) == hash(schedule)
    assert bound.at(0).number == 0
    assert bound.at(29).number == 2
    assert len(bound) == 3
    assert bound[1].epoch_numbers == range(bound[0].epochs, bound[0].epochs + bound[1].epochs)


def test_a_schedule_prints_as_tables() -> None:
    schedule = Schedule.of([0.5, 1.0], [3, 1], 32, 64, "linear").between(net(8), net(16), example_inputs=x)
    assert str(schedule).splitlines() == [
        "2 stages, 4 epochs toward Sequential",
        "┏━━━━━━━┳━━━━━━━┳━━━━━━━━┳━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━┓",
        "┃ stage ┃ width ┃ epochs ┃ batch ┃ learning rate ┃ parameters ┃ FLOPs a sample ┃ share of the budget ┃",
        "┡━━━━━━━╇━━━━━━━╇━━━━━━━━╇━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━┩",
        "│ 0     │ 50.0% │      3 │    64 │            x2 │      2,645 │      5,161,040 │               19.6% │",
        "│ 1     │  100% │      1 │    32 │            x1 │      9,893 │     19,759,264 │               25.0% │",
        "└───────┴───────┴────────┴───────┴───────────────┴────────────┴────────────────┴─────────────────────┘",
        "sizes, stage by stage",
        "┏━━━━━━━━━━━━━━━━━━━┳━━━━┳━━━━┓",
        "┃ dimension         ┃  0 ┃  1 ┃",
        "┡━━━━━━━━━━━━━━━━━━━╇━━━━╇━━━━┩",
        "│ 0.weight[0]       │  8 │ 16 │",
        "│ 1.conv1.weight[0] │ 16 │ 32 │",
        "└───────────────────┴────┴────┘",
        "training takes 44.6% of the large model's floating-point operations",
    ]


def test_a_schedule_plots() -> None:
    free = Schedule.exponential(stages=3, epochs=30)
    assert len(free.plot().axes) == 1
    widths, costs = free.between(net(4), net(16), example_inputs=x).plot().axes
    assert widths.get_title() == "Sequential: sizes"
    labels = [text.get_text() for text in widths.get_legend().get_texts()]
    assert labels == ["8 → 32: 1.conv1.weight[0]", "4 → 16: 0.weight[0]"]
    assert costs.get_title().endswith("of the large model's FLOPs")
    assert [text.get_text() for text in costs.get_legend().get_texts()] == ["this schedule", "the large model"]


def test_widths_alone_are_drawn_on_axes_that_are_given() -> None:
    figure = Figure()
    axes = figure.subplots()
    toward = Schedule.exponential(stages=3, epochs=30).between(net(4), net(16), example_inputs=x)
    assert toward.plot(ax=axes) is figure
    assert axes.get_ylabel() == "units"


def test_a_notebook_shows_its_tables() -> None:
    assert Schedule.linear(2, epochs=8)._repr_html_().startswith("<table><caption>2 stages, 8 epochs</caption>")


# -- what is wrong -----------------------------------------------------------------------------------------

ALIKE = "build both with the same code, and give the sizes that differ as arguments"


def error_of(call: Any) -> FxgrowError:
    with pytest.raises(FxgrowError) as raised:
        call()
    return raised.value


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: Schedule.exponential(stages=0, epochs=4),
            "stages=0 is not a number of stages: pass a whole number from 1 on",
        ),
        (lambda: Schedule.linear(epochs=2.5), "epochs=2.5 is not a number of epochs: pass a whole number from 1 on"),
        (
            lambda: Schedule.exponential(start=1.5, epochs=4),
            "start=1.5 is not a part of the final width: pass a number such as 0.25",
        ),
        (
            lambda: Schedule.exponential(width_rate=-0.1, epochs=4),
            "width_rate=-0.1 is not a rate of growth: pass a number from 0 on, as 0.2",
        ),
        (
            lambda: Schedule.exponential(epochs=5),
            "9 stages that start with 1 epochs and grow by 0.2 need more than 5 epochs: "
            "ask for more epochs or fewer stages",
        ),
        (
            lambda: Schedule.of([0.5, 1], [1]),
            "there are 2 widths and 1 numbers of epochs: give one of each for every stage",
        ),
        (lambda: Schedule.of([1, 0.5], [1, 1]), "the widths [1, 0.5] shrink: give them in increasing order"),
        (lambda: Schedule.of(["a"], [1]), "'a' is not a width: give widths relative to the last, as 0.5"),
        (
            lambda: Schedule.of([1], [1], 8, 16, "cubic"),
            "batch_rates='cubic' is not known: use one of keep, linear, root",
        ),
        (
            lambda: Schedule.of([1], [1], 32, 16),
            "largest_batch=16 goes with a batch_size up to it: pass both, as batch_size=128, largest_batch=512",
        ),
        (lambda: Schedule.of([1], [4]).at(4), "there is no epoch 4: take one from 0 to 3"),
        (
            lambda: Schedule.from_json("{}"),
            "the text is not a schedule: KeyError: 'format': pass what Schedule.to_json() wrote",
        ),
        (
            lambda: Schedule.from_json('{"format": 99}'),
            "the schedule is of another format: this fxgrow reads format 1",
        ),
        (
            lambda: Schedule.of([1.0], [4]).between(net(4), net(8), x),
            "a schedule of one stage leads nowhere: ask for two stages or more, or train the large model",
        ),
        (
            lambda: Schedule.linear(epochs=4).between(net(4), net(4), x),
            "the small model is as large as the large one (at Sequential): build it with smaller sizes",
        ),
    ],
)
def test_wrong_numbers_are_named(call: Any, text: str) -> None:
    error = error_of(call)
    assert isinstance(error, ScheduleError)
    assert str(error) == text


def tied() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("small", "large", "text"),
    [
        (
            lambda: net(8),
            lambda: net(4),
            "a dimension is 8 in the small model and only 4 in the large model (at 0.weight[0]): "
            "let the small model be the smaller one in every dimension",
        ),
        (
            lambda: net(4),
            lambda: net(8, classes=7),
            "a dimension is 5 in the small model and 7 in the large model, but it cannot grow: it is an output of the "
            "model (at 4.weight[0]): give that part the same size in both",
        ),
        (
            lambda: net(4),
            lambda: net(8)[:-1],
            f"the large model has no such parameter (at 4.weight): {ALIKE}",
        ),
        (
            lambda: net(4)[:-1],
            lambda: net(8),
            f"the small model has no such parameter (at 4.weight): {ALIKE}",
        ),
    ],
)
def test_models_that_are_not_alike_are_refused(small: Any, large: Any, text: str) -> None:
    error = error_of(lambda: Schedule.linear(epochs=8).between(small(), large(), x))
    assert isinstance(error, PlanError)
    assert str(error) == text


def test_stages_are_for_the_model_they_were_made_for() -> None:
    schedule = Schedule.of([0.5, 1.0], [1, 1]).between(net(4), net(8), example_inputs=x)
    error = error_of(lambda: schedule[1].grow(net(16), example_inputs=x))
    assert isinstance(error, AmountError)
    assert str(error) == (
        "exactly 8 units were asked for, which is fewer than the 16 there are (at 0.weight[0]): "
        "take the stages of a schedule in order, each once"
    )
    error = error_of(lambda: schedule[1].grow(tied(), example_inputs=torch.randn(1, 4)))
    assert str(error) == (
        "the sizes are for a model with a dimension that this one does not have (at 1.conv1.weight[0]): "
        "grow the model that the schedule was made for"
    )


# -- narrow seeds ------------------------------------------------------------------------------------------


def test_a_narrow_model_is_alike_and_leaves_the_wide_one_alone() -> None:
    large = net(16)
    before = {name: tensor.clone() for name, tensor in large.state_dict().items()}
    small = narrowed(large, 0.25, x)
    assert shapes(small) == shapes(net(4))
    assert small(x).shape == (2, 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in large.state_dict().items())
    assert small.get_submodule("0").out_channels == 4


def test_a_narrow_models_activations_have_the_wide_ones_variance() -> None:
    torch.manual_seed(0)
    large = nn.Sequential(nn.Linear(50, 800), nn.ReLU(), nn.Linear(800, 800), nn.ReLU(), nn.Linear(800, 400))
    inputs = torch.randn(64, 50)
    narrow, wide = (model(inputs).var().item() for model in (narrowed(large, 0.25, inputs), large))
    assert narrow == pytest.approx(wide, rel=0.2)


def test_narrow_models_of_the_meta_device() -> None:
    with torch.device("meta"):
        large = timm.create_model("test_vit")
        small = narrowed(large, 0.5)
    assert all(tensor.is_meta for tensor in small.parameters())
    assert small.get_submodule("blocks.0.mlp.fc1").out_features == 96


def test_nothing_to_narrow_is_an_error() -> None:
    error = error_of(lambda: narrowed(nn.Linear(3, 2), 0.5, torch.randn(1, 3)))
    assert str(error) == "nothing in the model can be narrower (at Linear): see fxgrow.plan for the reasons"
