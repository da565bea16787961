"""Blocks that growth in depth adds have rates beside those of the blocks they repeat, and vitality shows them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.history import history_of
from fxgrow.training import tracking
from fxgrow.training.rules import CEILING, Norms

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(torch.relu(self.enter(x)))  # type: ignore[no-any-return]


def deep(*amounts: Any, **options: Any) -> nn.Module:
    """Two residual blocks and a layer, grown in depth by each amount."""
    torch.manual_seed(4)
    model: nn.Module = nn.Sequential(nn.Sequential(Block(), Block()), nn.Linear(6, 3)).double()
    for amount in amounts:
        model = fxgrow.grow(model, depth=amount, example_inputs=X[:2], **options)
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    (model(X) - torch.linspace(-1, 1, 3, dtype=X.dtype)).square().mean().backward()
    optimizer.step()


def added(name: str) -> bool:
    return name.startswith("0.2.")


def test_the_history_knows_what_new_blocks_repeat() -> None:
    history = history_of(deep("+1"))
    assert history is not None
    assert history.twins() == {
        f"0.2.{name}": f"0.1.{name}" for name in ("enter.weight", "enter.bias", "leave.weight", "leave.bias")
    }
    history = history_of(deep("+1", 2.0))
    assert history is not None
    twins = history.twins()
    births = fxgrow.births(deep("+1", 2.0))
    assert len(twins) == 4 * 4
    for name, twin in twins.items():
        assert min(births[name].counts()) > min(births[twin].counts())


@pytest.mark.parametrize("cut", [False, True])
def test_new_blocks_have_the_rate_of_norms_beside_the_block_they_repeat(
    cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random start has norms of its own; the silent last layer gets the floor, which is 1 for equal sizes."""
    if cut:
        monkeypatch.setitem(tracking._LEAST_ENTRIES, "cpu", 0)
    model, twin = deep("+1", depth_init="random"), deep("+1", depth_init="random")
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in (model, twin)]
    rates = fxgrow.adapt_rates(optimizers[0], model, every=1).current()
    assert set(rates) == {name for name, _ in model.named_parameters() if added(name)}
    ratio = float(model.get_parameter("0.2.enter.weight").norm() / model.get_parameter("0.1.enter.weight").norm())
    assert rates["0.2.enter.weight"] == {1: pytest.approx(max(1.0, ratio))}
    assert rates["0.2.leave.weight"] == {1: pytest.approx(1.0)}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for net, optimizer in zip((model, twin), optimizers, strict=True):
        step(net, optimizer)
    for name, parameter in model.named_parameters():
        plain = twin.get_parameter(name).detach() - before[name]
        moved = parameter.detach() - before[name]
        if added(name):
            torch.testing.assert_close(moved, plain * rates[name][1], rtol=1e-9, atol=1e-15)
        else:
            assert torch.equal(parameter, twin.get_parameter(name))


def test_the_rule_by_updates_sees_new_blocks_starve() -> None:
    """A new block's inner layer gets no gradient at first, its last layer some; then both are brought up."""
    model = deep("+1")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    rates = fxgrow.adapt_rates(optimizer, model, "gradient", every=1)
    step(model, optimizer)
    assert rates.current()["0.2.enter.weight"] == {1: 1.0}  # it did not move: nothing to compare
    step(model, optimizer)
    assert rates.current()["0.2.enter.weight"][1] == pytest.approx(CEILING)


def test_a_rule_is_told_the_age_of_each_stage() -> None:
    seen: list[list[float]] = []

    def rule(norms: Norms) -> Tensor:
        assert norms.age is not None
        seen.append(
            [float(age) for age, name in zip(norms.age, norms.names, strict=True) if name.endswith("enter.bias")]
        )
        return torch.ones_like(norms.weight)

    model = deep("+1")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    fxgrow.adapt_rates(optimizer, model, rule, every=1)
    for _ in range(3):
        step(model, optimizer)
    assert seen == [[0.0], [0.0], [1.0], [2.0]]  # the first when it was attached
    deeper = fxgrow.grow(model, depth="+1", example_inputs=X[:2])
    fxgrow.replace_parameters(optimizer, deeper)
    step(deeper, optimizer)
    assert sorted(seen[-1]) == [0.0, 3.0]


def test_vitality_shows_new_blocks_beside_those_they_repeat() -> None:
    model = deep("+1")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    rates = fxgrow.adapt_rates(optimizer, model, lambda norms: torch.full_like(norms.weight, 3.0))
    (model(X) - 1).square().mean().backward()
    vitality = fxgrow.vitality(model, optimizer)
    assert list(vitality.new_blocks) == [1]
    new, repeated = vitality.new_blocks[1]
    assert new.entries == repeated.entries == 6 * 12 * 2 + 18
    weights = [model.get_parameter(name) for name in ("0.2.leave.weight", "0.2.leave.bias")]
    assert new.gradient == pytest.approx(float(torch.cat([w.grad.flatten() for w in weights]).norm()))  # type: ignore[union-attr]
    assert new.update == pytest.approx(3e-3 * new.gradient)
    assert rates.by_stage() == {1: 3.0}
    text = str(vitality)
    assert "1: new blocks" in text
    assert "1: those they repeat" in text
