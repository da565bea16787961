"""A skeleton has a model's structure, none of its data, and no hold on the model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fxgrow.capture import skeleton
from fxgrow.modules.tensors import named_tensors
from tests.capture.assembled import assembled, normal
from tests.models import PLAIN, Decoder


class Block(nn.Module):
    """A layer, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("saved", torch.ones(4))
        self.register_buffer("scratch", torch.arange(4), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.saved + self.scratch


class Collecting(nn.Module):
    """Remembers its outputs in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.seen: list[Tensor] = []
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x)
        self.seen.append(self.last)
        return self.last


@pytest.mark.parametrize("name", PLAIN)
def test_every_tensor_is_on_meta_with_its_shape_dtype_and_name(name: str) -> None:
    model = PLAIN[name][0]()
    bare = named_tensors(skeleton(model))
    assert list(bare) == list(named_tensors(model))
    for key, tensor in named_tensors(model).items():
        assert bare[key].is_meta
        assert (bare[key].shape, bare[key].dtype) == (tensor.shape, tensor.dtype)
        assert type(bare[key]) is type(tensor)


def test_the_tree_of_modules_is_the_same() -> None:
    model = PLAIN["unet"][0]()
    pairs = zip(skeleton(model).named_modules(), model.named_modules(), strict=True)
    for (name, twin), (original_name, original) in pairs:
        assert (name, type(twin)) == (original_name, type(original))
        assert twin is not original


def test_gradient_flags_are_kept() -> None:
    model = nn.Linear(4, 4)
    model.bias.requires_grad_(False)
    bare = skeleton(model)
    assert bare.get_parameter("weight").requires_grad
    assert not bare.get_parameter("bias").requires_grad


def test_training_flags_are_kept_part_by_part() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval())
    assert [part.training for part in skeleton(model).modules()] == [True, True, False]


def test_tied_parameters_stay_tied() -> None:
    bare = skeleton(Decoder())
    assert bare.get_parameter("head.weight") is bare.get_parameter("embed.weight")


def test_tied_buffers_stay_tied() -> None:
    model = nn.Sequential(Block(), Block())
    model[1]._buffers["saved"] = model[0].saved
    bare = skeleton(model)
    assert bare.get_buffer("0.saved") is bare.get_buffer("1.saved")


def test_separate_tensors_stay_separate() -> None:
    parameters = list(skeleton(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))).parameters())
    assert len({id(parameter) for parameter in parameters}) == 4


def test_shared_modules_stay_shared() -> None:
    shared = nn.Linear(4, 4)
    bare = skeleton(nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared)))
    assert bare.get_submodule("0") is bare.get_submodule("1.1")


def test_a_module_below_itself_ends() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model._modules["self"] = model
    bare = skeleton(model)
    assert bare._modules["self"] is bare


def test_recurrent_layers_list_the_tensors_of_the_skeleton() -> None:
    bare = skeleton(nn.LSTM(4, 4))
    assert isinstance(bare, nn.LSTM)
    assert [id(tensor) for tensor in bare._flat_weights] == [id(tensor) for tensor in bare.parameters()]


def test_buffers_that_are_not_saved_stay_so() -> None:
    bare = skeleton(Block())
    assert set(bare.state_dict()) == {"saved", "layer.weight", "layer.bias"}
    assert bare.get_buffer("scratch").is_meta


def test_what_is_registered_as_none_stays_none() -> None:
    bare = skeleton(Block())
    assert bare._buffers["absent"] is None
    assert bare._parameters["nothing"] is None


def test_forward_hooks_are_kept() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    before = model[0].register_forward_pre_hook(lambda module, args: None)
    after = model[0].register_forward_hook(lambda module, args, output: None)
    bare = skeleton(model).get_submodule("0")
    assert list(bare._forward_pre_hooks) == [before.id]
    assert list(bare._forward_hooks) == [after.id]


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
    ],
)
def test_hooks_registered_later_do_not_reach_the_original(register: str) -> None:
    model = nn.Linear(4, 4)
    getattr(skeleton(model), register)(lambda *args: None)
    hooks = [value for name, value in vars(model).items() if name.endswith("_hooks")]
    assert all(not registered for registered in hooks)


def test_buffers_registered_later_do_not_reach_the_original() -> None:
    model = Block()
    skeleton(model).register_buffer("saved", torch.zeros(4, device="meta"), persistent=False)
    assert "saved" in model.state_dict()


def test_a_hold_on_a_plain_tensor_leaves_the_original_as_it_was() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.scale = torch.ones(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.scale

    model = Scaled()
    assembled(model, torch.randn(2, 4))
    assert model._non_persistent_buffers_set == set()


def test_attributes_set_by_the_forward_do_not_reach_the_original() -> None:
    model = Collecting()
    assembled(model, torch.randn(2, 4))
    assert model.last is None


def test_lists_filled_by_the_forward_do_not_reach_the_original() -> None:
    model = Collecting()
    assembled(model, torch.randn(2, 4))
    assert model.seen == []


def test_the_original_is_not_written_to() -> None:
    model = PLAIN["unet"][0]().eval()
    model.get_submodule("enter").train()
    twin = copy.deepcopy(model)
    assembled(model, PLAIN["unet"][1])
    assert all(torch.equal(tensor, named_tensors(twin)[name]) for name, tensor in named_tensors(model).items())
    for part, before in zip(model.modules(), twin.modules(), strict=True):
        assert vars(part).keys() == vars(before).keys()
        assert part.training is before.training


def test_the_original_keeps_its_very_tensors() -> None:
    model = PLAIN["tagger"][0]()
    before = {name: (id(tensor), tensor._version) for name, tensor in named_tensors(model).items()}
    assembled(model, PLAIN["tagger"][1])
    assert {name: (id(tensor), tensor._version) for name, tensor in named_tensors(model).items()} == before


def test_attributes_set_on_the_skeleton_do_not_reach_the_original() -> None:
    model = nn.Linear(4, 4)
    bare = skeleton(model)
    bare.out_features = 9
    bare.register_parameter("bias", None)
    assert model.out_features == 4
    assert model.bias is not None


def test_a_model_on_the_meta_device_has_a_skeleton() -> None:
    with torch.device("meta"):
        model = Decoder()
    bare = skeleton(model)
    assert all(tensor.is_meta for tensor in named_tensors(bare).values())
    assert all(twin is not parameter for twin, parameter in zip(bare.parameters(), model.parameters(), strict=True))


def test_sizes_that_no_memory_holds_cost_nothing() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1 << 20, 1 << 20), nn.ReLU())
    graphs = assembled(model, torch.empty(2, 1 << 20, device="meta"))
    assert graphs.get_parameter("0.weight").shape == (1 << 20, 1 << 20)


def test_no_data_is_read() -> None:
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    bare = skeleton(model)
    assert bare.get_parameter("weight").untyped_storage().device.type == "meta"


def test_strides_are_kept() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert skeleton(model).get_parameter("weight").stride() == model.weight.stride()


def test_a_graph_module_has_a_skeleton() -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).double())
    twin = assembled(graph, normal(2, 4))
    assert torch.equal(twin(normal(2, 4)), graph(normal(2, 4)))


def test_a_graph_module_keeps_its_graph_where_its_skeleton_gets_another() -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    own, x = graph.graph, normal(2, 4).float()
    twin = skeleton(graph)
    before = graph(x)
    given, *_, output = twin.graph.nodes
    output.args = (given,)
    twin.graph.eliminate_dead_code()
    twin.recompile()
    assert twin(x) is x and torch.equal(graph(x), before)
    assert own.owning_module is graph and twin.graph.owning_module is twin
