"""Optimizers go on where parts of the grown model were replaced by hand since, or between two growths."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import timm
import timm.optim
import torch
from torch import nn

import fxgrow
from fxgrow.errors import TrainingError
from tests.training.small import convolutional, grown, train

BY_HAND = "it was put in by hand"


def two_groups(model: nn.Module) -> torch.optim.Optimizer:
    """Weights, and what is not decayed."""
    weights, others = ([p for p in model.parameters() if (p.ndim > 1) is many] for many in (True, False))
    return torch.optim.AdamW([{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}])


def members(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    names = {id(p): n for n, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize("named", [False, True])
def test_a_new_head_stands_where_the_old_one_stood_and_all_else_is_carried(named: bool) -> None:
    model = convolutional()
    optimizer = two_groups(model)
    train(model, optimizer, 2)
    wide = grown(model, 1.5)
    wide[7] = nn.Linear(wide[7].in_features, 5).double()
    transfer = fxgrow.replace_parameters(optimizer, wide, model=model if named else None)
    assert members(optimizer, wide) == [
        ["0.weight", "3.weight", "7.weight"],
        ["1.weight", "1.bias", "3.bias", "7.bias"],
    ]
    assert transfer.fresh == {f"7.{leaf}": f"{BY_HAND} where 7.{leaf} stood" for leaf in ("weight", "bias")}
    assert transfer.gone == ("7.weight", "7.bias")
    assert "7.bias: it was replaced or taken out by hand" in str(transfer)
    assert set(transfer.carried) == {name for name, _ in wide.named_parameters() if not name.startswith("7.")}
    assert optimizer.state[wide[3].weight]["step"] == 2 and wide[7].weight not in optimizer.state
    train(wide, optimizer, 2)


def test_state_is_carried_into_a_fresh_optimizer_beside_a_new_head() -> None:
    model = convolutional()
    optimizer = two_groups(model)
    train(model, optimizer, 2)
    wide = grown(model, 1.5)
    wide[7] = nn.Linear(wide[7].in_features, 5).double()
    fresh = two_groups(wide)
    transfer = fxgrow.transfer_state(optimizer, fresh, wide)
    assert transfer.fresh == dict.fromkeys(["7.weight", "7.bias"], BY_HAND)
    assert fresh.state.keys() == {p for name, p in wide.named_parameters() if not name.startswith("7.")}


def test_a_head_of_another_form_and_one_taken_out() -> None:
    model = convolutional()
    optimizer = two_groups(model)
    train(model, optimizer, 1)
    wide, bare = grown(model, 1.5), grown(model, 1.5)
    size = wide[7].in_features
    wide[7] = nn.Sequential(OrderedDict(norm=nn.LayerNorm(size), last=nn.Linear(size, 3))).double()
    bare[7] = nn.Identity()
    other = copy.deepcopy(optimizer)
    other.param_groups[0]["params"][:], other.param_groups[1]["params"][:] = (
        list(group["params"]) for group in optimizer.param_groups
    )
    assert "7.weight" in fxgrow.replace_parameters(other, bare, model=model).gone
    assert members(other, bare) == [["0.weight", "3.weight"], ["1.weight", "1.bias", "3.bias"]]
    fxgrow.replace_parameters(optimizer, wide)
    weights, others = members(optimizer, wide)
    assert weights[-1] == "7.last.weight" and others[-3:] == ["7.norm.weight", "7.norm.bias", "7.last.bias"]
    train(wide, optimizer, 1)


def test_layer_decay_stays_right_for_what_is_put_in_by_hand() -> None:
    model = timm.create_model("test_vit")
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.05, layer_decay=0.5)
    scale_of = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    deep = fxgrow.grow(model, width=1.5, depth="+2", verify=False)
    deep.reset_classifier(5)
    mlp = deep.get_submodule("blocks.3.mlp")
    mlp.fc2 = nn.Linear(mlp.fc1.out_features, mlp.fc2.out_features + 1)
    transfer = fxgrow.replace_parameters(optimizer, deep)
    assert set(transfer.gone) == {"head.weight", "head.bias"}
    groups = {
        name: optimizer.param_groups[number]
        for number, inside in enumerate(members(optimizer, deep))
        for name in inside
    }
    assert groups.keys() == dict(deep.named_parameters()).keys()
    for leaf, decay in (("weight", 0.05), ("bias", 0.0)):
        assert groups[f"head.{leaf}"]["lr_scale"] == scale_of[id(model.head.weight)]
        assert groups[f"head.{leaf}"]["weight_decay"] == decay
        for inside in ("mlp.fc1", "mlp.fc2", "attn.qkv"):
            assert groups[f"blocks.3.{inside}.{leaf}"]["lr_scale"] == groups[f"blocks.3.norm1.{leaf}"]["lr_scale"]
            assert groups[f"blocks.3.{inside}.{leaf}"]["weight_decay"] == decay


def test_blocks_behind_a_deleted_one_keep_their_state() -> None:
    """A list numbers its blocks anew when one is deleted: by names, each would get the state of another."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))), nn.Linear(6, 2))
    inputs = torch.randn(5, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(inputs).square().mean().backward()
    optimizer.step()
    wide = fxgrow.grow(model, 1.5, example_inputs=inputs, verify=False)
    del wide[1][0]
    states = [optimizer.state[layer.weight]["exp_avg"] for layer in model[1]]
    transfer = fxgrow.replace_parameters(optimizer, wide)
    assert set(transfer.gone) == {"1.0.weight", "1.0.bias"} and transfer.fresh == {}
    for layer, state in zip(wide[1], states[1:], strict=True):
        assert torch.equal(optimizer.state[layer.weight]["exp_avg"][:6, :6], state)


def test_a_layer_that_is_wrapped_keeps_its_state() -> None:
    model = convolutional()
    optimizer = two_groups(model)
    train(model, optimizer, 2)
    wide = grown(model, 1.5)
    wide[7] = nn.Sequential(nn.Dropout(0.1), wide[7])
    transfer = fxgrow.replace_parameters(optimizer, wide)
    assert transfer.fresh == {} and transfer.gone == ()
    assert optimizer.state[wide[7][1].weight]["step"] == 2


def test_a_head_that_was_replaced_between_two_growths() -> None:
    model = convolutional()
    optimizer, later = two_groups(model), two_groups(model)
    train(model, optimizer, 2)
    wide = grown(model, 1.5)
    wide[7] = nn.Linear(wide[7].in_features, 5).double()
    wider = grown(wide, 1.5)
    transfer = fxgrow.replace_parameters(optimizer, wider)
    assert transfer.fresh.keys() == {"7.weight", "7.bias"} and set(transfer.gone) == {"7.weight", "7.bias"}
    assert members(optimizer, wider)[0] == ["0.weight", "3.weight", "7.weight"]
    train(wider, optimizer, 1)
    later = two_groups(wide)
    train(wide, later, 3)
    assert fxgrow.replace_parameters(later, wider).fresh == {}
    assert later.state[wider[7].weight]["step"] == 3
    bare = grown(model, 1.5)
    bare[7] = nn.Identity()
    last = two_groups(model)
    assert set(fxgrow.replace_parameters(last, grown(bare, 1.5), model=model).gone) == {"7.weight", "7.bias"}


def test_each_of_two_optimizers_keeps_to_its_part_where_a_head_is_new() -> None:
    model = convolutional()
    body = torch.optim.AdamW(model[:7].parameters())
    head = torch.optim.SGD(model[7].parameters(), lr=0.1)
    wide = grown(model, 1.5)
    wide[7] = nn.Sequential(nn.Linear(wide[7].in_features, 5)).double()
    for optimizer in (body, head):
        fxgrow.replace_parameters(optimizer, wide, model=model)
    assert members(head, wide) == [["7.0.weight", "7.0.bias"]]
    assert all(not name.startswith("7.") for name in members(body, wide)[0])


def test_an_optimizer_made_after_the_change_and_one_of_another_model() -> None:
    wide = grown(convolutional(), 1.5)
    wide[7] = nn.Linear(wide[7].in_features, 5).double()
    made_after = two_groups(wide)
    train(wide, made_after, 1)
    assert fxgrow.replace_parameters(made_after, wide, model=wide).fresh == {}
    assert made_after.state[wide[7].weight]["step"] == 1
    other = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(TrainingError, match="does not have"):
        fxgrow.replace_parameters(torch.optim.SGD(other.parameters(), lr=0.1), wide, model=other)


def test_a_fused_optimizer_goes_on_with_a_new_head() -> None:
    model = convolutional()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    train(model, optimizer, 2)
    wide = grown(model, 1.5)
    wide[7] = nn.Linear(wide[7].in_features, 4).double()
    wide[7] = nn.Sequential(wide[7], nn.Linear(4, 3).double())
    fxgrow.replace_parameters(optimizer, wide)
    train(wide, optimizer, 2)
