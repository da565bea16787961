"""Recording: a model's own forward runs on tensors without data, and every operation becomes a node of a graph."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from fxgrow.capture import call_guards, contexts, gradients, numbers, operators
from fxgrow.capture.builder import GraphBuilder
from fxgrow.capture.evaluation import Memory, identity, minds_samples, told
from fxgrow.capture.expansions import EXPANSIONS, call_spelled_out
from fxgrow.capture.interception import HOOKED_WHOLE, between_hooks, intercepted, whole
from fxgrow.capture.masks import ALL, asks_for_places, masked, places
from fxgrow.capture.methods import modules_called, noting
from fxgrow.capture.numbers import Float, Int, plain
from fxgrow.capture.operators import call_of, is_method, opened, operator_of
from fxgrow.capture.relations import Relation
from fxgrow.capture.shapes import call_failed, needs_values, staying
from fxgrow.capture.supposed import SUPPOSITIONS
from fxgrow.errors import CaptureError, FxgrowError
from fxgrow.modules.containers import each_of_kind, each_tensor, flat_tensors, holds_tensor, with_dictionaries
from fxgrow.modules.replacing import replaced
from fxgrow.opaque import CustomFunction, has_hooks, hooked
from fxgrow.rules import registry
from fxgrow.rules.calls import draws

_TRANSPOSED = {"T": "permute", "mT": "transpose", "H": "permute", "mH": "transpose"}
"""Properties that are other views of a tensor, by the method that makes them."""

_EMPTY = frozenset(("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"))
"""Functions whose result holds whatever was in memory."""

_DEVICE_FLAGS = {"is_meta": "meta", "is_cpu": "cpu", "is_cuda": "cuda", "is_mps": "mps", "is_xpu": "xpu"}

FEATURES = "forward_features"
"""What models of timm's call the part of their forward before the head."""

Shapes = dict[tuple[str, str], list[tuple[int, ...]]]
"""Of what goes "in" to modules and comes "out" of them, by path and side."""

_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class Recorder(GraphBuilder, TorchFunctionMode):
    """Records what a forward does to tensors without data.

    Parameters
    ----------
    root: the model that runs, every tensor on the meta device; it is consumed.
    device: the device that tensors report.
    functions: collects the functions with a backward of their own, to be added to the model under these names.
    constants: collects the tensors that forwards make of numbers alone, likewise; one name for equal ones.
    memory: what calls gave in other recordings of the model.
    originals: the names of the tensors of the model that the root is a copy of, by their identities.

    Attributes
    ----------
    by_mode: whether the forward asked for the mode of a module.
    """

    def __init__(
        self,
        root: nn.Module,
        device: torch.device,
        functions: dict[str, CustomFunction],
        constants: dict[str, Tensor],
        memory: Memory,
        originals: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        TorchFunctionMode.__init__(self)
        GraphBuilder.__init__(self, root, constants, originals)
        self.device = torch.device("cpu") if device.type == "meta" else device
        self.functions = functions
        self.memory = memory
        self.comparisons: set[numbers.SizeComparison] = set()
        self.relations: set[Relation] = set()
        self.count, self.counts = ALL, set[int]()
        self.regions: list[fx.Node] | None = []
        self.open: list[Any] = []
        self.by_mode = False
        self.shapes: Shapes = {}
        self.features: Any = None
        self.empty: dict[int, tuple[Tensor, Any, Any, Any]] = {}

    def record(self, arguments: Mapping[str, Any], positional: int = 0, run: Callable[..., Any] | None = None) -> Any:
        """What the forward of the root returns.

        arguments: by name, "*args" and "**kwargs" too. positional: how many are passed by their position. run: what
        to run in place of the forward.
        """
        args, kwargs = self._placeholders(arguments, positional)
        with ExitStack() as stack:
            stack.enter_context(noting(self.root, FEATURES, self._note_features))
            stack.enter_context(numbers.present(self))
            stack.enter_context(replaced(nn.Module, "_call_impl", self._module_call(nn.Module._call_impl)))
            stack.enter_context(intercepted(self))
            stack.enter_context(contexts.watched(self))
            stack.enter_context(contexts.mode_watched(self))
            stack.enter_context(torch.device("meta"))
            stack.enter_context(self)
            stack.enter_context(self.methods.inside(sys._getframe()))
            self.paths.append(("", modules_called()))
            self.switch_again(self.root)
            output = (run or self.root.forward)(*args, **kwargs)
            self.paths.pop()
        self.check_refused()
        return output

    def _note_features(self, features: Any) -> None:
        with torch._C.DisableTorchFunction():
            self.features = each_tensor(features, torch.empty_like)

    def again(self) -> Recorder:
        """A recorder of the same model, for another run of its forward."""
        return Recorder(self.root, self.device, {}, {}, Memory(), self.originals)

    def result(self, output: Any) -> Any:
        """What the forward returned, as the graph holds it."""
        with numbers.present(self):
            return self.argument(output)

    def _placeholders(self, arguments: Mapping[str, Any], positional: int) -> tuple[list[Any], dict[str, Any]]:
        """A node for each argument of the forward; what to call it with: as the user does, and numbers as nodes."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.root.forward).parameters.items():
            stars = _STARS.get(parameter.kind, "")
            key = stars + name
            default = () if parameter.default is inspect.Parameter.empty else (parameter.default,)
            if key not in arguments and not default and not stars:
                continue
            node = self.new_node("placeholder", key, default if call_guards.writable(default) else (None,), {}, None)
            empty: Any = () if stars == "*" else {} if stars else default[0] if default else None
            value = self.entering(node, arguments.get(key, empty), name)
            self.entered[name] = value, list(flat_tensors(value))
            if isinstance(value, Tensor) and default:
                self.new_node("call_function", call_guards.still_tensor, (node, name), {}, None)
            node.meta["value"] = with_dictionaries(each_tensor(value, lambda tensor: tensor))
            if stars == "*":
                args.extend(value)
            elif stars == "**":
                kwargs.update(value)
            elif len(args) < positional and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                args.append(value)
            elif key in arguments or isinstance(value, (Int, Float)):
                kwargs[name] = value
        return args, kwargs

    # -- functions and methods of tensors ------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.quiet:
            return func(*args, **(kwargs or {}))
        try:
            return self._met(func, args, kwargs or {})
        except CaptureError as error:
            raise self.refusal(error) from error

    def _met(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        if isinstance(kwargs.get("generator"), torch.Generator):
            self.settled.append(contexts.Settled("a torch.Generator of its own", self.where(), lost=True))
            kwargs = {key: value for key, value in kwargs.items() if key != "generator"}
        if name == "__get__":
            return self._get(func, args[0], getattr(func.__self__, "__name__", ""))
        if name == "__set__":
            return self._set(func, *args)
        if name == "_set_grad_enabled":
            gradients.switched(self, bool(args[0]))
            return func(*args, **kwargs)
        if not self.knows((args, kwargs)) and not draws(name):
            return self._of_literals(func, args, kwargs)
        if (spelled_out := call_spelled_out(func, args, kwargs)) is not None:
            with self:
                if (value := spelled_out(*args, **kwargs)) is not NotImplemented:
                    return value
        method = is_method(func, name, args)
        if method and name.endswith("_"):
            self._drawn_into(args[0])
        if method and name in operators.FILLING and self.knows(args):
            with self:
                args[0][...] = operators.FILLING[name](*args[1:], **kwargs)
            return args[0]
        if method and name in operators.RESHAPING and self.knows(args[0]):
            with self:
                made = getattr(args[0], name[:-1])(*args[1:], **kwargs)
            return self.reshaped(args[0], made, functools.partial(func, *args, **kwargs))
        if method and name in _QUESTIONS:
            return _QUESTIONS[name](self, func, *args, **kwargs)
        if method and name in operators.VALUE_OF and (answer := self.answer(args[0])) is not None:
            return operators.VALUE_OF[name](answer)
        if (method and name in operators.VALUES) or func is torch.autograd.grad:
            raise self.of_chance(args[0]) or self._failed(name, (), NotImplementedError())
        if asks_for_places(name, args, kwargs):
            return self._places(func, name, args, kwargs)
        if method and name in operators.HOOKING:
            self.settled.append(contexts.Settled("a hook on a tensor", self.where(), lost=True))
            return RemovableHandle(OrderedDict())  # what is recorded has no backward pass
        if name in SUPPOSITIONS:
            self.settled.append(contexts.Settled(SUPPOSITIONS[name], self.where()))
        return self._call(func, name, args, kwargs)

    def _call(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        kind, target, operands = call_of(func, name, args, kwargs)
        law = registry.law_of_method(target) if isinstance(target, str) else registry.law_of_function(target)
        if law is None and func not in self.open and (inside := opened(func)) is not None:
            self.open.append(func)
            try:
                with self:
                    return inside(*args, **kwargs)
            finally:
                self.open.pop()
        writing = name == "__setitem__"
        lowered = self.operands(operands, kwargs)
        try:
            value = self.evaluate(lambda *a, **k: staying(func, a, k), name, func, args, kwargs)
        except CaptureError:
            if (known := self.worked_out(func, args, kwargs)) is None:
                raise
            return known
        if not writing and not holds_tensor(value):
            self.note_question(name, *args[:1])
            return value
        self.operation(kind, target, lowered, value)
        return value

    def _places(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        of = masked(args, kwargs)
        of = self.bare.get(id(of), of)
        value = places(name, of, self.count, bool(kwargs.get("as_tuple")))
        self.counts.add(self.count(of.numel()))
        what = "how many entries of a mask are true: with all, one and none it does the same"
        self.settled.append(contexts.Settled(what, self.where()))
        kind = "call_method" if is_method(func, name, args) else "call_function"
        self.operation(kind, name if kind == "call_method" else func, self.operands(args, kwargs), value)
        return value

    def evaluate(self, function: Callable[..., Any], name: str, callee: Any, args: Any, kwargs: Any) -> Any:
        """What a call gives on the meta device, where tensors without values stand for those that have them."""
        if self.bare or self.quiet:  # what is one node computes with plain numbers
            kinds = (Tensor, Int, Float)
            args, kwargs = each_of_kind((args, kwargs), kinds, lambda value: self.bare.get(id(value), plain(value)))
        try:
            return self.memory.outcome(function, callee, args, kwargs)
        except FxgrowError:
            raise
        except Exception as error:
            if needs_values(error):
                raise self._failed(name, (args, kwargs), error) from error
            error.fxgrow_failed = self._failed(name, (args, kwargs), error)  # type: ignore[attr-defined]
            raise  # as it would without a recorder: the forward may catch it

    def _of_literals(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that nothing recorded goes into runs as it is, with values; what it gives is a constant."""
        self.met_aside(operator_of(func, args, kwargs), (args, kwargs))
        drawn = torch.default_generator.get_state() if not all(map(_is_number, args)) else None
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction():
            value = staying(func, args, kwargs, "cpu")
            self.note_moved(name, args, kwargs, value)
            if name in _EMPTY:
                value.zero_()  # what it holds is nobody's choice, and would be another at each run
                self.empty[id(value)] = value, func, args, kwargs
            if self.filled.makes(func, name, (args, kwargs), value):
                kind, target, operands = call_of(func, name, args, kwargs)
                made = self.operands(*each_tensor((operands, kwargs), self.filled.node_of))
                self.filled.note(value, self._node_of_call(kind, target, made, value.to("meta")))
        if drawn is not None and not torch.equal(drawn, torch.default_generator.get_state()):
            torch.default_generator.set_state(drawn)  # it draws: a call for the graph to make, again and again
            return self._call(func, name, args, kwargs)
        return value

    def _drawn_into(self, tensor: Any) -> None:
        """A tensor made empty, to be drawn into: the graph makes it, too, at each call."""
        if id(tensor) in self.empty:
            tensor, func, args, kwargs = self.empty.pop(id(tensor))
            self.bare[id(tensor)] = bare = tensor.to("meta")
            self.bind(tensor, self.operation("call_function", func, self.operands(args, kwargs), bare))

    def _failed(self, name: str, operands: Any, error: Exception) -> CaptureError:
        return call_failed(operators.SAID.get(name, name.strip("_")), self.where(), operands, error)

    def _set(self, func: Any, tensor: Tensor, value: Any) -> Any:
        """Other `data` is recorded as values that are copied into the tensor, which has the same effect."""
        if getattr(func.__self__, "__name__", "") != "data" or not self.knows((tensor, value)):
            return func(tensor, value)
        if value.shape != tensor.shape:
            raise CaptureError(
                f"the forward gives a tensor of shape {list(tensor.shape)} data of shape {list(value.shape)}",
                where=self.where(),
                remedy="grow the model as it is after that",
            )
        with self:
            tensor.detach()[...] = value
        return None

    # -- properties and sizes --------------------------------------------------------------------------------------

    def _get(self, func: Any, tensor: Tensor, name: str) -> Any:
        if not self.knows(tensor):
            with torch._C.DisableTorchFunction():
                return func(tensor)
        self.note_question(name, tensor)
        if name == "shape":
            return self.sizes_of(tensor)
        if name == "device":
            device = torch.device(str(self.device))
            self.devices[id(device)] = self.property_of(self.node_of_tensor(tensor), name, torch.device("meta"))
            self.alive.append(device)
            return device
        if name in gradients.PROPERTIES and gradients.is_made(self.nodes.get(id(tensor))):
            return gradients.PROPERTIES[name](gradients.needed_by(self.nodes[id(tensor)], self))
        if name in _DEVICE_FLAGS:
            return self.device.type == _DEVICE_FLAGS[name]
        if name == "dtype":
            dtype = func(self.bare.get(id(tensor), tensor))
            self.dtypes[dtype] = self.node_of_tensor(tensor)
            return dtype
        if name in _TRANSPOSED:
            axes = (-2, -1) if _TRANSPOSED[name] == "transpose" else tuple(reversed(range(tensor.ndim)))
            with self:
                conjugate = tensor.conj() if tensor.is_complex() and "H" in name else tensor
                return getattr(conjugate, _TRANSPOSED[name])(*axes)
        value = func(self.bare.get(id(tensor), tensor))
        if name == "data":
            node = self.new_node("call_method", "detach", (self.node_of_tensor(tensor),), {}, value)
            self.bind(value, node)
        elif isinstance(value, Tensor):
            value = value.view(value.shape)
            self.bind(value, self.new_node("call_function", getattr, (self.node_of_tensor(tensor), name), {}, value))
        return value

    def _size_asked(self, func: Any, tensor: Tensor, dim: int | None = None) -> Any:
        self.by_size = True
        sizes = self.sizes_of(tensor)
        return sizes if dim is None else sizes[dim]

    def _length_asked(self, func: Any, tensor: Tensor) -> Any:
        length = self._size_asked(func, tensor, 0)
        operator.eq(length, 1)  # Python makes a plain number of it, of which this is the usual question
        return length

    def _count_asked(self, func: Any, tensor: Tensor) -> Any:
        self.by_size = True
        count = func(self.bare.get(id(tensor), tensor))
        return Int(count, self.new_node("call_method", "numel", (self.node_of_tensor(tensor),), {}, count))

    # -- modules -----------------------------------------------------------------------------------------------------

    def _module_call(self, plainly: Callable[..., Any]) -> Callable[..., Any]:
        def called(module: Any, *args: Any, **kwargs: Any) -> Any:
            path = None if self.quiet or numbers.recordings[-1] is not self else self.modules.get(id(module))
            if path is None:
                return plainly(module, *args, **kwargs)
            self.paths.append((path, modules_called() + 1))
            try:
                with self.refusals(path), self.methods.hooks_noted(module) if has_hooks(module) else nullcontext():
                    return self._noted(path, args, self._called(module, path, plainly, args, kwargs))
            except CaptureError:
                raise
            except Exception as error:
                if not hasattr(error, "fxgrow_place"):
                    error.fxgrow_place = f"{path} ({type(module).__name__})"  # type: ignore[attr-defined]
                raise
            finally:
                self.paths.pop()

        return called

    def _called(self, module: Any, path: str, plainly: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        kind = registry.kind_of(module)
        multiplies = kind is not type(module) and registry.has_rule(kind)
        handed_on = type(module) is nn.Identity and bool(args) and not isinstance(args[0], Tensor)  # a list
        if multiplies or (self._is_leaf(module) and not handed_on):
            call = between_hooks if has_hooks(module) else whole
            return call(self, module, path, plainly, args, kwargs)
        if (expansion := EXPANSIONS.get(type(module))) is not None and not hooked(module):
            return _expanded(module, expansion, args, kwargs)
        self.switch_again(module)
        return plainly(module, *args, **kwargs)

    def _noted(self, path: str, inputs: Any, output: Any) -> Any:
        """Note the shapes of what a module is given and gives."""
        with torch._C.DisableTorchFunction():
            for side, value in (("in", inputs), ("out", output)):
                self.shapes.setdefault((path, side), []).extend(tuple(t.shape) for t in flat_tensors(value))
        return output

    def _is_leaf(self, module: nn.Module) -> bool:
        if not self.has_its_own(module):  # as in `torch.func.functional_call`: a node would compute with its own
            return False
        if isinstance(module, ParametrizationList):
            of_users = (not type(part).__module__.startswith(("torch.", "fxgrow.")) for part in module)
            return not any(of_users)  # these are run from inside
        if isinstance(module, CustomFunction):
            return True
        if is_parametrized(module) or type(module) in EXPANSIONS or "forward" in vars(module):
            return False
        if has_hooks(module) and not HOOKED_WHOLE.get():
            return False
        return registry.has_rule(type(module))

    def leaf(self, module: nn.Module, path: str, plainly: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        lowered = self.operands(args, kwargs)
        self.by_mode = self.by_mode or minds_samples(module, args)
        value = None if args and id(args[0]) in self.bare else told(module, args, kwargs)
        if value is None:
            self.quiet = True
            try:
                run = functools.partial(plainly, module)
                value = self.evaluate(run, type(module).__name__, identity(module, path), args, kwargs)
            finally:
                self.quiet = False
        running = self.paths.pop()
        caller = self.place()
        self.paths.append(running)
        self.operation("call_module", path, lowered, value, caller)
        return value


_QUESTIONS: dict[str, Callable[..., Any]] = {
    "size": Recorder._size_asked,
    "__len__": Recorder._length_asked,
    "numel": Recorder._count_asked,
    "nelement": Recorder._count_asked,
}
"""Methods whose answers are numbers that remember."""


def _expanded(module: nn.Module, expansion: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return expansion(module, *args, **kwargs)  # `modules_called` knows it by its name


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
