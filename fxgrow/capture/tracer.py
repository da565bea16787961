"""Symbolic tracing with a value on the meta device behind every node.

Tier 1 is plain torch.fx with timm's and torchvision's own lists of what must stay whole. Tier 2 lets control
flow on shapes resolve through the values behind the proxies; control flow on data is an error in both. What a
library keeps whole because of such control flow, and what has no rule of its own, is traced into by tier 2.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace
from torch.fx.proxy import ParameterProxy, TraceError
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from fxgrow.capture.expansions import EXPANSIONS
from fxgrow.capture.frames import items
from fxgrow.capture.modes import ByMode
from fxgrow.capture.opaque import CustomFunction, hooked, whole_functions, whole_modules
from fxgrow.containers import each_tensor
from fxgrow.errors import CaptureError, UntraceableError, first_line
from fxgrow.replacing import replaced


class Proxy(fx.Proxy):
    """A proxy that records writing in place as such, because other names may hold the same tensor."""

    def _in_place(self, function: Callable[..., Any], *operands: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, *operands), {})

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._in_place(operator.setitem, index, value)


class ShapeProxy(Proxy):
    """A proxy whose numbers can be used by control flow, because their value is known."""

    def _known(self) -> Any:
        return self.node.meta["value"]

    def __len__(self) -> int:
        return len(self._known())

    def __index__(self) -> int:
        return int(self._known())

    def __str__(self) -> str:
        return str(self._known()) if isinstance(self._known(), (int, float, str, torch.Size)) else super().__str__()

    def __int__(self) -> int:
        return int(self._known())

    def __float__(self) -> float:
        return float(self._known())


UNTRACEABLE = (TraceError, TypeError, NameError, ValueError, RuntimeError, AttributeError, IndexError)
"""What tracing raises where a forward does more than a graph can say."""


IN_TENSOR_OPERATIONS = "rewrite it in terms of tensor operations, or grow the parts around it"


FACTORIES = (
    *("arange", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "randperm"),
    *("tensor", "tril_indices", "triu_indices", "zeros"),
)
"""Functions of torch that make tensors of sizes given as numbers, which proxies do not make one node."""


LIBRARIES = ("timm", "torchvision")
"""Packages whose functions are traced into although they ask to be kept whole, where no rule is known."""

_whole_function = _symbolic_trace._create_wrapped_func


class StaysWhole(Exception):
    """A class of modules, or a function, that a library keeps whole cannot be traced into either."""

    def __init__(self, kind: type[nn.Module] | Callable[..., Any]) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


class Tracer(fx.Tracer):
    """Records a graph, evaluating each node on the meta device as it is made.

    Parameters
    ----------
    values: what each placeholder evaluates to, by name.
    has_rule: whether a class of modules or a function has a rule, so that it is one node.
    whole: further classes and functions that must be one node.
    shape_aware: tier 2 from the start.
    functions: collects the functions with a backward of their own, to be added to the root under these names.
    constants: collects the tensors that forwards make, likewise; one name for equal ones, whatever the mode.
    """

    def __init__(
        self,
        values: dict[str, Any],
        has_rule: Callable[[Any], bool],
        whole: frozenset[Any],
        shape_aware: bool,
        functions: dict[str, CustomFunction],
        constants: dict[str, Tensor],
    ) -> None:
        super().__init__(autowrap_functions=whole_functions(), param_shapes_constant=True)
        self.values = values
        self.has_rule = has_rule
        self.whole = whole
        self.shape_aware = shape_aware
        self.functions = functions
        self.constants = constants
        self.paths: list[str] = []
        self.evaluating = False
        self.names: dict[int, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, ParametrizationList):
            return True
        if is_parametrized(m) or (type(m) in EXPANSIONS and not hooked(m)):
            return False
        if type(m) in self.whole or isinstance(m, ByMode) or self.has_rule(type(m)):
            return True
        return not isinstance(m, whole_modules()) and super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.evaluating:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self.paths.append(path)
        opened = isinstance(m, whole_modules()) and not self.is_leaf_module(m, path)
        try:
            with self._opening((args, kwargs)) if opened else nullcontext((args, kwargs)) as (args, kwargs):
                expansion = EXPANSIONS.get(type(m))
                if expansion is not None and not hooked(m):
                    return expansion(m, *args, **kwargs)
                return super().call_module(m, forward, args, kwargs)
        except CaptureError as error:
            if opened and isinstance(error, UntraceableError):
                raise StaysWhole(type(m)) from error
            if error.where is None:
                raise type(error)(error.what, where=path, remedy=error.remedy) from error
            raise
        except UNTRACEABLE as error:
            if opened:
                raise StaysWhole(type(m)) from error
            if not hasattr(error, "fxgrow_place"):
                error.fxgrow_place = f"{path} ({type(m).__name__})"  # type: ignore[union-attr]
            raise
        finally:
            self.paths.pop()

    @contextmanager
    def _opening(self, given: Any) -> Iterator[Any]:
        """Know shapes while something that is whole elsewhere is traced into; yields what it is given, knowing them."""

        def knowing(value: Any) -> Any:
            return ShapeProxy(value.node, self) if type(value) is Proxy else value

        outside, self.shape_aware = self.shape_aware, True
        try:
            yield plain(fx.node.map_aggregate(given, knowing))
        finally:
            self.shape_aware = outside

    def _wrapped_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in for a function that is kept whole: traced into where a library asked and no rule is known."""
        kept = _whole_function(function)
        home = getattr(function, "__module__", None) or ""
        if home.partition(".")[0] not in LIBRARIES or self.has_rule(function):
            return kept

        @functools.wraps(function)
        def opened(*args: Any, **kwargs: Any) -> Any:
            if self.evaluating or function in self.whole or not _any_proxy((args, kwargs)):
                return kept(*args, **kwargs)
            try:
                with self._opening((args, kwargs)) as (args, kwargs):
                    return function(*args, **kwargs)
            except (*UNTRACEABLE, UntraceableError) as error:
                raise StaysWhole(function) from error

        return opened

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        name = None if self.evaluating else self._name_of(attr_val)
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            factory = None
            if isinstance(attr_val, nn.Parameter):
                factory = lambda node: ParameterProxy(self, node, name, attr_val)  # noqa: E731
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {}, proxy_factory_fn=factory)
        return parameter_proxy_cache[name]

    def _name_of(self, value: Any) -> str | None:
        """The name of a parameter or buffer of the root, found in constant time."""
        if not isinstance(value, Tensor):
            return None
        if not self.names:
            named = (*self.root.named_parameters(), *self.root.named_buffers())
            self.names = {id(tensor): name for name, tensor in named}
        return self.names.get(id(value))

    def create_arg(self, a: Any) -> Any:
        made = isinstance(a, Tensor) and self._name_of(a) is None and a not in self.tensor_attrs
        return self.create_node("get_attr", self._constant(a), (), {}) if made else super().create_arg(a)

    def _constant(self, value: Tensor) -> str:
        for name, held in self.constants.items():
            if held is value or (held.dtype == value.dtype and held.device == value.device and _equal(held, value)):
                return name
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = value
        return name

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return ShapeProxy(node, self) if self.shape_aware else Proxy(node, self)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **named)
        node.meta["module_path"] = self._place()
        if kind == "placeholder":
            node.meta["value"] = self.values.get(str(target), default_of(node))
        elif kind != "output":
            node.meta["value"] = self._evaluate(node)
        return node

    def _place(self) -> str:
        """Whose forward is running; of a part that another one holds too, the one that called it here."""
        for caller, called in itertools.pairwise(self.paths):
            if caller and not called.startswith(caller + "."):
                return caller
        return self.paths[-1] if self.paths else ""

    def _evaluate(self, node: fx.Node) -> Any:
        args, kwargs = evaluated(node)
        self.evaluating = True
        try:
            with torch.device("meta"):
                if node.op == "get_attr":
                    path = str(node.target)
                    return on_meta(self.constants[path] if path in self.constants else _attribute(self.root, path))
                if node.op == "call_module":
                    path = str(node.target)
                    return (self.functions.get(path) or self.root.get_submodule(path))(*args, **kwargs)
                if node.op == "call_method":
                    return method_on_meta(str(node.target), args, kwargs)
                return each_tensor(node.target(*args, **kwargs), on_meta)  # type: ignore[operator]
        except Exception as error:
            raise failed(self.root, node, (args, kwargs), error) from error
        finally:
            self.evaluating = False

    # -- what proxies do not catch by themselves -----------------------------------------------------------

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with torch.device("meta"):
            torch.empty(0)  # torch notes which functions make tensors when it first needs to know: the true ones
        torch.overrides.is_tensor_method_or_property(torch.add)  # and so with functions that may be overridden
        with self._catching(torch.autograd.Function, "apply", self._custom_function), ExitStack() as contexts:
            for name in FACTORIES:
                function = getattr(torch, name)
                contexts.enter_context(self._catching(torch, name, partial(self._made, function)))
            contexts.enter_context(replaced(_symbolic_trace, "_create_wrapped_func", self._wrapped_function))
            contexts.enter_context(replaced(fx.Proxy, "__iter__", items))
            contexts.enter_context(_attributes_kept(root))
            return super().trace(root, concrete_args)

    @contextmanager
    def _catching(self, owner: Any, name: str, record: Callable[..., Any]) -> Iterator[None]:
        """Calls of `owner.name` that are given a proxy are recorded; others run as ever."""
        kept = vars(owner)[name]
        of_class = isinstance(owner, type)

        def called(*args: Any, **kwargs: Any) -> Any:
            if _any_proxy((args, kwargs)):
                return record(*args, **kwargs)
            return kept.__get__(None, args[0])(*args[1:], **kwargs) if of_class else kept(*args, **kwargs)

        setattr(owner, name, classmethod(called) if of_class else called)
        try:
            yield
        finally:
            setattr(owner, name, kept)

    def _made(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Proxy:
        return self.create_proxy("call_function", function, args, kwargs)

    def _custom_function(self, function: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> fx.Proxy:
        """A function with a backward of its own stays whole, as a module, so that it keeps it."""
        known = {module.function: path for path, module in self.functions.items()}
        path = known.get(function, f"_function_{len(known)}")
        self.functions.setdefault(path, CustomFunction(function))
        return self.create_proxy("call_module", path, args, kwargs)

    # -- control flow, tier 2 ----------------------------------------------------------------------------

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = obj.node.meta.get("value")
        if self.shape_aware and not isinstance(value, Tensor):
            return bool(value)
        return super().to_bool(obj)

    def iter(self, obj: Any) -> Iterator[Any]:
        value = obj.node.meta.get("value")
        if isinstance(value, (tuple, list)):
            return iter([obj[k] for k in range(len(value))])
        if self.shape_aware and isinstance(value, Tensor):
            return iter([obj[k] for k in range(value.shape[0])])
        return super().iter(obj)


@contextmanager
def _attributes_kept(root: nn.Module) -> Iterator[None]:
    """What a forward puts into attributes while it is traced is gone afterwards."""
    kept = [(module, _shallow(module.__dict__)) for module in root.modules()]
    try:
        yield
    finally:
        for module, attributes in kept:
            module.__dict__.clear()
            module.__dict__.update(attributes)


def _shallow(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if type(value) is dict else value for name, value in attributes.items()}


def _any_proxy(given: Any) -> bool:
    found = False

    def look(value: Any) -> Any:
        nonlocal found
        found = found or isinstance(value, fx.Proxy)
        return value

    fx.node.map_aggregate(given, look)
    return found


def plain(value: Any) -> Any:
    """Containers of a graph, which cannot be changed, as ordinary ones."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return tuple(map(plain, value)) if type(value) is tuple else value


def evaluated(node: fx.Node) -> tuple[Any, Any]:
    """The arguments and keyword arguments of a node, each operand by its value."""
    args, kwargs = (plain(fx.node.map_arg(a, lambda n: n.meta["value"])) for a in (node.args, node.kwargs))
    return args, kwargs


def method_on_meta(name: str, args: Any, kwargs: Any) -> Any:
    """A tensor method on meta tensors, which stay there whatever device they are sent to."""
    if name in ("cpu", "cuda"):
        return args[0]
    if name == "to":
        args = [value for value in args if not isinstance(value, (torch.device, str))]
        kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        if len(args) == 1 and not kwargs:
            return args[0]
    return getattr(args[0], name)(*args[1:], **kwargs)


def default_of(node: fx.Node) -> Any:
    """What a placeholder is where the caller passes nothing."""
    return node.args[0] if node.args else None


def failed(root: nn.Module, node: fx.Node, given: Any, error: Exception) -> CaptureError:
    """What to tell the user of a node that does not run on the meta device."""
    name = str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    where = node.meta.get("module_path") or node.name
    if node.op == "call_module" and not name.startswith("_function"):
        name, where = type(root.get_submodule(name)).__name__, name
    if isinstance(error, NotImplementedError) or "meta" in str(error):
        return UntraceableError(
            f"{name} needs the values of a tensor, which no graph over shapes can have",
            where=where,
            remedy=IN_TENSOR_OPERATIONS,
        )
    shapes: list[list[int]] = []
    each_tensor(given, lambda tensor: shapes.append(list(tensor.shape)))
    return CaptureError(
        f"{name} fails on inputs of shapes {shapes}: {first_line(error)}",
        where=where,
        remedy="pass example_inputs of the shapes and dtypes that the model takes",
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return not one.is_meta and one.shape == other.shape and torch.equal(one, other)


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)


def on_meta(value: Any) -> Any:
    """A tensor on the meta device; anything else as it is."""
    return value.to("meta") if isinstance(value, Tensor) else value
