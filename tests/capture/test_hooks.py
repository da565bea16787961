"""Hooks: what a graph leaves out of them is named in its plan and certificate, and so are those that ask for values."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError, UntraceableError
from fxgrow.growth.replay import hooks_as_for
from fxgrow.proof.certificate import Verdict

X = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.enter(x).relu())  # type: ignore[no-any-return]


def looking(seen: list[str], *arguments: Any) -> None:
    seen.append("seen")


def test_hooks_that_a_graph_leaves_out_are_named() -> None:
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Linear(8, 12), Block(), nn.Linear(12, 2)).double(), list[str]()
    model[1].register_forward_hook(functools.partial(looking, seen))
    model[1]._register_state_dict_hook(lambda *_: None)
    model[2].register_load_state_dict_pre_hook(lambda *_: None)
    model._register_state_dict_hook(lambda *_: None)
    expected = "hooks (state dict) (at Sequential), hooks (forward, state dict) (at 1) (at Sequential)"
    with pytest.warns(UserWarning, match="is a graph, which leaves out hooks"):
        plan = fxgrow.plan(model, width=2, example_inputs=X, form="graph")
    assert str(plan.obstacle) == f"a graph was asked for; it leaves out {expected}"
    grown = fxgrow.grow(model, width=2, example_inputs=X, form="graph")
    report = fxgrow.report(grown)
    assert "hooks (forward, state dict) (at 1): the graph leaves it out" in str(report.certificate)
    assert "it leaves out hooks (state dict) (at Sequential)" in " ".join(str(report.plan).split())
    seen.clear()
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12) and seen == ["seen"]
    held = fxgrow.grow(model, width=2, example_inputs=X)
    assert fxgrow.report(held).plan.obstacle is None and "hooks" not in str(fxgrow.report(held).certificate)


class Counting(Block):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: dict[str, int]) -> None: ...


def test_extra_state_that_a_graph_leaves_out_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 12), Counting(), nn.Linear(12, 2)).double()
    with pytest.warns(UserWarning, match=r"is a graph, which leaves out extra state \(at 1\)$"):
        grown = fxgrow.grow(model, width=2, example_inputs=X, form="graph")
    assert "it leaves out extra state (at 1)" in str(fxgrow.report(grown).plan.obstacle)
    assert "1._extra_state" in model.state_dict().keys() - grown.state_dict().keys()
    own = fxgrow.grow(model, width=2, example_inputs=X)
    assert own.state_dict()["1._extra_state"] == {"calls": 3}


def test_a_graph_has_the_plain_attributes_that_hold_no_size_that_grew() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 12), Block(), nn.Linear(12, 2)).double()
    model.num_classes, model.width, model.sizes, model.meta = 2, 12, [8, 12], "another"
    model.config, model.note, model.stale = {"side": 32}, "mine", {"width": 12}
    grown: Any = fxgrow.grow(model, width=2, example_inputs=X, form="graph")
    for copied in (grown, copy.deepcopy(grown), pickle.loads(pickle.dumps(grown))):
        assert (copied.num_classes, copied.config, copied.note) == (2, {"side": 32}, "mine")
        assert copied.meta != "another"
        assert not any(hasattr(copied, name) for name in ("width", "sizes", "stale"))
    more: Any = fxgrow.grow(grown, classes="+1", example_inputs=X)
    assert more.note == "mine" and not hasattr(more, "num_classes")


def logging(part: nn.Module, inputs: Any, output: Tensor) -> None:
    part.mean = output.mean().item()  # type: ignore[assignment]


def test_a_hook_that_asks_for_values_is_the_reason() -> None:
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2)).double()
    model[1].register_forward_hook(logging)
    with pytest.raises(
        UntraceableError, match=r"item needs the values .*, in the hook logging \(at 1\): take the hook"
    ):
        fxgrow.plan(model, width=2, example_inputs=X)
    model = nn.Sequential(nn.Linear(8, 12), Block(), Block(), nn.Linear(12, 2)).double()
    model[1].register_forward_hook(functools.partial(logging))
    assert "in the hook logging (at 1)" in str(fxgrow.plan(model, width=2, example_inputs=X).obstacle)


class Leaves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(1, 6, 1), nn.LayerNorm(8)
        self.blocks = nn.Sequential(*(Residual() for _ in range(3)))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.norm(self.stem(x[:, None]))).mean(-1))  # type: ignore[no-any-return]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Conv1d(6, 8, 1), nn.BatchNorm1d(8), nn.Conv1d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.norm(self.enter(x)).relu())  # type: ignore[no-any-return]


def leaves(hook: Any = None) -> nn.Module:
    torch.manual_seed(0)
    model = Leaves().double().eval()
    for path in ("stem", "norm", "blocks.1.enter", "blocks.1.norm", "head") if hook is not None else ():
        model.get_submodule(path).register_forward_hook(hook)
    return model


@pytest.mark.filterwarnings("ignore:.*leaves out hooks")
@pytest.mark.parametrize("form", ["auto", "graph"])
def test_a_plan_is_the_same_whether_layers_have_hooks_or_not(form: str, tmp_path: Path) -> None:
    seen: list[str] = []
    watched, plain = leaves(functools.partial(looking, seen)), leaves()
    amounts: Any = {"width": {"blocks.*.enter": 1.5}, "depth": {"blocks": 5}, "example_inputs": X, "form": form}
    of_watched, of_plain = (fxgrow.plan(model, **amounts) for model in (watched, plain))
    assert (of_watched.nodes, of_watched.depth) == (of_plain.nodes, of_plain.depth)
    assert torch.equal(of_watched.apply(plain)(X), of_plain.apply(watched)(X))
    grown = fxgrow.grow(watched, **amounts)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    assert torch.equal(fxgrow.load(tmp_path / "grown.safetensors", plain)(X), grown(X))


def test_hooks_that_layers_get_after_growth_leave_the_proof_as_it_is() -> None:
    model = leaves()
    grown = fxgrow.grow(model, width=1.5, depth={"blocks": 4}, example_inputs=X)
    handle = grown.get_submodule("blocks.1.enter").register_forward_hook(lambda *_: None)
    grown.get_submodule("blocks.1.norm").register_forward_pre_hook(lambda *_: None)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    handle.remove()
    grown.get_submodule("blocks.1.enter").register_forward_hook(lambda part, inputs, output: output * 2)
    assert fxgrow.certify(grown, model).verdict is Verdict.UNKNOWN


def scaling(part: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * 1.5 + 1


def shifting(part: nn.Module, args: Any, kwargs: Any) -> Any:
    return tuple(arg - 0.5 for arg in args), kwargs


@pytest.mark.filterwarnings("ignore:.*leaves out hooks")
@pytest.mark.parametrize("form", ["auto", "graph"])
def test_what_hooks_of_layers_compute_is_kept(form: str) -> None:
    model = leaves(scaling)
    model.get_submodule("blocks.2.leave").register_forward_pre_hook(shifting, with_kwargs=True)
    grown = model
    for amounts in ({"width": 1.5}, {"depth": {"blocks": 4}}, {"width": {"blocks.*.enter": 1.5}}):
        grown = fxgrow.grow(grown, **amounts, example_inputs=X, form=form)  # type: ignore[arg-type]
        assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
        assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert not torch.allclose(grown(X), leaves()(X))


def exchanging(part: Any, inputs: Any) -> None:
    part.weight = part.raw * 2


def test_a_hook_may_give_a_layer_other_weights() -> None:
    model = leaves()
    layer: Any = model.get_submodule("blocks.1.enter")
    weight = layer.weight
    del layer.weight
    layer.raw, layer.weight = weight, weight.detach() * 2
    layer.register_forward_pre_hook(exchanging)
    grown: Any = fxgrow.grow(model, width={"blocks.0.enter": 1.5}, example_inputs=X)
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
    grown.blocks[1].enter.raw.data *= 3
    weight.data *= 3
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*leaves out hooks")
@pytest.mark.parametrize("form", ["auto", "graph"])
def test_plans_of_older_versions_have_layers_with_hooks_spelled_out(form: str) -> None:
    model = leaves(scaling)
    amounts: Any = {"width": 1.5, "depth": {"blocks": 4}, "example_inputs": X}
    with hooks_as_for(replace(fxgrow.plan(model, width=2, example_inputs=X), hooked_whole=False)):
        planned = fxgrow.plan(model, **amounts, form=form)
    older = json.loads(planned.to_json())
    assert "conv1d" in str(older["depth"]) and older.pop("hooked_whole")
    grown = fxgrow.Plan.from_json(json.dumps(older)).apply(model)
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        windows = window_partition(self.enter(x), (2, 2)).softmax(1)
        return self.leave(window_reverse(windows, (2, 2), height, width))  # type: ignore[no-any-return]


def test_hooks_that_keep_features_do_not_hide_that_calls_are_alike() -> None:
    """The second call is compared with the first, with the sizes that a function computes which is one node."""
    model, kept = Windows().double(), list[Tensor]()
    model.enter.register_forward_hook(lambda part, inputs, output: kept.append(output))
    grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(2, 4, 4, 3, dtype=torch.float64))
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED


def test_a_layer_of_a_graph_that_gets_a_hook_stays_and_says_so() -> None:
    grown = fxgrow.grow(leaves(), width=2, example_inputs=X, form="graph")
    grown.get_submodule("blocks.1.enter").register_forward_hook(scaling)
    why = "Conv1d runs with hooks that its graph does not see"
    assert why in str(fxgrow.certify(grown, leaves()))
    plan = fxgrow.plan(grown, width=1.5, example_inputs=X)
    assert any(held.reason.startswith(why) for held in plan.held)


def test_hooks_that_compute_are_known_by_their_module() -> None:
    model, adapter = nn.Sequential(nn.Linear(8, 12), Block(), nn.Linear(12, 2)).double(), nn.Linear(12, 12).double()
    model[1].register_module("adapter", adapter)
    model[1].register_forward_hook(lambda block, _, result: result + block.adapter(result))
    model[1].enter.register_forward_hook(lambda layer, _, result: layer.__dict__.update(mean=result.mean().shape))
    plan = fxgrow.plan(model, width=2, example_inputs=X)
    assert plan.hooks == (("1", "<lambda>"),)  # not the layer that it runs, and not what only looks


def first_of(part: nn.Module, given: Any) -> Any:
    return given[:1]


def test_hooks_that_give_something_else_without_a_call_are_known() -> None:
    model = nn.Sequential(nn.Linear(8, 12), Block(), Block(), nn.Linear(12, 2)).double().eval()
    model[1].register_forward_hook(lambda block, given, result: given[0])
    model[2].register_forward_hook(lambda block, given, result: result)
    model[2].enter.register_forward_pre_hook(first_of)
    hooks = [dict(part._forward_hooks) for part in model]
    plan = fxgrow.plan(model, width=2, example_inputs=X)
    assert plan.hooks == (("1", "<lambda>"),)  # not those that give what they were given
    assert [dict(part._forward_hooks) for part in model] == hooks
    bare = nn.Sequential(nn.Linear(8, 12), Block(), Block(), nn.Linear(12, 2)).double().eval()
    bare.load_state_dict(model.state_dict())
    with pytest.raises(FxgrowError, match="hook"):
        plan.apply(bare)
