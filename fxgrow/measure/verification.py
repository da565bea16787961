"""Verification: the original and the grown model, run side by side on random inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.capture import ModalGraphModule, skeleton
from fxgrow.capture.inputs import Inputs, with_channels
from fxgrow.capture.skeleton import GIVEN
from fxgrow.errors import CaptureError, SettledError, VerificationError, as_error
from fxgrow.history import Verification
from fxgrow.measure.borrowing import Borrowed
from fxgrow.modules.containers import each_tensor, flat_tensors, has_fractions, in_dtype, of_precision
from fxgrow.modules.devices import callers_code, device_of, exact_device, random_state_kept, whole_float32
from fxgrow.modules.references import place_all
from fxgrow.modules.shared_state import SharedState
from fxgrow.modules.tensors import CONSTANT, as_registered, each_once, named_tensors
from fxgrow.noise import WithoutNoise
from fxgrow.planning.plan import Classes, Plan

TOLERANCE = 1e-10
"""Largest relative error that counts as the same function, for weights in float64."""

ULPS = 32
"""For weights of lower precision, which round rescaled gains and means: this many units in the last place."""

ROUNDINGS = 10
"""An error beyond the tolerance says nothing up to this many times what the last places of the inputs make."""

BUG = (
    "unless its forward draws random numbers over units that grow, this is a bug in a rule; "
    "please report the model, or pass verify=False to look into it"
)


class WithoutRounding(WithoutNoise):
    """No casts of float64 to less either, such as those of norms that compute in float32 whatever they are given.

    Whole numbers become float64 where they are cast, as they will meet what is float64 now.
    """

    _CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)
    _COARSE = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
    _EXACT = (torch.float64, torch.complex128)

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        if function in self._CASTS and not has_fractions(args[0]):
            return args[0].double()
        if args and isinstance(args[0], Tensor) and args[0].dtype in self._EXACT:
            if function in self._CASTS:
                return args[0]
            args = tuple(map(self._exact, args))
            keywords = {name: self._exact(value) for name, value in keywords.items()}
        return super().__torch_function__(function, types, args, keywords)

    def _exact(self, argument: Any) -> Any:
        coarse = isinstance(argument, torch.dtype) and argument in self._COARSE
        return of_precision(argument, torch.float64) if coarse else argument


class _Coarsest(WithoutNoise):
    """Sees what the coarsest of the floating-point numbers are that a forward computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.float64

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(function, types, args, kwargs)
        self.dtype = coarsest((self.dtype, *(tensor.dtype for tensor in flat_tensors(result))))
        return result


def coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The one of the lowest precision among those of floating-point numbers; float64 where there is none."""
    floating = (dtype.to_real() for dtype in dtypes if dtype.is_floating_point or dtype.is_complex)
    return max(floating, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)


class _NotFinite(Exception):
    """The original gives outputs that cannot be compared."""


@dataclass(frozen=True)
class Conditions:
    """How models are run: under what mode, in what precision, and the seed of what a forward draws by itself."""

    mode: Callable[[], WithoutNoise]
    dtype: torch.dtype
    seed: int


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of a model's first parameter of floating-point numbers; float64 where there is none."""
    return next((p.dtype for p in nn.Module.parameters(model) if has_fractions(p)), torch.float64).to_real()


def _ways(precision: torch.dtype, own: torch.dtype, seed: int) -> list[Conditions]:
    """The ways to try, the most exact first, as some forwards make float32 tensors of their own."""
    if precision is not torch.float64:
        return [Conditions(WithoutNoise, precision, seed)]
    exact, plain = Conditions(WithoutRounding, torch.float64, seed), Conditions(WithoutNoise, torch.float64, seed)
    return [exact, plain] if own is torch.float64 else [exact, plain, Conditions(WithoutNoise, own, seed)]


def verify(
    original: nn.Module,
    grown: nn.Module,
    inputs: Inputs,
    seed: int = 0,
    preserving: bool = True,
    modes: Sequence[bool] = (False, True),
    parts: Sequence[str] = (),
    precision: torch.dtype = torch.float64,
    plan: Plan | None = None,
) -> Verification:
    """Run copies of both in float64, in eval and in train mode, and compare every output.

    Where the growth was asked not to keep the function (`preserving=False`), the errors are measured only.

    Parameters
    ----------
    modes: whether in training, each mode to run; the error of a mode that is left out is 0.
    parts: what has grown of a model of which the rest is as it was: compared in place where the outputs that the rest
        makes of it jump with the last place.
    precision: to compute in; float64, or the dtype of the weights.
    plan: of the growth; where it has more classes, the old ones are compared, and where it has more input channels,
        new ones hold random values.

    Raises
    ------
    VerificationError: the outputs differ by more than the tolerance.
    """
    ways = _ways(precision, dtype_of(original), seed)
    for way in ways:
        try:
            values, errors = _compared(original, grown, inputs, way, modes, plan)
            break
        except CaptureError:
            if way is ways[-1]:
                raise
    of_weights = coarsest(parameter.dtype for parameter in nn.Module.parameters(grown))
    computed_in = way.dtype
    if way is not ways[0]:  # it insists on numbers of its own
        seen = _Coarsest()
        _outputs(original, values, replace(way, mode=lambda: seen), modes[:1])
        computed_in = coarsest((way.dtype, seen.dtype))
    precise = coarsest((of_weights, computed_in))
    tolerance = TOLERANCE if precise is torch.float64 else ULPS * torch.finfo(precise).eps
    names = (str(dtype).removeprefix("torch.") for dtype in (of_weights, computed_in))
    result = Verification(*errors, next(names), tolerance, seed, preserving, next(names))
    if result.verdict == "REFUTED" and parts and modes == (False,):
        error = _error_in_place(original, grown, values, way, parts, tolerance)
        result = result if error is None else replace(result, eval_error=error, in_place=True)
    if result.verdict == "REFUTED":
        step = 1 + torch.finfo(precise).eps
        own_error = max(_rounding(original, values, way, mode, step) for mode in modes)
        if not result.in_place and max(errors) <= ROUNDINGS * own_error:
            raise VerificationError(
                f"the comparison says nothing: outputs differ by {max(errors):.1e}, the tolerance is {tolerance:.0e}, "
                f"and the original's own move by {own_error:.1e} where the last places of its inputs do",
                where=type(original).__name__,
                remedy="pass example_inputs of larger batches or images, over which batch norms have more to average, "
                "or verify=False",
            )
        raise VerificationError(
            f"the grown model differs from the original: {result}",
            where=type(original).__name__,
            remedy=BUG,
        )
    return result


def _compared(
    original: nn.Module, grown: nn.Module, inputs: Inputs, way: Conditions, modes: Sequence[bool], plan: Plan | None
) -> tuple[Inputs, tuple[float, float]]:
    """Inputs that can be compared on, drawn or else as given, and the errors on them."""
    mode = ""
    for given in (False, True):  # numbers of either sign are drawn, which not every model takes
        values = random_inputs(inputs, way.seed, given=given)
        try:
            return values, _errors(original, grown, values, way, modes, plan)
        except _NotFinite as error:
            mode = str(error)
        except CaptureError as error:
            if given or isinstance(error, SettledError):
                raise
    raise VerificationError(
        f"the original model's own outputs are not finite in {mode} mode",
        where=type(original).__name__,
        remedy="pass example_inputs that it takes, check its weights, or pass verify=False if outputs may be infinite",
    )


def _errors(
    original: nn.Module,
    grown: nn.Module,
    inputs: Inputs,
    way: Conditions,
    modes: Sequence[bool],
    plan: Plan | None,
) -> tuple[float, float]:
    """The error in eval and in train mode; each model runs in one mode after the other, on the same inputs."""
    where, fails = type(original).__name__, "the model itself does not run on inputs of these shapes and dtypes"
    with as_error(
        CaptureError, fails, where=where, remedy="pass example_inputs as the model is called, or verify=False"
    ):
        before = _outputs(original, inputs, way, modes)
    for training, outputs in before.items():
        if not all(torch.isfinite(tensor).all() for tensor in outputs):
            raise _NotFinite("train" if training else "eval")
    generator = torch.Generator().manual_seed(way.seed + 1)
    more = with_channels(inputs, plan.channels, lambda s: torch.randn(s, generator=generator)) if plan else inputs
    fails = "the grown model does not run"
    try:
        with as_error(VerificationError, fails, where=where, remedy=BUG, but=(SettledError,)):
            after = _outputs(grown, more, way, modes)
    except SettledError as error:
        if way.dtype is not dtype_of(original):
            raise  # a graph that holds for the model's own precision
        raise VerificationError(f"{fails}: {error.what}", where=where, remedy=error.remedy or BUG) from error
    if plan is not None and plan.classes is not None:
        after = {
            mode: [_old_classes(*pair, plan.classes) for pair in zip(after[mode], before[mode], strict=True)]
            for mode in modes
        }
    first, second = (_worst(before[mode], after[mode]) if mode in modes else 0.0 for mode in (False, True))
    return first, second


def _old_classes(after: Tensor, before: Tensor, classes: Classes) -> Tensor:
    """An output without its new classes."""
    for axis, (now, was) in enumerate(zip(after.shape, before.shape, strict=False)):
        if (was, now) == (classes.old, classes.new):
            return after.narrow(axis, 0, was)
    return after


def _error_in_place(
    original: nn.Module, grown: nn.Module, inputs: Inputs, way: Conditions, parts: Sequence[str], tolerance: float
) -> float | None:
    """The error of what parts give in place; None where the original's outputs do not hang on its rounding."""
    generator = torch.Generator().manual_seed(way.seed)

    def nudged(value: Tensor) -> Tensor:
        if not value.dtype.is_floating_point:
            return value
        signs = torch.randint(-1, 2, value.shape, generator=generator).to(value.device, value.dtype)
        return value * (1 + torch.finfo(value.dtype).eps * signs)

    recorded: dict[nn.Module, list[Tensor]] = {original: [], grown: []}

    def keep(model: nn.Module) -> Callable[[Any], None]:
        return lambda output: recorded[model].extend(tensor.clone() for tensor in flat_tensors(output))

    plain, _ = (_outputs(model, inputs, way, (False,), parts, keep(model))[False] for model in (original, grown))
    moved = _outputs(original, inputs, way, (False,), parts, lambda output: each_tensor(output, nudged))[False]
    return _worst(*recorded.values()) if _worst(plain, moved) > tolerance else None


def _outputs(
    model: nn.Module,
    inputs: Inputs,
    way: Conditions,
    modes: Sequence[bool],
    parts: Sequence[str] = (),
    watch: Callable[[Any], Any] = lambda output: None,
) -> dict[bool, list[Tensor]]:
    """What a copy of a model gives in each mode; what its forward draws by itself is the same for all.

    watch: sees what the parts give, and may give something else for it.
    """
    twin = in_precision(model, way.dtype, share=True)
    device = device_of(twin)
    for path in parts:
        twin.get_submodule(path).register_forward_hook(lambda module, arguments, output: watch(output))
    by_mode: dict[bool, list[Tensor]] = {}
    try:
        for training in modes:
            args, kwargs = in_dtype(inputs, way.dtype, device)
            with torch.no_grad(), way.mode(), Borrowed(twin), random_state_kept(device, way.seed), whole_float32():
                with callers_code(), SharedState(twin):
                    twin.train(training)
                    outputs = twin(*args, **kwargs)
                by_mode[training] = [tensor.clone() for tensor in flat_tensors(outputs)]
    finally:
        release(twin, model)
    return by_mode


def _rounding(original: nn.Module, inputs: Inputs, way: Conditions, training: bool, step: float) -> float:
    """How far the outputs move where every entry of the inputs does, by a factor of `step`."""
    precise = in_dtype(inputs, way.dtype)
    moved = each_tensor(precise, lambda value: value * step if has_fractions(value) else value)
    return _worst(*(_outputs(original, run_inputs, way, (training,))[training] for run_inputs in (inputs, moved)))


def _worst(before: list[Tensor], after: list[Tensor]) -> float:
    if len(before) != len(after):
        return float("inf")
    return max((relative_error(b, a) for a, b in zip(before, after, strict=True)), default=0.0)


def in_precision(model: nn.Module, dtype: torch.dtype = torch.float64, share: bool = False) -> nn.Module:
    """A copy of a model whose floating-point weights and buffers are of one dtype; on the CPU if its device lacks it.

    share: parameters that are of that dtype already share its memory, unless modules may write there when they are
        switched to another mode; `Borrowed` puts back what a forward writes there.
    """
    switched = (nn.Module.train, ModalGraphModule.train)
    share = share and all(type(part).train in switched for part in model.modules())

    def fitting(parameter: Tensor) -> bool:
        fits = parameter.dtype is of_precision(parameter.dtype, dtype)
        return share and fits and exact_device(parameter.device, dtype) == parameter.device

    if isinstance(model, fx.GraphModule):
        borrowed = {id(p): nn.Parameter(p.data, p.requires_grad) for p in nn.Module.parameters(model) if fitting(p)}
        copied, device = copy.deepcopy(model, borrowed), exact_device(device_of(model), dtype)
        copied = copied if device == device_of(model) else copied.to(device)
        for name, tensor in named_tensors(copied).items():
            if not name.rpartition(".")[2].startswith(CONSTANT):
                tensor.data = tensor.data.to(of_precision(tensor.dtype, dtype))
        return copied
    twin = skeleton(model)  # not deepcopy, which some of torch's layers do not survive
    tensors = named_tensors(model)

    def converted(name: str) -> Tensor:
        tensor, data = tensors[name], tensors[name].data  # not detach(), which counts writes with the model's own
        if not (isinstance(tensor, nn.Parameter) and fitting(tensor)):
            data = data.to(exact_device(tensor.device, dtype)).to(of_precision(tensor.dtype, dtype), copy=True)
        return as_registered(data, tensor)

    place_all(twin, each_once(tensors, converted))
    return twin


def release(twin: nn.Module, model: nn.Module | None = None) -> None:
    """Let go of a copy's tensors at once: its modules are held until collected, by its graph or by what made them.

    model: of which it is a copy, where modules inside are let go of as well; what is the model's own is left alone.
    """
    own = {twin} if model is None else {*twin.modules()} - {*model.modules()}
    for module in own:
        for entries in (module._modules, module._parameters, module._buffers):
            entries.clear()


def relative_error(grown: Tensor, original: Tensor) -> float:
    """max |grown - original| / max |original|; infinite where shapes differ or values are not finite."""
    grown, original = (tensor.to(exact_device(tensor.device)) for tensor in (grown, original))
    if grown.shape != original.shape or not bool(torch.isfinite(grown).all() and torch.isfinite(original).all()):
        return float("inf")
    if original.numel() == 0:
        return 0.0
    exact = torch.complex128 if original.is_complex() or grown.is_complex() else torch.float64
    difference = (grown.to(exact) - original.to(exact)).abs().max().item()
    scale = original.to(exact).abs().max().item()
    return difference / scale if scale > 0 else difference


def random_inputs(inputs: Inputs, seed: int, device: torch.device | None = None, given: bool = False) -> Inputs:
    """Real float64 inputs of the shapes of meta ones; indices, lengths and masks are those that the user gave.

    Where there are none, integers stay small and booleans are True. They are drawn on the CPU, so that they are the
    same for every device.

    given: whether numbers with a fraction, too, are what the user gave.
    """
    generator = torch.Generator().manual_seed(seed)

    def real(value: Tensor) -> Tensor:
        own, exact = getattr(value, GIVEN, None), of_precision(value.dtype, torch.float64)
        if own is not None and (given or not has_fractions(value)):
            return own.detach().cpu().to(exact, copy=True)  # type: ignore[no-any-return]
        if has_fractions(value):
            return torch.randn(value.shape, generator=generator, dtype=exact)
        if value.dtype is torch.bool:
            return torch.ones(value.shape, dtype=torch.bool)
        return torch.randint(0, 2, value.shape, generator=generator, dtype=value.dtype)

    return each_tensor(inputs, lambda value: real(value).to(device))  # type: ignore[no-any-return]
