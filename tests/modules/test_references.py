"""What attributes of modules refer to, once the modules are copied and grown."""

from __future__ import annotations

import copy
import functools
import importlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import CaptureError, FxgrowError
from fxgrow.modules.references import exchange
from tests.checks import worst_error

X = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Indirect(nn.Module):
    """Calls its first layer by a function that it was given."""

    call: Callable[[Tensor], Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.call(x).relu()).relu())

    def hook(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + self.last.bias.sum()


def closure(model: Indirect) -> Any:
    return lambda x: model.first(x)


def closure_over_weights(model: Indirect) -> Any:
    weight, bias = model.first.weight, model.first.bias
    return lambda x: F.linear(x, weight, bias)


def nested_closure(model: Indirect) -> Any:
    def outer(x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            return model.first(y)

        return inner(x)

    return outer


def recursion(model: Indirect) -> Any:
    def turn(x: Tensor, left: int = 2) -> Tensor:
        return turn(model.middle(x), left - 1) if left else x

    return lambda x: turn(model.first(x))


def default(model: Indirect) -> Any:
    def call(x: Tensor, weight: Tensor = model.first.weight, *, bias: Tensor = model.first.bias) -> Tensor:
        return F.linear(x, weight, bias)

    return call


def bound_method(model: Indirect) -> Any:
    return model.first.forward


def of_weights(model: Indirect) -> Any:
    return functools.partial(F.linear, weight=model.first.weight, bias=model.first.bias)


def of_the_model(model: Indirect) -> Any:
    def call(owner: Indirect, x: Tensor) -> Tensor:
        return owner.first(x)

    return functools.partial(call, model)


def weak_reference(model: Indirect) -> Any:
    there = weakref.ref(model)

    def call(x: Tensor) -> Tensor:
        owner = there()
        assert owner is not None
        return owner.first(x)

    return call


class Helper:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Any:
        return self.model.first(x)  # type: ignore[operator]


def method_of_an_object(model: Indirect) -> Any:
    return Helper(model).__call__


def partial_of_a_list(model: Indirect) -> Any:
    return functools.partial(lambda layers, x: layers[0](x), [model.first])


WAYS = [
    *(closure, closure_over_weights, nested_closure, recursion, default),
    *(bound_method, of_weights, of_the_model, weak_reference),
    *(Helper, method_of_an_object, partial_of_a_list),
]


def indirect(way: Callable[[Indirect], Any]) -> Indirect:
    torch.manual_seed(0)
    model = Indirect().double()
    model.call = way(model)
    return model


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("way", WAYS)
def test_a_grown_model_reads_its_own_weights_however_it_calls_them(way: Any, form: str) -> None:
    model = indirect(way)
    grown: Any = fxgrow.grow(model, 2, example_inputs=X, form=form)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert worst_error(model, grown, (X,), False) <= 1e-10
    assert grown.first.weight.shape == (16, 6)
    grown(X).square().sum().backward()
    assert all(parameter.grad is not None for parameter in grown.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        before = model(X)
        grown.first.weight.zero_()
    torch.testing.assert_close(model(X), before)


def test_an_alias_of_a_weight_is_that_of_the_grown_model() -> None:
    class Aliased(Indirect):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.middle(F.linear(x, self.alias, self.listed[0])).relu())

    model: Any = Aliased().double()
    model.__dict__["alias"], model.listed = model.first.weight, [model.first.bias]
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert isinstance(grown, Aliased)
    assert grown.alias is grown.first.weight and grown.listed[0] is grown.first.bias
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


def in_a_list(model: Indirect) -> Any:
    weights = [model.first.weight]
    return lambda x: F.linear(x, weights[0])


def test_what_every_copy_would_share_is_refused_by_its_name() -> None:
    with pytest.raises(CaptureError, match=r"reads first\.weight past the model.*\(at Indirect\)"):
        fxgrow.grow(indirect(in_a_list), 2, example_inputs=X)


def hook_that_closes_over_it(model: Indirect) -> Any:
    return lambda module, args, output: output * model.last.bias.abs().sum()


def hook_that_is_a_method(model: Indirect) -> Any:
    return model.hook


def partial_hook(model: Indirect) -> Any:
    return functools.partial(Indirect.hook, model)


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("way", [hook_that_closes_over_it, hook_that_is_a_method, partial_hook])
def test_hooks_read_the_weights_of_the_model_that_they_are_on(way: Any, form: str) -> None:
    model = indirect(closure)
    model.middle.register_forward_hook(way(model))
    grown: Any = fxgrow.grow(model, 2, example_inputs=X, form=form)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert worst_error(model, grown, (X,), False) <= 1e-10
    before = model(X)
    grown(X).square().sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        grown.first.weight.zero_()
    torch.testing.assert_close(model(X), before)


@pytest.mark.parametrize("form", ["module", "graph"])
def test_hooks_before_loading_get_the_part_that_they_are_on(form: str) -> None:
    """Torch holds that part by a weak reference, in an object of its own."""
    model, seen = indirect(closure), list[nn.Module]()
    model.last.register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    grown: Any = fxgrow.grow(model, 2, example_inputs=X, form=form)
    again: Any = fxgrow.grow(grown, 1.5, example_inputs=X)
    for each in (grown, again, model):
        each.load_state_dict(each.state_dict())
    assert [id(module) for module in seen] == [id(each.last) for each in (grown, again, model)]


def test_a_number_made_of_the_original_s_weights_is_refused_too() -> None:
    model = indirect(closure)
    held = [model]
    model.middle.register_forward_hook(lambda module, args, output: output * held[0].first.weight.detach().norm())
    with pytest.raises(CaptureError, match=r"reads first\.weight past the model"):
        fxgrow.grow(model, 2, example_inputs=X)


def test_a_parameter_of_another_model_stays_its_own_and_no_graph_copies_it() -> None:
    stranger = nn.Linear(6, 6).double()
    model = indirect(lambda model: lambda x: model.first(stranger(x)))
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert isinstance(grown, Indirect)
    grown(X).sum().backward()
    assert stranger.weight.grad is not None
    with pytest.raises(FxgrowError, match="a parameter that is not the model's own"):
        fxgrow.grow(model, 2, example_inputs=X, form="graph")


@pytest.mark.parametrize("owner", ["", "middle"])
def test_a_forward_that_was_given_by_hand_is_what_runs(owner: str) -> None:
    model = indirect(closure)
    part = model.get_submodule(owner)
    plainly = part.forward
    part.forward = lambda x: plainly(x) * 2 + 1  # type: ignore[method-assign]
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert worst_error(model, grown, (X,), True) <= 1e-10


def test_functions_that_refer_to_nothing_exchanged_stay_the_same() -> None:
    layer, seen = nn.Linear(2, 2), [0]

    def counting(x: Tensor) -> Tensor:
        seen[0] += 1
        return x

    layer.counting, layer.halved = counting, functools.partial(torch.mul, other=0.5)  # type: ignore[assignment]
    twin = copy.copy(layer)
    exchange([twin], {id(nn.Linear(2, 2)): layer})
    assert twin.counting is counting and twin.halved is layer.halved


class Triangular(nn.Module):
    """Keeps index arrays of numpy, one of them twice in a tuple."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.low, self.diagonal = np.tril_indices(size, k=-1), np.diag_indices(size)
        self.size, self.entries = size, nn.Parameter(torch.randn(len(self.low[0])))
        self.scales = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.entries.new_zeros(self.size, self.size)
        weight[self.low[0], self.low[1]] = self.entries
        weight[self.diagonal[0], self.diagonal[1]] = self.scales
        return F.linear(x, weight)


def test_arrays_that_a_module_keeps_are_its_copys_own() -> None:
    model, x = nn.Sequential(Triangular(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double(), torch.randn(2, 6)
    grown: Any = fxgrow.grow(model, width=2, example_inputs=x.double())
    assert worst_error(model, grown, (x.double(),), training=True) <= 1e-14
    assert all(np.array_equal(a, b) for a, b in zip(grown[0].low, model[0].low, strict=True))
    assert grown[0].low[0] is not model[0].low[0]


PACKAGE = """
import torch
from torch import nn

class Cache:
    weight = None

class Cached(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.root, self.cache, self.using_cache = nn.Parameter(torch.randn(size, size)), Cache(), False

    def forward(self, x):
        if not self.training and self.using_cache:
            if self.cache.weight is None:
                self.cache.weight = self.root @ self.root
            return nn.functional.linear(x, self.cache.weight)
        return nn.functional.linear(x, self.root @ self.root)
"""


def test_objects_of_an_installed_package_are_put_back_and_are_the_copys_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "caching_layers.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    kind: Any = importlib.import_module("caching_layers").Cached
    model: Any = nn.Sequential(kind(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).double().eval()
    grown: Any = fxgrow.grow(model, width=2, example_inputs=torch.randn(2, 4).double())
    assert model[0].cache.weight is None and grown[0].cache is not model[0].cache
    copy.deepcopy(model)


def test_a_part_that_refers_weakly_to_its_model() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    model[0].parent = weakref.ref(model)  # type: ignore[assignment]
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert grown[0].parent() is grown and grown[0].out_features == 16
    assert str(fxgrow.report(grown).certificate.verdict) == str(fxgrow.certify(grown, model).verdict) == "PROVED"


class Tapped(nn.Module):
    """Reads what hooks keep, in a dictionary that they close over and that a part holds as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last, bank = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(16, 3), {}
        for name in ("0", "2"):
            self.layers.get_submodule(name).register_forward_hook(self.keeping(name, bank))
        self.kept = nn.Module()
        self.kept.bank = bank  # type: ignore[assignment]

    @staticmethod
    def keeping(name: str, bank: Any) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            bank[name] = output

        return hook

    def forward(self, x: Tensor) -> Tensor:
        self.layers(x)
        bank: Any = self.kept.bank
        return self.last(torch.cat([bank["0"], bank["2"]], 1).relu())  # type: ignore[no-any-return]


def test_a_dictionary_that_hooks_fill_is_the_one_that_the_grown_model_reads() -> None:
    torch.manual_seed(0)
    model = Tapped().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    bank: Any = model.kept.bank
    before = {name: tensor.shape for name, tensor in bank.items()}
    after = grown(X)
    assert type(grown) is Tapped and grown.kept.bank["0"].shape[1] == 16  # type: ignore[index, union-attr]
    assert {name: tensor.shape for name, tensor in bank.items()} == before
    assert (after - model(X)).abs().max() < 1e-12
