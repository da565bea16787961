"""Tensors that no forward reads: they follow what a config or a target builds, and else stay, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxgrow
from tests.capture.assembled import EXACT, normal


class Masked(nn.Module):
    """A model whose forward leaves a projection and a norm alone, and reads a token where it is given a mask."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.enter, self.hidden, self.leave = nn.Linear(5, size), nn.Linear(size, 2 * size), nn.Linear(2 * size, 3)
        self.token = nn.Parameter(torch.randn(1, 1, size))
        self.idle = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size), nn.Linear(size, 4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.enter(x)
        if mask is not None:
            x = torch.where(mask[..., None], self.token, x)
        return self.leave(torch.relu(self.hidden(x)))  # type: ignore[no-any-return]


def model_of(kind: Any, *args: Any) -> Any:
    torch.manual_seed(0)
    model = kind(*args).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    return model


def assert_old_entries_kept(grown: nn.Module, model: nn.Module) -> None:
    now = dict(grown.named_parameters())
    for name in ("token", "idle.0.weight", "idle.1.weight", "idle.2.weight", "idle.2.bias"):
        old = model.get_parameter(name)
        torch.testing.assert_close(now[name][tuple(map(slice, old.shape))], old, rtol=0, atol=0)


def test_they_have_the_sizes_of_a_target(tmp_path: Path) -> None:
    model, x = model_of(Masked, 8), normal(2, 4, 5)
    grown: Any = fxgrow.grow(model, like=Masked(16), example_inputs=x)
    Masked(16).double().load_state_dict(grown.state_dict())
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert_old_entries_kept(grown, model)
    features = normal(2, 4, 8)
    wide = torch.cat([features, normal(2, 4, 8)], -1)
    torch.testing.assert_close(grown.idle[0](wide)[..., :8], model.idle[0](features), rtol=EXACT, atol=EXACT)
    planned = fxgrow.report(grown).plan
    assert planned.totals.parameters_after == sum(parameter.numel() for parameter in grown.parameters())
    (group,) = [group for group in planned.groups if "idle.0.bias[0]" in group.where]
    assert group.how == "no forward reads idle.0.weight, idle.0.bias, idle.1.weight and 2 more"
    assert [held.where for held in planned.held] == [("idle.2.weight[0]", "idle.2.bias[0]")]
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors", model)
    torch.testing.assert_close(dict(loaded.state_dict()), dict(grown.state_dict()), rtol=0, atol=0)
    assert (loaded.idle[0].in_features, loaded.idle[1].normalized_shape) == (16, (16,))


def test_where_nothing_says_their_sizes_they_stay_and_the_plan_says_so() -> None:
    planned = fxgrow.plan(Masked(8), 2, example_inputs=normal(2, 4, 5).float())
    (held,) = [held for held in planned.held if "idle.0.weight[1]" in held.where]
    assert "token[2]" not in held.where and held.reason == "no forward reads it"


def with_config() -> Any:
    """A class that builds such a model from a config."""
    transformers: Any = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):  # type: ignore[misc, name-defined]
        model_type = "masked"

        def __init__(self, size: int = 8, **rest: Any) -> None:
            self.size = size
            super().__init__(**rest)

    class Model(transformers.PreTrainedModel):  # type: ignore[misc, name-defined]
        config_class = Config

        def __init__(self, config: Any, with_token: bool = False) -> None:
            super().__init__(config)
            inner = Masked(config.size)
            self.enter, self.hidden, self.leave, self.idle = inner.enter, inner.hidden, inner.leave, inner.idle
            self.token = inner.token if with_token else None
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            pass

        forward = Masked.forward

    return Model, Config


@pytest.mark.parametrize("init", ["zero", "replicate"])
def test_they_have_the_sizes_that_a_config_builds(init: str) -> None:
    kind, config = with_config()
    model, x, mask = model_of(kind, config(), True), normal(2, 4, 5), normal(2, 4) > 0
    grown: Any = fxgrow.grow(model, 2, example_inputs=x, init=init)
    assert grown.config.size == 16
    built = kind(grown.config, with_token=True).double().eval()
    built.load_state_dict(grown.state_dict())
    if init == "zero":  # copies share what read the units that they are copies of
        assert_old_entries_kept(grown, model)
    torch.testing.assert_close(built(x, mask), model(x, mask), rtol=EXACT, atol=EXACT)
    report = fxgrow.report(grown)
    assert str(report.certificate.verdict) == "PROVED"
    (followed,) = report.plan.configs
    assert followed.like is not None and followed.flags == (("with_token", True),)
    assert "built from this config and with_token=True, with the grown state dict" in str(report.plan)
    assert fxgrow.births(grown)["token"].axes[2] == (0,) * 8 + (1,) * 8
    applied = report.plan.apply(model)
    torch.testing.assert_close(dict(applied.state_dict()), dict(grown.state_dict()), rtol=0, atol=0)


def test_they_grow_again_in_new_blocks_and_in_optimizers() -> None:
    kind, config = with_config()
    model, x = model_of(kind, config(), True), normal(2, 4, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    grown = fxgrow.grow(fxgrow.grow(model, 2, example_inputs=x), 2, example_inputs=x)
    assert tuple(grown.token.shape) == (1, 1, 32) and grown.idle[2].in_features == 32
    fxgrow.replace_parameters(optimizer, grown)
    average = optimizer.state[grown.token]["exp_avg"]
    assert average.shape == grown.token.shape and bool((average[..., :8] != 0).all())


class Around(nn.Module):
    """A model that no graph can hold, around one that its class builds from a config."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y[y.sum(-1).nonzero()[:, 0].tolist()]  # type: ignore[no-any-return]


def test_they_grow_in_parts() -> None:
    kind, config = with_config()
    model, x = model_of(Around, kind(config())), normal(4, 5)
    grown: Any = fxgrow.grow(model, 2, example_inputs=x)
    planned = fxgrow.report(grown).plan
    assert planned.parts and grown.inner.idle[2].in_features == 16
    kind(grown.inner.config).double().load_state_dict(grown.inner.state_dict())
    assert planned.totals.parameters_after == sum(parameter.numel() for parameter in grown.parameters())
    assert fxgrow.births(grown)["inner.idle.2.weight"].axes == ((0,) * 4, (0,) * 8 + (1,) * 8)
    assert [held.where for held in planned.held] == [("inner.idle.2.weight[0]", "inner.idle.2.bias[0]")]
    applied = planned.apply(model)
    torch.testing.assert_close(dict(applied.state_dict()), dict(grown.state_dict()), rtol=0, atol=0)
