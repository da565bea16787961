"""Vitality: what each generation receives, checked against what it is by definition and what a step then does."""

from __future__ import annotations

import copy

import pytest
import torch

import fxgrow
from fxgrow.errors import TrainingError
from tests.training.small import convolutional, grown, loss_of, train


def test_shares_are_what_masks_say() -> None:
    model = grown(convolutional(), 1.5, 4 / 3)
    loss_of(model).backward()
    vitality = fxgrow.vitality(model)
    births = fxgrow.births(model)
    squares: dict[int, float] = {}
    for name, parameter in model.named_parameters():
        for stage, count in births[name].counts().items():
            mask = births[name].mask(stage)
            share = vitality.tensors[name][stage]
            assert share.entries == count
            assert share.gradient == pytest.approx(float(parameter.grad[mask].norm()))
            assert share.weight == pytest.approx(float(parameter.detach()[mask].norm()))
            assert share.update is None
            squares[stage] = squares.get(stage, 0.0) + share.gradient**2
    total = sum(squares.values())
    assert vitality.gradient_shares() == {stage: pytest.approx(value / total) for stage, value in squares.items()}
    assert sum(share.entries for share in vitality.stages.values()) == sum(p.numel() for p in model.parameters())
    assert vitality.update_shares() == {}


@pytest.mark.parametrize("rule", ["norm", "none"])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_updates_are_what_the_next_step_does(kind: type[torch.optim.Optimizer], rule: str) -> None:
    model = grown(convolutional(), 1.5, 4 / 3)
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
    fxgrow.adapt_rates(optimizer, model, rule)
    train(model, optimizer, 3)
    optimizer.zero_grad()
    loss_of(model).backward()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    vitality = fxgrow.vitality(model, optimizer)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert all(torch.equal(value, before[0][name]) for name, value in weights.items()), "nothing is changed"
    optimizer.step()
    births = fxgrow.births(model)
    for name, parameter in model.named_parameters():
        for stage, share in vitality.tensors[name].items():
            moved = (parameter.detach() - weights[name])[births[name].mask(stage)]
            assert share.update == pytest.approx(float(moved.norm()), rel=1e-6)
    assert sum(vitality.update_shares().values()) == pytest.approx(1)


def test_unread_newborns_get_no_gradient_at_first() -> None:
    """Zero-out: in the first step only the zero columns that read new units have any."""
    model = grown(convolutional(), 2)
    loss_of(model).backward()
    vitality = fxgrow.vitality(model)
    assert vitality.tensors["0.weight"][1].gradient == 0
    assert vitality.tensors["7.weight"][1].gradient > 0


def test_it_prints_as_a_table() -> None:
    model = grown(convolutional(), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model).backward()
    text = str(fxgrow.vitality(model, optimizer))
    assert "gradient and update by birth stage" in text
    assert "update / weight" in text


def test_without_gradients_there_is_nothing_to_report() -> None:
    with pytest.raises(TrainingError) as error:
        fxgrow.vitality(grown(convolutional(), 2))
    assert str(error.value) == "no parameter has a gradient (at Sequential): call vitality after backward()"


def test_it_is_drawn_stage_by_stage() -> None:
    model = grown(convolutional(), 1.5, 4 / 3)
    loss_of(model).backward()
    vitality = fxgrow.vitality(model, torch.optim.SGD(model.parameters(), lr=0.1))
    (axes,) = vitality.plot().axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["stage 0", "stage 1", "stage 2"]
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights["of the gradient"] == pytest.approx(list(vitality.gradient_shares().values()))
    assert heights["of the update"] == pytest.approx(list(vitality.update_shares().values()))
    assert sum(heights["of entries"]) == pytest.approx(1)
    without = fxgrow.vitality(model).plot(ax=axes)
    assert without is axes.figure
    assert vitality._repr_html_().startswith("<table><caption>gradient and update by birth stage</caption>")
