"""Values on the meta device: of single calls, and of all nodes of an existing graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.capture.evaluation import Memory, identity, told
from fxgrow.capture.masks import asks_for_places, masked, places
from fxgrow.capture.supposed import SUPPOSED
from fxgrow.errors import CaptureError, UntraceableError, first_line
from fxgrow.modules.containers import each_tensor, with_dictionaries
from fxgrow.rules.calls import name_of

IN_TENSOR_OPERATIONS = "rewrite it in terms of tensor operations, or grow the parts around it"


def staying(function: Callable[..., Any], args: Any, kwargs: Any, device: str = "meta") -> Any:
    """A call on tensors of a device, which stay there whatever device they are sent to."""
    name = getattr(function, "__name__", "")
    if asks_for_places(name, args, kwargs) and (of := masked(args, kwargs)).is_meta:
        return places(name, of, as_tuple=bool(kwargs.get("as_tuple")))
    if name in SUPPOSED and device == "meta":
        return SUPPOSED[name](*args, **kwargs)
    if args and isinstance(args[0], Tensor) and name in ("cpu", "cuda", "pin_memory", "share_memory_"):
        return args[0]
    if args and isinstance(args[0], Tensor) and name == "to":
        args = [value for value in args if not isinstance(value, (torch.device, str))]
        kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        if len(args) == 2 and isinstance(args[1], Tensor):
            args[1] = args[1].dtype
        if len(args) == 1 and not kwargs:
            return args[0]
    elif kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": device}
    return function(*args, **kwargs)


def default_of(node: fx.Node) -> Any:
    """What a placeholder is where the caller passes nothing."""
    return node.args[0] if node.args else None


def needs_values(error: Exception) -> bool:
    """Whether a call fails on the meta device because there are no values."""
    return isinstance(error, NotImplementedError) or "meta" in str(error)


def call_failed(name: str, where: str | None, operands: Any, error: Exception) -> CaptureError:
    """What to tell the user of a call that does not run on the meta device."""
    if needs_values(error):
        return UntraceableError(
            f"{name} needs the values of a tensor, which no graph over shapes can have",
            where=where,
            remedy=IN_TENSOR_OPERATIONS,
        )
    shapes: list[list[int]] = []
    each_tensor(operands, lambda tensor: shapes.append([int(size) for size in tensor.shape]))
    return CaptureError(
        f"{name} fails on inputs of shapes {shapes}: {first_line(error)}",
        where=where,
        remedy="pass example_inputs of the shapes and dtypes that the model takes",
    )


def _moved(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


class OnShapes(fx.Interpreter):
    """Runs the nodes of a graph on the meta device."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.memory = Memory()
        self.extra_traceback = False

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return next(self.args_iter)  # for "*args" and "**kwargs" too

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.call_function(getattr(type(args[0]), str(target)), args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.memory.outcome(lambda *a, **k: staying(target, a, k), target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(str(target))
        value = told(module, args, kwargs)
        return self.memory.outcome(module, identity(module, str(target)), args, kwargs) if value is None else value

    def run_node(self, n: fx.Node) -> Any:
        try:
            return each_tensor(super().run_node(n), _moved)  # some are made elsewhere, whatever the device should be
        except CaptureError:
            raise
        except Exception as error:
            name = name_of(n)
            where = n.meta.get("module_path") or n.name
            if n.op == "call_module" and not name.startswith("_function"):
                name, where = type(self.module.get_submodule(name)).__name__, name
            raise call_failed(name, where, [self.env[a] for a in n.all_input_nodes], error) from error


class _Propagation(OnShapes):
    """Notes what each node gives."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["value"] = with_dictionaries(value) if n.op == "placeholder" else value
        return value


def _ordered(placeholders: list[fx.Node], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """What each placeholder is, where a graph is called with these arguments."""
    left = list(args)
    names = {str(node.target) for node in placeholders}
    for node in placeholders:
        name = str(node.target)
        if name.startswith("**"):
            yield {key: value for key, value in kwargs.items() if key not in names}
        elif name.startswith("*"):
            yield tuple(left)
            left = []
        else:
            yield left.pop(0) if left else kwargs.get(name, default_of(node))


def propagate(root: nn.Module, graph: fx.Graph, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    """Fill `meta["value"]` of every node.

    Raises
    ------
    CaptureError: a node fails on these inputs.
    """
    ordered = list(_ordered([node for node in graph.nodes if node.op == "placeholder"], *inputs))
    interpreter = _Propagation(root, graph)
    with torch.device("meta"):
        interpreter.run(*ordered)
