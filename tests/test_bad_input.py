"""Whatever is wrong with a call, the error says what, where and what to do, and the model stays as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as distributed
from torch import Tensor, fx, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune, spectral_norm

import fxgrow
from fxgrow.errors import (
    AmountError,
    CaptureError,
    FileError,
    FxgrowError,
    PlanError,
    UntraceableError,
    VerificationError,
)
from fxgrow.proof.certificate import Verdict
from tests.models import TwoInputs, UNet, perceptron

AMOUNT = 'pass a factor of at least 1 such as 1.5, or a string such as "+32" (32 more) or "=96" (exactly 96)'
PART = 'name a part, as in {"layer3": 2.0}'
AS_CALLED = "pass example_inputs as the model is called"
RIGHT_SHAPES = "pass example_inputs of the shapes and dtypes that the model takes"
AROUND = "or grow the parts around it"
TENSOR_OPERATIONS = f"rewrite it in terms of tensor operations, {AROUND}"
HOOKED = "take the pruning or old-style spectral norm off, or use torch.nn.utils.parametrizations"
GROWN_ONLY = "pass a module that fxgrow.grow or fxgrow.load returned"

ROW = torch.randn(2, 5)


# -- what every test asserts -------------------------------------------------------------------------------


def remembered(value: Any) -> Any:
    """A copy of an entry of a state dict; lazy tensors have nothing to copy."""
    if isinstance(value, Tensor):
        return type(value) if is_lazy(value) else value.detach().clone()
    return tuple(map(remembered, value)) if isinstance(value, tuple) else value


def assert_same(before: Any, after: Any) -> None:
    if isinstance(before, Tensor):
        torch.testing.assert_close(after.detach(), before, rtol=0, atol=0, equal_nan=True)
    elif isinstance(before, tuple):
        for old, new in zip(before, after, strict=True):
            assert_same(old, new)
    else:
        assert remembered(after) == before


def error_of(call: Callable[[], Any], *models: Any) -> FxgrowError:
    """The error a call raises, once the models are known to be as they were, with parts of them in eval mode."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    for model in modules:
        for number, part in enumerate(model.modules()):
            part.training = number % 2 == 0
    states = [{name: remembered(value) for name, value in model.state_dict().items()} for model in modules]
    flags = [[part.training for part in model.modules()] for model in modules]
    with pytest.raises(FxgrowError) as caught:
        call()
    assert [[part.training for part in model.modules()] for model in modules] == flags
    for model, state in zip(modules, states, strict=True):
        after = model.state_dict()
        assert list(after) == list(state)
        for name, value in state.items():
            assert_same(value, after[name])
    return caught.value


def assert_refused(
    kind: type[FxgrowError], text: str, model: Any, width: Any = 2, example_inputs: Any = ROW, **options: Any
) -> None:
    """`grow` refuses, and so does `plan` unless only growing itself can tell."""
    calls = [lambda: fxgrow.grow(model, width, example_inputs=example_inputs, **options)]
    if kind in (AmountError, CaptureError, UntraceableError):
        calls.append(lambda: fxgrow.plan(model, width, example_inputs=example_inputs, **options))
    for call in calls:
        error = error_of(call, model)
        assert str(error) == text
        assert type(error) is kind


def torch_says(call: Callable[[], Any]) -> str:
    """The first line of what torch itself says of a call, which changes from version to version."""
    with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
        call()
    return str(caught.value).strip().splitlines()[0].rstrip(". ")


def with_linear(part: nn.Module) -> nn.Module:
    """The part as the middle one of three."""
    return nn.Sequential(nn.Linear(5, 5), part, nn.Linear(5, 2))


# -- amounts -----------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Branches that share one dimension, defined in the order given."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(5, 8))
        self.names = sorted(names)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(sum(self.get_submodule(name)(x) for name in self.names)))


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (0.5, f"a factor of 0.5 would shrink the model: {AMOUNT}"),
        (-1, f"a factor of -1 would shrink the model: {AMOUNT}"),
        ("0.5", f"a factor of 0.5 would shrink the model: {AMOUNT}"),
        ("big", f"'big' is not an amount to grow by: {AMOUNT}"),
        ("", f"'' is not an amount to grow by: {AMOUNT}"),
        (float("nan"), f"nan is not an amount to grow by: {AMOUNT}"),
        (float("inf"), f"inf is not an amount to grow by: {AMOUNT}"),
        ("1e400", f"'1e400' is not an amount to grow by: {AMOUNT}"),
        (True, f"True is not an amount to grow by: {AMOUNT}"),
        ([2], f"[2] is not an amount to grow by: {AMOUNT}"),
        (None, "no amount to grow by was given: pass width=1.5, depth=1.5, or a mapping of module paths"),
        ({}, f"the mapping of amounts is empty: {PART}"),
        ({3: 2}, f"3 is not a module path: {PART}"),
        ({"": 2}, f"'' is not a module path: {PART}"),
        ({"left": "big"}, f"'big' is not an amount to grow by (at left): {AMOUNT}"),
        ({"left": 0.5}, f"a factor of 0.5 would shrink the model (at left): {AMOUNT}"),
        ({"left": None}, f"None is not an amount to grow by (at left): {AMOUNT}"),
        ({"leftt": 2}, "the key matches no module of the model (at leftt): did you mean left?"),
        ({"left": 2, "Left": 2}, "the key matches no module of the model (at Left): did you mean left?"),
        (
            {"backbone": 2},
            "the key matches no module of the model (at backbone): name a module of the model, or a glob over them",
        ),
        (
            {"left.weight": 2},
            "the key matches no module of the model (at left.weight): name a module of the model, or a glob over them",
        ),
        (
            "=4",
            "exactly 4 units were asked for, which is fewer than the 8 there are (at left.weight[0]): " + AMOUNT,
        ),
        (
            {"risk": "=7"},
            "exactly 7 units were asked for, which is fewer than the 8 there are (at risk.weight[0]): " + AMOUNT,
        ),
        (
            {"l*t": 2, "?e??": 2, "??ft": 3},
            "'l*t' and '??ft' cover it with different amounts (at left): make one of the keys more specific",
        ),
        (
            {"left": 2, "risk": 3},
            "'left' and 'risk' ask different amounts for one dimension, left.weight[0] and risk.weight[0] "
            "(at risk): ask the same, or add a key for a part within one of them",
        ),
    ],
    ids=str,
)
def test_widths_that_mean_nothing(width: Any, text: str) -> None:
    assert_refused(AmountError, text, Branches("left", "risk"), width)


@pytest.mark.parametrize("width", [10**400, "+" + "9" * 5000], ids=["factor", "addition"])
def test_widths_too_long_for_a_number(width: Any) -> None:
    assert_refused(AmountError, f"{width!r} is not an amount to grow by: {AMOUNT}", perceptron(), width)


def test_a_width_that_no_tensor_can_have() -> None:
    model = perceptron()
    error_of(lambda: fxgrow.grow(model, 1e300, example_inputs=ROW), model)


@pytest.mark.parametrize("names", [("left", "risk", "centre"), ("left", "centre", "risk"), ("centre", "risk", "left")])
def test_parts_that_share_a_dimension_have_to_agree_in_any_order(names: tuple[str, ...]) -> None:
    with pytest.raises(AmountError, match="ask different amounts for one dimension"):
        fxgrow.grow(Branches(*names), {"left": 2, "risk": 3, "centre": 4}, example_inputs=ROW)


@pytest.mark.parametrize("init", ["foo", "Zero", "", None, ["zero"]], ids=repr)
def test_an_unknown_init(init: Any) -> None:
    text = f"init={init!r} is not a way to start new units: use one of zero, mirror, replicate, gradmax"
    assert_refused(AmountError, text, perceptron(), init=init)


@pytest.mark.parametrize("round_to", [0, -8, 1.5, True, "8", None], ids=repr)
def test_a_round_to_that_is_no_multiple(round_to: Any) -> None:
    text = f"round_to={round_to!r} is not a whole number of units: use 1, or a multiple such as 8"
    assert_refused(AmountError, text, perceptron(), round_to=round_to)


@pytest.mark.parametrize("seed", [1.5, "first", None, 2**70], ids=repr)
def test_a_seed_that_is_no_whole_number(seed: Any) -> None:
    model = perceptron()
    error = error_of(lambda: fxgrow.grow(model, 2, example_inputs=ROW, seed=seed), model)
    assert str(error).startswith(f"seed={seed!r} ")
    assert type(error) is AmountError


# -- example inputs ----------------------------------------------------------------------------------------


def test_example_inputs_that_cannot_be_derived() -> None:
    text = (
        "the shape of the inputs of Sequential cannot be derived: "
        "pass example_inputs, a tensor or a tuple of tensors of the right shapes"
    )
    assert_refused(CaptureError, text, perceptron(), example_inputs=None)


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [("x", "str"), (3, "int"), ({ROW}, "set"), (np.zeros((2, 5)), "ndarray"), (nn.Linear(5, 5), "Linear")],
    ids=["text", "number", "set", "array", "module"],
)
def test_example_inputs_of_the_wrong_type(inputs: Any, kind: str) -> None:
    text = f"example_inputs is a {kind}: pass a tensor, a tuple of arguments or a dict of keyword arguments"
    assert_refused(CaptureError, text, perceptron(), example_inputs=inputs)


def test_keyword_arguments_whose_names_are_no_strings() -> None:
    text = "example_inputs has the key 1, which is not the name of an argument: pass a dict of keyword arguments"
    assert_refused(CaptureError, text, perceptron(), example_inputs={1: ROW})


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ((ROW, ROW), "too many positional arguments"),
        ((), "missing a required argument: 'input'"),
        ({}, "missing a required argument: 'input'"),
        ({"inputt": ROW}, "missing a required argument: 'input'"),
        ({"input": ROW, "mask": ROW}, "got an unexpected keyword argument 'mask'"),
    ],
    ids=["too many", "none", "no keywords", "wrong keyword", "unknown keyword"],
)
def test_example_inputs_that_the_forward_does_not_take(inputs: Any, complaint: str) -> None:
    text = f"the model's forward does not take these inputs: {complaint} (at Sequential): {AS_CALLED}"
    assert_refused(CaptureError, text, perceptron(), example_inputs=inputs)


def test_example_inputs_without_a_sample() -> None:
    text = "example_inputs has no entries, with shapes [[0, 5]]: pass at least one sample"
    assert_refused(CaptureError, text, perceptron(), example_inputs=ROW[:0])


@pytest.mark.parametrize("shape", [(2, 6), ()], ids=str)
def test_example_inputs_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    wrong = torch.empty(shape)
    reason = torch_says(lambda: nn.Linear(5, 8).to("meta")(wrong.to("meta")))
    text = f"Linear fails on inputs of shapes [{list(shape)}]: {reason} (at 0): {RIGHT_SHAPES}"
    assert_refused(CaptureError, text, perceptron(), example_inputs=wrong)


@pytest.mark.parametrize("wrong", ["x", 3, None], ids=repr)
def test_arguments_that_are_no_tensors(wrong: Any) -> None:
    reason = torch_says(lambda: nn.Linear(5, 8).to("meta")(wrong))
    text = f"Linear fails on inputs of shapes []: {reason} (at 0): {RIGHT_SHAPES}"
    assert_refused(CaptureError, text, perceptron(), example_inputs=(wrong,))


def test_example_inputs_of_the_wrong_rank_deep_in_a_model() -> None:
    wrong = torch.empty(2, 4)
    reason = torch_says(lambda: nn.Conv2d(3, 6, 3).to("meta")(wrong.to("meta")))
    text = f"Conv2d fails on inputs of shapes [[2, 4]]: {reason} (at image.0): {RIGHT_SHAPES}"
    assert_refused(CaptureError, text, TwoInputs(), example_inputs=(wrong, torch.empty(2, 3, 8, 8)))


def test_sizes_that_do_not_fit_where_branches_join() -> None:
    first, second = torch.empty(2, 16, 6, 6, device="meta"), torch.empty(2, 16, 7, 7, device="meta")
    reason = torch_says(lambda: torch.cat([first, second], dim=1))
    text = f"cat fails on inputs of shapes [[2, 16, 6, 6], [2, 16, 7, 7]]: {reason} (at UNet): {RIGHT_SHAPES}"
    assert_refused(CaptureError, text, UNet(), example_inputs=torch.empty(2, 3, 15, 15))


def test_a_batch_of_one_for_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    reason = torch_says(lambda: nn.BatchNorm1d(8)(torch.empty(1, 8)))
    text = f"BatchNorm1d fails on inputs of shapes [[1, 8]]: {reason} (at 1): {RIGHT_SHAPES}"
    assert_refused(CaptureError, text, model, example_inputs=torch.empty(1, 5))


def test_example_inputs_of_an_integer_dtype() -> None:
    model = perceptron()
    error = error_of(lambda: fxgrow.grow(model, 2, example_inputs=torch.zeros(2, 5, dtype=torch.long)), model)
    assert type(error) is CaptureError


class Pair(NamedTuple):
    one: Tensor
    other: Tensor


class OfPairs(nn.Module):
    """Takes one argument, a pair of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.leave = nn.Linear(8, 2)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.leave(torch.relu(self.enter(pair[0] + pair[1])))


@pytest.mark.parametrize("pair", [(ROW, ROW), [ROW, ROW], Pair(ROW, ROW)], ids=["tuple", "list", "named tuple"])
def test_containers_of_tensors_are_good_inputs(pair: Any) -> None:
    grown = fxgrow.grow(OfPairs(), 2, example_inputs=(pair,))
    assert grown.get_submodule("enter").out_features == 16


# -- forwards that no graph can have -----------------------------------------------------------------------


class WithLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)


class Branching(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if y.sum() > 0:
            return y
        return -y


class Looping(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        while x.norm() > 1:
            x = 0.1 * self.linear(x)
        return x


class Asserting(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        assert x.abs().max() < 1e9
        return self.linear(x)


class TakingItem(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * x.max().item()


class TakingList(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * x.tolist()[0][0]


class TakingFloat(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * float(x.max())


class CallingNumpy(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(self.linear(x).detach().cpu().numpy()))


class ConvertedByNumpy(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(np.tanh(self.linear(x).detach()))


class Counting(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.bincount((x[:, 0] > 0).long(), self.linear(x)[:, 0])


@pytest.mark.parametrize("kind", [Branching, Looping, Asserting])
def test_control_flow_on_values(kind: type[WithLinear]) -> None:
    problem = "control flow needs the values of a tensor, which no graph over shapes can have"
    assert_refused(UntraceableError, f"{problem} (at {kind.__name__}): {TENSOR_OPERATIONS}", kind())
    assert_refused(UntraceableError, f"{problem} (at 1): {TENSOR_OPERATIONS}", with_linear(kind()))


@pytest.mark.parametrize(
    ("kind", "op"),
    [
        (TakingItem, "item"),
        (TakingList, "tolist"),
        (TakingFloat, "float"),
        (CallingNumpy, "numpy"),
        (ConvertedByNumpy, "numpy"),
        (Counting, "bincount"),
    ],
)
def test_values_taken_out_of_tensors(kind: type[WithLinear], op: str) -> None:
    problem = f"{op} needs the values of a tensor, which no graph over shapes can have"
    assert_refused(UntraceableError, f"{problem} (at {kind.__name__}): {TENSOR_OPERATIONS}", kind())
    assert_refused(UntraceableError, f"{problem} (at 1): {TENSOR_OPERATIONS}", with_linear(kind()))


@pytest.mark.parametrize("kind", [nn.Module, nn.ModuleList, nn.ModuleDict])
def test_modules_without_a_forward(kind: type[nn.Module]) -> None:
    name = kind.__name__
    text = (
        f'the forward cannot be captured: Module [{name}] is missing the required "forward" function (at {name}): '
        "pass a module that has a forward"
    )
    assert_refused(CaptureError, text, kind())


# -- what is not an ordinary model with its weights in place -----------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind"),
    [("resnet", "str"), (None, "NoneType"), (nn.Linear, "type"), (torch.relu, "builtin_function_or_method")],
)
def test_what_is_not_a_module(model: Any, kind: str) -> None:
    assert_refused(CaptureError, f"a {kind} is not a model: pass a torch.nn.Module", model)


def test_lazy_modules() -> None:
    remedy = "run the model once on an example first"
    assert_refused(CaptureError, f"LazyLinear is lazy and has no shape yet: {remedy}", nn.LazyLinear(3))
    model = with_linear(nn.LazyBatchNorm1d())
    assert_refused(CaptureError, f"LazyBatchNorm1d is lazy and has no shape yet (at 1): {remedy}", model)


def test_quantised_models() -> None:
    model = torch.ao.quantization.quantize_dynamic(perceptron(), {nn.Linear})
    text = "Linear is quantised (at 0): grow the floating-point model and quantise afterwards"
    assert_refused(CaptureError, text, model)


def test_scripted_models() -> None:
    remedy = "pass the model from before torch.jit.script"
    assert_refused(CaptureError, f"the model is a TorchScript module: {remedy}", torch.jit.script(perceptron()))


def test_traced_models() -> None:
    text = "the model is a TorchScript module: pass the model from before torch.jit.trace"
    assert_refused(CaptureError, text, torch.jit.trace(perceptron(), ROW))


def test_data_parallel() -> None:
    text = "the model is wrapped in DataParallel: pass model.module"
    assert_refused(CaptureError, text, DataParallel(perceptron()))


def test_data_parallel_around_a_part() -> None:
    text = "a part of the model is wrapped in DataParallel (at 1): put its .module in its place"
    assert_refused(CaptureError, text, with_linear(DataParallel(nn.Linear(5, 5))))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel() -> None:
    text = "the model is wrapped in DistributedDataParallel: pass model.module"
    assert_refused(CaptureError, text, DistributedDataParallel(perceptron()))


def test_compiled_models() -> None:
    text = "the model is wrapped in OptimizedModule: pass the model from before torch.compile (model._orig_mod)"
    assert_refused(CaptureError, text, torch.compile(perceptron()))


def pruned(linear: nn.Module) -> nn.Module:
    return prune.l1_unstructured(linear, "weight", amount=0.3)


def without_gradients(model: nn.Module) -> None:
    with torch.no_grad():
        model(ROW)


def frozen(model: nn.Module) -> None:
    model.requires_grad_(False)(ROW)


def as_built(model: nn.Module) -> None:
    """Leave the model alone."""


@pytest.mark.parametrize("use", [as_built, without_gradients, frozen])
@pytest.mark.parametrize("hooking", [pruned, spectral_norm])
def test_weights_computed_by_old_style_hooks(
    hooking: Callable[[nn.Module], nn.Module], use: Callable[[nn.Module], None]
) -> None:
    layers = [nn.Linear(5, 6), hooking(nn.Linear(6, 6)), nn.Linear(6, 6), nn.Linear(6, 2)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    use(model)
    text = f"weight of Linear is computed from other parameters by a hook (at 2): {HOOKED}"
    assert_refused(CaptureError, text, model)


# -- models that cannot grow, or cannot be verified --------------------------------------------------------


@pytest.mark.parametrize("model", [nn.Linear(5, 3), nn.ReLU(), nn.Sequential()], ids=lambda model: type(model).__name__)
def test_nothing_that_can_grow(model: nn.Module) -> None:
    text = (
        f"nothing in the model would grow (at {type(model).__name__}): "
        "pass a model with a dimension between its inputs and its outputs, which themselves never grow"
    )
    assert_refused(PlanError, text, model)


def test_nothing_that_would_grow_with_the_reason() -> None:
    text = (
        "nothing in the model would grow; 0.weight[0]: x1 of 8 rounds to 8 (at Sequential): "
        "see fxgrow.plan for all reasons"
    )
    assert_refused(PlanError, text, perceptron(), "+0")
    assert "x1 of 8 rounds to 8" in str(fxgrow.plan(perceptron(), "+0", example_inputs=ROW))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_models_whose_own_outputs_are_not_finite(value: float) -> None:
    model = perceptron()
    with torch.no_grad():
        model.get_submodule("5").bias.fill_(value)
    text = (
        "the original model's own outputs are not finite in eval mode (at Sequential): "
        "pass example_inputs that it takes, check its weights, or pass verify=False if outputs may be infinite"
    )
    assert_refused(VerificationError, text, model)
    assert fxgrow.report(fxgrow.grow(model, 2, example_inputs=ROW, verify=False)).verification is None


# -- what was not grown ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", [perceptron(), fx.symbolic_trace(perceptron()), "resnet", None], ids=lambda m: type(m).__name__
)
def test_what_was_not_grown_has_no_report_no_births_and_no_file(module: Any, tmp_path: Path) -> None:
    name = type(module).__name__
    births = error_of(lambda: fxgrow.births(module), module)
    assert str(births) == f"{name} was not grown by fxgrow: {GROWN_ONLY}"
    assert type(births) is FxgrowError
    file = error_of(lambda: fxgrow.save(module, tmp_path / "grown.safetensors"), module)
    assert str(file) == f"{name} was not grown by fxgrow: save what fxgrow.grow returned, or use torch.save"
    assert type(file) is FileError
    assert list(tmp_path.iterdir()) == []
    report = error_of(lambda: fxgrow.report(module), module)
    assert str(report) == f"{name} was not grown by fxgrow: {GROWN_ONLY}"
    assert type(report) is FxgrowError


class Half(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


class WithoutFrozen(Half):
    def named_parameters(self, *args: Any, **options: Any) -> Any:
        return [(name, p) for name, p in super().named_parameters(*args, **options) if p.requires_grad]


class WithoutFirst(Half):
    def named_modules(self, *args: Any, **options: Any) -> Any:
        return [(name, part) for name, part in super().named_modules(*args, **options) if not name.endswith("0")]


class WithoutOptions(Half):
    def named_buffers(self) -> Any:  # type: ignore[override]
        return iter(())


@pytest.mark.parametrize(
    ("kind", "method"),
    [(WithoutFrozen, "named_parameters"), (WithoutFirst, "named_modules"), (WithoutOptions, "named_buffers")],
)
@pytest.mark.parametrize("inside", [False, True])
def test_methods_that_hide_what_a_model_has(kind: type[nn.Module], method: str, inside: bool) -> None:
    part = kind()
    part[0].bias.requires_grad_(False)
    place = " (at 1)" if inside else ""
    text = f"{method} of {kind.__name__} does not give what torch's own would{place}: call the method otherwise"
    with pytest.raises(CaptureError, match=re.escape(text)):
        fxgrow.grow(nn.Sequential(nn.Linear(6, 6), part) if inside else part, width=2, example_inputs=torch.randn(3, 6))


class Grouped(Half):
    def parameters(self, recurse: bool = True) -> Any:
        return [{"params": [*super().parameters(recurse)], "lr": 0.1}]


class Ordered(Half):
    def named_parameters(self, *args: Any, **options: Any) -> Any:
        return reversed([*super().named_parameters(*args, **options)])


@pytest.mark.parametrize("kind", [Grouped, Ordered])
@pytest.mark.parametrize("inside", [False, True])
def test_methods_that_give_what_a_model_has_otherwise(kind: type[nn.Module], inside: bool) -> None:
    model, x = nn.Sequential(nn.Linear(6, 6), kind()) if inside else kind(), torch.randn(3, 6)
    grown = fxgrow.grow(model, width=2, example_inputs=x, calibrate=x)
    assert type(grown) is type(model) and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
