"""Recording: a model's own forward runs on tensors without data, and every operation becomes a node of a graph."""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.overrides import TorchFunctionMode

from fxgrow import guards
from fxgrow.capture import contexts, numbers
from fxgrow.capture.expansions import EXPANSIONS
from fxgrow.capture.numbers import Float, Int, node_of, plain, remembering
from fxgrow.capture.opaque import CustomFunction, hooked
from fxgrow.capture.shapes import call_failed, staying
from fxgrow.containers import each_tensor, flat_tensors
from fxgrow.errors import CaptureError, FxgrowError, UntraceableError
from fxgrow.replacing import replaced
from fxgrow.rules import registry

_BINARY = {
    **{
        name: getattr(operator, name)
        for name in ("add", "sub", "mul", "matmul", "pow", "eq", "ne", "lt", "le", "gt", "ge")
    },
    **{f"__{name}__": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "floordiv", "mod")},
    **{f"__{name}__": getattr(operator, f"{name}_") for name in ("and", "or")},
    **{f"{name}_": getattr(operator, f"i{name}") for name in ("add", "sub", "mul")},
    "div": operator.truediv,
    "div_": operator.itruediv,
    "__xor__": operator.xor,
    "__getitem__": operator.getitem,
}
"""Methods that Python's operators call, by the operator: with one further argument they are the same."""

_REFLECTED = {
    **{f"__r{name}__": getattr(operator, name) for name in ("sub", "pow", "floordiv", "matmul", "mod")},
    "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv,
}
_UNARY = {"neg": operator.neg, "__invert__": operator.invert}

_TRANSPOSED = {"T": "permute", "mT": "transpose", "H": "permute", "mH": "transpose"}
"""Properties that are other views of a tensor, by the method that makes them."""

_VALUES = frozenset(
    ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__")
)
"""What gives the values of a tensor to Python."""

_SAID = {"__bool__": "control flow", "__array__": "numpy"}
"""How errors call what asks for values."""

_CHANCE = frozenset(
    ("rand", "randn", "randint", "randperm", "bernoulli", "normal", "multinomial", "poisson", "rand_like", "randn_like")
)
"""Functions that draw, whatever they are given."""

_DEVICE_FLAGS = {"is_meta": "meta", "is_cpu": "cpu", "is_cuda": "cuda", "is_mps": "mps", "is_xpu": "xpu"}


Shapes = dict[str, list[tuple[int, ...]]]
"""Of what goes into modules and comes out of them, by path."""

_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class Recorder(TorchFunctionMode):
    """Records what a forward does to tensors without data.

    Parameters
    ----------
    root: the model that runs, every tensor on the meta device; it is consumed.
    device: the device that tensors report.
    functions: collects the functions with a backward of their own, to be added to the model under these names.
    constants: collects the tensors that forwards make of numbers alone, likewise; one name for equal ones.
    memory: what calls give on tensors alike, found out in this recording and others of the model.
    """

    def __init__(
        self,
        root: nn.Module,
        device: torch.device,
        functions: dict[str, CustomFunction],
        constants: dict[str, Tensor],
        memory: dict[Any, Any],
    ) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.root = root
        self.device = torch.device("cpu") if device.type == "meta" else device
        self.functions = functions
        self.constants = constants
        self.memory = memory
        self.settled: list[contexts.Settled] = []
        self.settling: set[fx.Node] = set()
        self.names: dict[int, str] = {}
        for named in (root.named_parameters, root.named_buffers):
            for name, tensor in named():
                self.names.setdefault(id(tensor), name)
        self.plain = {  # tensors that are neither parameters nor buffers
            id(value): f"{path}.{name}" if path else name
            for path, module in root.named_modules()
            for name, value in module.__dict__.items()
            if isinstance(value, Tensor)
        }
        self.modules = {id(module): path for path, module in root.named_modules()}
        self.nodes: dict[int, fx.Node] = {}
        self.bare: dict[int, Tensor] = {}  # what stands for a tensor with values once it has a node
        self.sizes: dict[tuple[Any, ...], Any] = {}
        self.devices: dict[int, fx.Node] = {}
        self.dtypes: dict[torch.dtype, fx.Node] = {}
        self.alive: list[Any] = []
        self.paths: list[str] = []
        self.regions: list[fx.Node] = []
        self.open: list[Any] = []
        self.quiet = False
        self.shapes: Shapes = {}

    # -- running -----------------------------------------------------------------------------------------------

    def record(self, arguments: Mapping[str, Any], positional: int = 0, run: Callable[..., Any] | None = None) -> Any:
        """Run the forward of the root; returns what it returns.

        arguments: by name, "*args" and "**kwargs" too. positional: how many are passed by their position. run: what
        to run in place of the forward.
        """
        args, kwargs = self._placeholders(arguments, positional)
        with ExitStack() as stack:
            stack.enter_context(_present(self))
            stack.enter_context(replaced(nn.Module, "__call__", self._module_call(nn.Module.__call__)))
            stack.enter_context(self._apply_caught())
            stack.enter_context(contexts.watched(self))
            for function in dict.fromkeys([*registry.whole_functions(), *_wrapped_by_users()]):
                stack.enter_context(self._kept_whole(function))
            stack.enter_context(torch.device("meta"))
            stack.enter_context(self)
            self.paths.append("")
            output = (run or self.root.forward)(*args, **kwargs)
            self.paths.pop()
        return output

    def again(self) -> Recorder:
        """A recorder of the same model, for another run of its forward."""
        return Recorder(self.root, self.device, {}, {}, {})

    def result(self, output: Any) -> Any:
        """What the forward returned, as the graph holds it."""
        with _present(self):
            return self._argument(output)

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
            node = self._node("placeholder", key, default if _writable(default) else (None,), {}, None)
            empty: Any = () if stars == "*" else {} if stars else default[0] if default else None
            value = self._entering(node, arguments.get(key, empty), name)
            node.meta["value"] = each_tensor(value, _itself)
            if stars == "*":
                args.extend(value)
            elif stars == "**":
                kwargs.update(value)
            elif len(args) < positional and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                args.append(value)
            elif key in arguments or isinstance(value, (Int, Float)):
                kwargs[name] = value
        return args, kwargs

    def _entering(self, node: fx.Node, value: Any, name: str) -> Any:
        """An argument as the forward gets it: its tensors are known, and what is no tensor is settled."""
        if isinstance(value, Tensor):
            value = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            self._bind(value, node)
            return value
        items: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if _listed(value) else None
        if items is None or not value:
            if _writable(value):
                self._node("call_function", contexts.settled, (node, value, name), {}, None)
            return remembering(value, node)
        made = {}
        for key, item in items:
            picked = self._node("call_function", operator.getitem, (node, key), {}, item)
            made[key] = self._entering(picked, item, f"{name}[{key!r}]")
        return made if isinstance(value, Mapping) else _like(value, list(made.values()))

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _node(self, kind: str, target: Any, args: Any, kwargs: Any, value: Any) -> fx.Node:
        node = self.graph.create_node(kind, target, args, kwargs)
        node.meta["module_path"] = self._place()
        node.meta["value"] = value
        return node

    def call(self, target: Any, args: tuple[Any, ...], value: Any = None) -> fx.Node:
        """A node for a call of a function."""
        return self._node("call_function", target, self._argument(args), {}, value)

    def number(self, function: Callable[..., Any], operands: tuple[Any, ...], value: Any) -> fx.Node:
        """A node for what a forward computes from sizes."""
        return self.call(function, operands, plain(value))

    def _place(self) -> str:
        """Whose forward is running; of a part that another one holds too, the one that called it here."""
        for caller, called in itertools.pairwise(self.paths):
            if caller and not called.startswith(caller + "."):
                return caller
        return self.paths[-1] if self.paths else ""

    def _argument(self, value: Any, path: tuple[Any, ...] = (), sources: dict[Any, Any] | None = None) -> Any:
        """An argument as the graph holds it; where literals come from is noted in `sources`, by their path."""
        if isinstance(value, Tensor):
            return self._node_of_tensor(value)
        if isinstance(value, (Int, Float)):
            node = node_of(value)
            if node is None and sources is not None and value.source is not None:
                sources[path] = value.source
            return plain(value) if node is None else node
        if isinstance(value, (tuple, list)):
            items = [self._argument(item, (*path, k), sources) for k, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self._argument(item, (*path, key), sources) for key, item in value.items()}
        if isinstance(value, slice):
            names = ("start", "stop", "step")
            return slice(*(self._argument(getattr(value, name), (*path, name), sources) for name in names))
        if isinstance(value, torch.device) and id(value) in self.devices:
            return self.devices[id(value)]
        if isinstance(value, torch.dtype) and value in self.dtypes:
            return self._property(self.dtypes[value], "dtype", value)
        return value

    def _known(self, value: Any) -> bool:
        """Whether an argument comes from what is recorded, and not from literals alone."""
        if isinstance(value, Tensor):
            return id(value) in self.nodes or id(value) in self.names
        if isinstance(value, (tuple, list)):
            return any(map(self._known, value))
        if isinstance(value, dict):
            return any(map(self._known, value.values()))
        if isinstance(value, slice):
            return any(map(self._known, (value.start, value.stop, value.step)))
        return node_of(value) is not None

    def _node_of_tensor(self, tensor: Tensor) -> fx.Node:
        node = self.nodes.get(id(tensor))
        if node is None:
            name = self.names.get(id(tensor))
            if name is None and tensor.is_meta:
                raise UntraceableError(
                    "a tensor comes from a function that cannot be seen into, such as a scripted or compiled one",
                    where=self._place() or type(self.root).__name__,
                    remedy="call the plain function, or grow the parts around it",
                )
            if name is None:
                name = self._constant(tensor)
                self.bare[id(tensor)] = tensor.to("meta")
            node = self._node("get_attr", name, (), {}, self.bare.get(id(tensor), tensor))
            self._bind(tensor, node)
        return node

    def _constant(self, value: Tensor) -> str:
        if id(value) in self.plain:
            return self.plain[id(value)]
        for name, known in self.constants.items():
            if known is value or (
                known.dtype == value.dtype and known.shape == value.shape and torch.equal(known, value)
            ):
                return name
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = value.detach().clone()
        return name

    def _bind(self, value: Any, node: fx.Node) -> None:
        """Let what an operation gave be known by its node."""
        if isinstance(value, Tensor):
            self.nodes[id(value)] = node
            self.alive.append(value)
        elif isinstance(value, (tuple, list)):
            for k, item in enumerate(value):
                if isinstance(item, (Tensor, tuple, list)):
                    self._bind(item, self._node("call_function", operator.getitem, (node, k), {}, item))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(item, (Tensor, tuple, list)):
                    self._bind(item, self._node("call_function", operator.getitem, (node, key), {}, item))

    # -- functions and methods of tensors ------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.quiet:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._get(func, args[0], getattr(func.__self__, "__name__", ""))
        if name == "__set__":
            return func(*args, **kwargs)
        if name == "_set_grad_enabled":
            contexts.grad_switched(self, bool(args[0]))
            return func(*args, **kwargs)
        if not self._known((args, kwargs)) and name not in _CHANCE:
            return self._of_literals(func, args, kwargs)
        method = bool(args) and isinstance(args[0], Tensor) and getattr(torch.Tensor, name, None) is func
        if method and name in _QUESTIONS:
            return _QUESTIONS[name](self, func, *args, **kwargs)
        if method and name in _VALUES:
            raise self._failed(name, [], NotImplementedError())
        return self._call(func, name, method, args, kwargs)

    def _call(self, func: Any, name: str, method: bool, args: Any, kwargs: Any) -> Any:
        target = operator_of(func, args, kwargs)
        operands = (args[1], args[0]) if name in _REFLECTED and target is _REFLECTED[name] else args
        law = registry.law_of_method(target) if isinstance(target, str) else registry.law_of_function(target)
        if law is None and func not in self.open and (opened := _opened(func)) is not None:
            self.open.append(func)
            try:
                with self:
                    return opened(*args, **kwargs)
            finally:
                self.open.pop()
        kind = "call_method" if isinstance(target, str) else "call_function"
        writing = name == "__setitem__"
        sources: dict[Any, Any] = {}
        raw = self._argument(operands, ("args",), sources)
        named = self._argument(kwargs, ("kwargs",), sources)
        value = self._evaluate(lambda *a, **k: staying(func, a, k), name, func, args, kwargs)
        if not writing and not _holds_tensor(value):
            return value
        node = self._node(kind, target, raw, named, value)
        if sources:
            node.meta["sources"] = sources
        self._bind(value, node)
        return value

    def _evaluate(self, function: Callable[..., Any], name: str, what: Any, args: Any, kwargs: Any) -> Any:
        """What a call gives on the meta device; never the very tensor that it was given, unless that changed.

        name: for errors. what: the same for calls that give the same on tensors alike, which are worked out once.
        """
        args, kwargs = self._stand_ins(args), self._stand_ins(kwargs)
        try:
            key = (what, _alike(args), _alike(kwargs))
            if key in self.memory:
                return _made_as(self.memory[key])
        except TypeError:  # an argument that cannot be hashed
            key = None
        before = [(tensor, tensor._version) for tensor in _tensors((args, kwargs))]
        try:
            value = function(*args, **kwargs)
        except FxgrowError:
            raise
        except Exception as error:
            raise self._failed(name, before, error) from error
        if not _holds_tensor(value):
            return value
        if key is not None and all(tensor._version == version for tensor, version in before):
            with suppress(TypeError):
                self.memory[key] = _alike(value)
        return each_tensor(value, lambda t: _apart(t, before))

    def _stand_ins(self, value: Any) -> Any:
        """Arguments in which tensors with values are those without that stand for them."""
        if not self.bare:
            return value
        if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
            return _like(value, [self._stand_ins(item) for item in value])
        if isinstance(value, dict):
            return {key: self._stand_ins(item) for key, item in value.items()}
        return self.bare.get(id(value), value) if isinstance(value, Tensor) else value

    def _of_literals(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that nothing recorded goes into runs as it is, with values; what it gives is a constant."""
        drawn = torch.default_generator.get_state() if not all(map(_is_number, args)) else None
        with torch._C.DisableTorchFunction():
            value = staying(func, args, kwargs, "cpu")
        if drawn is not None and not torch.equal(drawn, torch.default_generator.get_state()):
            torch.default_generator.set_state(drawn)  # it draws: a call for the graph to make, again and again
            name = getattr(func, "__name__", "")
            method = bool(args) and isinstance(args[0], Tensor) and getattr(torch.Tensor, name, None) is func
            return self._call(func, name, method, args, kwargs)
        return value

    def _failed(self, name: str, before: list[tuple[Tensor, int]], error: Exception) -> CaptureError:
        said = _SAID.get(name, name.strip("_"))
        return call_failed(said, self._place() or type(self.root).__name__, [tensor for tensor, _ in before], error)

    # -- properties and sizes --------------------------------------------------------------------------------------

    def _get(self, func: Any, tensor: Tensor, name: str) -> Any:
        if not self._known(tensor):
            with torch._C.DisableTorchFunction():
                return func(tensor)
        if name == "shape":
            return self._sizes(tensor)
        if name == "device":
            device = torch.device(str(self.device))
            self.devices[id(device)] = self._property(self._node_of_tensor(tensor), name, torch.device("meta"))
            self.alive.append(device)
            return device
        if name in _DEVICE_FLAGS:
            return self.device.type == _DEVICE_FLAGS[name]
        if name == "dtype":
            dtype = func(self.bare.get(id(tensor), tensor))
            self.dtypes[dtype] = self._node_of_tensor(tensor)
            return dtype
        if name in _TRANSPOSED:
            axes = (-2, -1) if _TRANSPOSED[name] == "transpose" else tuple(reversed(range(tensor.ndim)))
            with self:
                given = tensor.conj() if tensor.is_complex() and "H" in name else tensor
                return getattr(given, _TRANSPOSED[name])(*axes)
        value = func(self.bare.get(id(tensor), tensor))
        if name == "data":
            node = self._node("call_method", "detach", (self._node_of_tensor(tensor),), {}, value)
            self._bind(value, node)
        elif isinstance(value, Tensor):
            value = value.view(value.shape)
            self._bind(value, self._node("call_function", getattr, (self._node_of_tensor(tensor), name), {}, value))
        return value

    def _property(self, node: fx.Node, name: str, value: Any) -> fx.Node:
        key = (node, name, None, self._place())
        if key not in self.sizes:
            self.sizes[key] = self._node("call_function", getattr, (node, name), {}, value)
        return self.sizes[key]  # type: ignore[no-any-return]

    def _sizes(self, tensor: Tensor) -> torch.Size:
        node = self._node_of_tensor(tensor)
        return torch.Size([self._size(node, k, size) for k, size in enumerate(self.bare.get(id(tensor), tensor).shape)])

    def _size(self, node: fx.Node, axis: int, size: int) -> Int:
        key = (node, "size", axis, self._place())
        if key not in self.sizes:
            self.sizes[key] = Int(size, self._node("call_method", "size", (node, axis), {}, size))
        return self.sizes[key]  # type: ignore[no-any-return]

    def _size_asked(self, func: Any, tensor: Tensor, dim: int | None = None) -> Any:
        sizes = self._sizes(tensor)
        return sizes if dim is None else sizes[dim]

    def _count_asked(self, func: Any, tensor: Tensor) -> Any:
        count = func(self.bare.get(id(tensor), tensor))
        return Int(count, self._node("call_method", "numel", (self._node_of_tensor(tensor),), {}, count))

    # -- modules -----------------------------------------------------------------------------------------------------

    def _module_call(self, plainly: Callable[..., Any]) -> Callable[..., Any]:
        def called(module: Any, *args: Any, **kwargs: Any) -> Any:
            path = None if self.quiet or numbers.recordings[-1] is not self else self.modules.get(id(module))
            if path is None:
                return plainly(module, *args, **kwargs)
            self.paths.append(path)
            try:
                return self._noted(path, args, self._called(module, path, plainly, args, kwargs))
            except CaptureError as error:
                if error.where is None:
                    raise type(error)(error.what, where=path, remedy=error.remedy) from error
                raise
            except Exception as error:
                if not hasattr(error, "fxgrow_place"):
                    error.fxgrow_place = f"{path} ({type(module).__name__})"  # type: ignore[attr-defined]
                raise
            finally:
                self.paths.pop()

        return called

    def _called(self, module: Any, path: str, plainly: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        plain_kind = getattr(type(module), "plain_kind", None)
        if plain_kind is not None and registry.has_rule(plain_kind):  # a layer that multiplies its input
            args = (guards.multiplied(args[0], module.factor), *args[1:])
            return self._leaf(module, path, plain_kind.forward, args, kwargs)
        if self._is_leaf(module):
            return self._leaf(module, path, plainly, args, kwargs)
        expansion = EXPANSIONS.get(type(module))
        if expansion is not None and not hooked(module):
            return expansion(module, *args, **kwargs)
        return plainly(module, *args, **kwargs)

    def _noted(self, path: str, inputs: Any, output: Any) -> Any:
        """Note the shapes of what a module is given and gives."""
        with torch._C.DisableTorchFunction():
            shapes = self.shapes.setdefault(path, [])
            shapes.extend(tuple(tensor.shape) for value in (inputs, output) for tensor in flat_tensors(value))
        return output

    def _is_leaf(self, module: nn.Module) -> bool:
        if isinstance(module, (ParametrizationList, CustomFunction)):
            return True
        if is_parametrized(module) or type(module) in EXPANSIONS or hooked(module):
            return False
        return registry.has_rule(type(module))

    def _leaf(self, module: nn.Module, path: str, plainly: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        sources: dict[Any, Any] = {}
        raw, named = self._argument(args, ("args",), sources), self._argument(kwargs, ("kwargs",), sources)
        run: Callable[..., Any] = functools.partial(plainly, module)
        if _keeps_shape(module, args):
            run = torch.empty_like  # norms are slow on the meta device
        self.quiet = True
        try:
            value = self._evaluate(run, type(module).__name__, (path, _counts_samples(module)), args, kwargs)
        finally:
            self.quiet = False
        self.paths.pop()  # the node is made by whoever calls
        node = self._node("call_module", path, raw, named, value)
        self.paths.append(path)
        if sources:
            node.meta["sources"] = sources
        self._bind(value, node)
        return value

    # -- what tensors do not tell of ---------------------------------------------------------------------------------

    @contextmanager
    def _apply_caught(self) -> Iterator[None]:
        """A function with a backward of its own stays whole, as a module, so that it keeps it."""
        plainly = vars(torch.autograd.Function)["apply"]

        def apply(function: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
            if self.quiet or not self._known((args, kwargs)):
                return plainly.__get__(None, function)(*args, **kwargs)
            if function.__name__ == "CheckpointFunction":
                contexts.checkpointed(self)
                return args[0](*args[2:])
            known = {module.function: path for path, module in self.functions.items()}
            path = known.get(function, f"_function_{len(known)}")
            module = self.functions.setdefault(path, CustomFunction(function))

            def run(_: nn.Module, *given: Any, **named: Any) -> Any:
                return plainly.__get__(None, function)(*given, **named)

            self.paths.append(path)
            try:
                return self._leaf(module, path, run, args, kwargs)
            finally:
                self.paths.pop()

        torch.autograd.Function.apply = classmethod(apply)
        try:
            yield
        finally:
            torch.autograd.Function.apply = plainly

    @contextmanager
    def _kept_whole(self, function: Callable[..., Any]) -> Iterator[None]:
        """A function of a library that has a rule is one node, wherever modules of the model call it by its name."""

        @functools.wraps(function)
        def kept(*args: Any, **kwargs: Any) -> Any:
            if self.quiet or not self._known((args, kwargs)):
                return function(*args, **kwargs)
            self.quiet = True
            try:
                raw, named = self._argument(args), self._argument(kwargs)
                value = self._evaluate(function, function.__name__, function, args, kwargs)
            finally:
                self.quiet = False
            node = self._node("call_function", function, raw, named, value)
            node.meta["is_wrapped"] = True  # to torch.fx, when it traces the graph again
            self._bind(value, node)
            return value

        homes = {type(module).__module__ for module in self.root.modules()} | {function.__module__}
        places = [vars(sys.modules[home]) for home in homes if home in sys.modules]
        places += [names for names in _symbolic_trace._wrapped_fns_to_patch.values() if function in names.values()]
        found = [(names, name) for names in places for name, value in list(names.items()) if value is function]
        try:
            for names, name in found:
                names[name] = kept
            yield
        finally:
            for names, name in found:
                names[name] = function


_QUESTIONS: dict[str, Callable[..., Any]] = {
    "size": Recorder._size_asked,
    "numel": Recorder._count_asked,
    "nelement": Recorder._count_asked,
}
"""Methods whose answers are numbers that remember."""


@contextmanager
def _present(recorder: Recorder) -> Iterator[None]:
    numbers.recordings.append(recorder)
    try:
        yield
    finally:
        numbers.recordings.pop()


@functools.cache
def _opened(function: Any) -> Callable[..., Any] | None:
    """A function of torch that is written in Python, without its question whether it is overridden; or None."""
    if not isinstance(function, types.FunctionType) or not function.__module__.startswith("torch."):
        return None
    unasked = {name: _never for name in function.__globals__ if name.startswith("has_torch_function")}
    if not unasked:
        return None
    twin = types.FunctionType(
        function.__code__,
        {**function.__globals__, **unasked},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


def _never(*args: Any) -> bool:
    return False


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_POINTWISE = (nn.Dropout, nn.Identity, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid)


def _counts_samples(module: nn.Module) -> bool:
    """Whether a module refuses too few samples in the mode that it is in."""
    return module.training and isinstance(module, nn.modules.batchnorm._NormBase)


def _keeps_shape(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether a module gives what is like its one input, without looking at more than its channels."""
    if len(args) != 1 or not isinstance(args[0], Tensor) or getattr(module, "inplace", False):
        return False
    shape = args[0].shape
    if isinstance(module, _NORMS):
        if isinstance(module, nn.LayerNorm):
            return tuple(shape[-len(module.normalized_shape) :]) == tuple(module.normalized_shape)
        channels = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        return len(shape) > 1 and shape[1] == channels and (shape.numel() > channels or not module.training)
    return type(module) in _POINTWISE


@dataclass(frozen=True)
class _Alike:
    """What tensors have in common that no operation on shapes can tell apart."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _alike(value: Any) -> Any:
    """Arguments or outputs with tensors by what they have in common; TypeError where that cannot be hashed."""
    if isinstance(value, Tensor):
        return _Alike(tuple(map(int, value.shape)), value.stride(), value.dtype)
    if isinstance(value, (tuple, list)):
        return type(value) if _named(value) else isinstance(value, list), tuple(map(_alike, value))
    if isinstance(value, dict):
        return dict, tuple((key, _alike(item)) for key, item in value.items())
    if isinstance(value, slice):
        return slice, value.start, value.stop, value.step
    if isinstance(value, (Int, Float)):
        return type(value).__bases__[0], plain(value)
    hash(value)
    return type(value), value


def _made_as(like: Any) -> Any:
    """Tensors as those that an operation gave before."""
    if isinstance(like, _Alike):
        return torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device="meta")
    kind, items = like
    if kind is dict:
        return {key: _made_as(item) for key, item in items}
    if isinstance(kind, bool):
        return (list if kind else tuple)(map(_made_as, items))
    if isinstance(kind, type) and _named(kind):
        return kind(*map(_made_as, items)) if hasattr(kind, "_fields") else kind(map(_made_as, items))
    return items


def _named(kind: Any) -> bool:
    """Whether a tuple, or a kind of tuples, has names for its items: Python's own, or those that torch returns."""
    return hasattr(kind, "_fields") or hasattr(kind, "n_sequence_fields")


def operator_of(func: Any, args: Any, kwargs: Any) -> Any:
    """What a node calls for a function of torch: Python's operator where it does the same, a method by its name."""
    if not args or not isinstance(args[0], Tensor):
        return func
    name = getattr(func, "__name__", "")
    if name == "__setitem__":
        return operator.setitem
    if not _of_tensors(func, name):
        return func
    if not kwargs and len(args) == 2:
        return _BINARY.get(name) or _REFLECTED.get(name) or name
    return _UNARY.get(name, name) if not kwargs and len(args) == 1 else name


def _wrapped_by_users() -> Iterator[Callable[..., Any]]:
    """Functions that `torch.fx.wrap` was told to keep whole, but for those of libraries, which are run from inside."""
    for (_, name), names in _symbolic_trace._wrapped_fns_to_patch.items():
        function = names.get(name)
        home = getattr(function, "__module__", None) or ""
        if isinstance(function, types.FunctionType) and home.partition(".")[0] not in ("torch", "torchvision", "timm"):
            yield function


def _apart(tensor: Tensor, before: list[tuple[Tensor, int]]) -> Tensor:
    """A tensor that an operation gave; where it is one that went in unchanged, another one over the same storage."""
    unchanged = any(tensor is one and tensor._version == version for one, version in before)
    return torch.ops.aten.alias(tensor) if unchanged else tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _holds_tensor(value: Any) -> bool:
    return next(_tensors(value), None) is not None


def _of_tensors(func: Any, name: str) -> bool:
    """Whether a function is a method of tensors, wrapped for an operator or not."""
    return getattr(Tensor, name, None) is func or getattr(func, "__module__", None) == "torch._tensor"


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _listed(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _like(value: Any, items: list[Any]) -> Any:
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _writable(value: Any) -> bool:
    """Whether generated code can hold a value: plain numbers, strings and containers of them."""
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list) and all(map(_writable, value))
    if isinstance(value, dict):
        return type(value) is dict and all(map(_writable, value.values()))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))
