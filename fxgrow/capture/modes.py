"""Train and eval mode: one graph that looks up what differs, or two graphs over one set of modules."""

from __future__ import annotations

import copy
import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import fx, nn

from fxgrow import guards
from fxgrow.capture.contexts import CONTEXTS, contexts_kept
from fxgrow.capture.outputs import Form
from fxgrow.capture.traced import Traced
from fxgrow.capture.wrapping import attribute_of, wrap
from fxgrow.errors import CaptureError
from fxgrow.modules.libraries import home_of
from fxgrow.modules.replacing import replaced
from fxgrow.modules.switching import switches_itself
from fxgrow.modules.tensors import COMPILED, CONSTANT, dotted
from fxgrow.opaque import AROUND_FORWARD, ByMode, NotScripted


class GrownGraphModule(Traced, fx.GraphModule):
    """A graph module whose further attributes survive copying and pickling."""

    _form: Form | None = None

    def recompile(self) -> Any:
        with replaced(fx, "wrap", wrap), replaced(fx.graph, "_format_target", attribute_of):
            code = super().recompile()
        kind = type(self)
        if any("_wrapped_call" in vars(base) for base in kind.__mro__[1:]):  # mixed in: two of them call each other
            del kind._wrapped_call, kind.__call__  # type: ignore[attr-defined]
        acting = any(node.target in CONTEXTS for node in self._graph.nodes)
        if acting or self._form is not None:
            kind.forward = _around(kind.forward, self._form, acting)
        return code

    def put_out_as(self, form: Form | None) -> None:
        """Let outputs be of the class that the original's are of."""
        self._form = form
        self.recompile()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """As torch's; constants change their device and not the precision in which the forward makes them."""
        constants = {name: tensor for name, tensor in self._buffers.items() if name.startswith(CONSTANT)}
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in constants.items():
            moved = self._buffers[name]
            if tensor is not None and moved is not None and moved.dtype != tensor.dtype:
                self._buffers[name] = tensor.to(moved.device)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> GrownGraphModule:
        return _rebuilt(type(self), *copy.deepcopy(_parts(self), memo))

    def __reduce__(self) -> Any:
        modules, graphs, extras = _parts(self)
        written = {mode: written_down(graph) for mode, graph in graphs.items()}
        return _unpickled, (modules, written, extras, self._class_name())

    def __prepare_scriptable__(self) -> Any:
        targets = {node.target for graph in self.graphs().values() for node in graph.nodes} - {guards.multiplied}
        if any(home_of(target).startswith("fxgrow.") for target in targets):
            return NotScripted.__prepare_scriptable__(self)
        return self

    def _class_name(self) -> str:
        return type(self).__name__

    def graphs(self) -> dict[str, fx.Graph]:
        """The graph of each mode: {"both": ...} or {"eval": ..., "train": ...}."""
        return {"both": self._graph}


def _around(forward: Callable[..., Any], form: Form | None, acting: bool) -> Callable[..., Any]:
    """A generated forward whose output is of a class of its own, and which leaves every context it enters."""

    @functools.wraps(forward)
    def called(*args: Any, **kwargs: Any) -> Any:
        with contexts_kept() if acting else nullcontext():
            output = forward(*args, **kwargs)
        return output if form is None else form.put_around(output)

    return called


class ModalGraphModule(GrownGraphModule):
    """Two graphs over one set of modules; `train(mode)` switches between them.

    What runs goes by the mode of the module itself, also where that was set by hand: its class has both compiled.
    """

    _by_mode: dict[str, fx.Graph]
    _forwards: Mapping[str, Callable[..., Any]] = MappingProxyType({})

    def recompile(self) -> Any:
        return self._compiled({})

    def _compiled(self, others: Mapping[str, Callable[..., Any]]) -> Any:
        """Compile the graph that is in use; others: what was compiled for other modes and holds."""
        code = super().recompile()
        if "_by_mode" in self.__dict__:
            kind = type(self)
            kind._forwards = {**others, self._mode(): kind.forward}
            kind.forward = _by_mode_of(kind.forward)
        return code

    def _mode(self) -> str:
        return "train" if self._graph is self._by_mode["train"] else "eval"

    def graphs(self) -> dict[str, fx.Graph]:
        return dict(self._by_mode)

    def train(self, mode: bool = True) -> ModalGraphModule:
        super().train(mode)
        graph = self._by_mode["train" if mode else "eval"]
        if self._graph is not graph:
            self._graph = graph
            self._compiled(self._forwards)
        return self


def _by_mode_of(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that runs what was compiled for the mode of the module that it is called on."""

    @functools.wraps(forward)
    def called(self: ModalGraphModule, *args: Any, **kwargs: Any) -> Any:
        mode = "train" if self.training else "eval"
        if mode not in self._forwards:
            self._graph = self._by_mode[mode]
            self._compiled(self._forwards)
        return self._forwards[mode](self, *args, **kwargs)

    return called


HOOKS = (*AROUND_FORWARD, "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook")
"""Where a module keeps what runs around its forward and backward."""

_TREE = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training")
_NEEDED = {"_graph", "_code", "_by_mode", "_form", "_forwards", "_compiled", "recompile", "graphs", "put_out_as"}
_DERIVED = {"_graph", "_code", "_by_mode", "shape_env", "_lineno_map", "_prologue_start", COMPILED}


def _parts(module: GrownGraphModule) -> tuple[dict[str, Any], dict[str, fx.Graph], dict[str, Any]]:
    modules = {name: module.__dict__[name] for name in _TREE}
    extras = {k: v for k, v in module.__dict__.items() if k not in _TREE and k not in _DERIVED}
    return modules, module.graphs(), extras


def _holder(modules: dict[str, Any]) -> nn.Module:
    holder = nn.Module()
    holder.__dict__.update(modules)
    return holder


def graph_module(root: nn.Module, graphs: dict[str, fx.Graph], class_name: str) -> GrownGraphModule:
    """A graph module over the very tree of `root`, used by its graphs or not."""
    if "both" in graphs:
        result = GrownGraphModule(nn.Module(), fx.Graph(), class_name)
        adopt(result, root)
        _let_run(result, graphs["both"])
        return result
    modal = ModalGraphModule(nn.Module(), fx.Graph(), class_name)
    adopt(modal, root)
    modal._by_mode = dict(graphs)
    _let_run(modal, graphs["train" if root.training else "eval"])
    return modal


def _held(module: nn.Module, name: str) -> Any:
    return nn.Module.__getattr__(module, name)


def _let_run(module: GrownGraphModule, graph: fx.Graph) -> None:
    fx.GraphModule.graph.fset(module, graph)  # type: ignore[attr-defined]  # `graph` may be a part of the model


def adopt(module: GrownGraphModule, root: nn.Module) -> None:
    """Take over the children, parameters and buffers of another module.

    A part whose name torch's graph modules have for something else (`code`, `graph`, `meta`) is what the name gives.

    Raises
    ------
    CaptureError: a part has a name without which a graph module does not run.
    """
    for name in _TREE:
        module.__dict__[name] = root.__dict__[name]
    for name in (*module._modules, *module._parameters, *module._buffers):
        if name in _NEEDED:
            raise CaptureError(
                f"a part of the model is called {name}, as graph modules call what they run by",
                where=name,
                remedy="call it otherwise",
            )
        module.__dict__.pop(name, None)
        if hasattr(type(module), name):  # each graph module is of a class of its own
            setattr(type(module), name, property(partial(_held, name=name)))


def _rebuilt(
    kind: type, modules: dict[str, Any], graphs: dict[str, fx.Graph], extras: dict[str, Any]
) -> GrownGraphModule:
    result = graph_module(_holder(modules), graphs, kind.__name__)
    _restore(result, extras)
    return result


def _unpickled(
    modules: dict[str, Any], written: dict[str, list[Written]], extras: dict[str, Any], class_name: str
) -> GrownGraphModule:
    result = graph_module(_holder(modules), {mode: read_back(nodes) for mode, nodes in written.items()}, class_name)
    _restore(result, extras)
    return result


@dataclass(frozen=True)
class Written:
    """A node as data; other nodes are referred to by name."""

    kind: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    place: str


@dataclass(frozen=True)
class Reference:
    """Another node, by its name."""

    name: str


@dataclass(frozen=True)
class Named:
    """A function by the name that its module has for it, where `pickle` would look for another: `F.max_pool2d`."""

    module: str
    name: str

    def function(self) -> Any:
        """The function itself."""
        return getattr(importlib.import_module(self.module), self.name)


def _by_name(target: Any) -> Any:
    """A function that was made inside another one as the name under which its module has it; anything else as it is."""
    if "<locals>" not in getattr(target, "__qualname__", ""):
        return target
    named = Named(target.__module__, target.__name__)
    return named if getattr(sys.modules.get(named.module), named.name, None) is target else target


def written_down(graph: fx.Graph) -> list[Written]:
    """A graph as data that can be pickled, rather than as code that has to be traced again."""

    def reference(item: Any) -> Any:
        return Reference(item.name) if isinstance(item, fx.Node) else item

    def referring(raw: Any) -> Any:
        return fx.node.map_aggregate(raw, reference)

    return [
        Written(n.op, n.name, _by_name(n.target), referring(n.args), referring(n.kwargs), n.meta.get("module_path", ""))
        for n in graph.nodes
    ]


def read_back(nodes: list[Written]) -> fx.Graph:
    """The graph that was written down."""
    graph = fx.Graph()
    by_name: dict[str, fx.Node] = {}

    def referred_to(item: Any) -> Any:
        return by_name[item.name] if isinstance(item, Reference) else item

    def resolved(raw: Any) -> Any:
        return fx.node.map_aggregate(raw, referred_to)

    for written in nodes:
        target = written.target.function() if isinstance(written.target, Named) else written.target
        node = graph.create_node(written.kind, target, resolved(written.args), resolved(written.kwargs), written.name)
        node.meta["module_path"] = written.place
        by_name[written.name] = node
    return graph


_KEPT = "_fxgrow_class"


def kept_as(grown: GrownGraphModule, original: nn.Module) -> GrownGraphModule:
    """A graph module that is of its original's class too, so that other methods than forward can be called."""
    kind = getattr(original, _KEPT, type(original))
    for name, value in original.__dict__.items():
        if name not in _TREE and name not in _DERIVED and not isinstance(value, (nn.Module, fx.Graph)):
            grown.__dict__.setdefault(name, value)
    if not (issubclass(kind, fx.GraphModule) and switches_itself(original)):  # it would switch to graphs of its own
        setattr(grown, _KEPT, kind)
        _mix_in(grown, kind)
    return grown


def _mix_in(module: nn.Module, kind: type) -> None:
    module.__class__ = type(kind.__name__, (type(module), kind), {})


def _restore(module: nn.Module, extras: dict[str, Any]) -> None:
    for name, value in extras.items():
        if name in HOOKS:
            module.__dict__[name] = value
        else:
            module.__dict__.setdefault(name, value)
    if _KEPT in extras:
        _mix_in(module, extras[_KEPT])
    if isinstance(module, GrownGraphModule) and module._form is not None:
        module.recompile()


def copied(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph, with the names and values of its nodes."""
    twin = fx.Graph()
    renamed: dict[fx.Node, fx.Node] = {}
    renamed[graph.output_node()] = twin.output(twin.graph_copy(graph, renamed))
    for old, new in renamed.items():
        new.name = old.name
        new.meta = dict(old.meta)
    return twin


def copies(graphs: Mapping[str, fx.Graph]) -> dict[str, fx.Graph]:
    """Copies of the graphs of each mode."""
    return {mode: copied(graph) for mode, graph in graphs.items()}


def naming_alike(graphs: Mapping[str, fx.Graph]) -> dict[str, fx.Graph]:
    """Copies which give new nodes the names that the graphs would: these depend on nodes that are gone, too."""
    twins = copies(graphs)
    for mode, graph in graphs.items():
        names, of_twin = graph._graph_namespace, twins[mode]._graph_namespace
        of_twin._used_names.update(names._used_names)
        of_twin._base_count.update(names._base_count)
    return twins


def merge(model: nn.Module, graphs: dict[str, fx.Graph]) -> dict[str, fx.Graph]:
    """One graph where train and eval differ in literals only, each fetched by a `ByMode`; else both graphs."""
    eval_nodes, train_nodes = list(graphs["eval"].nodes), list(graphs["train"].nodes)
    if len(eval_nodes) != len(train_nodes):
        return graphs
    partner = dict(zip(train_nodes, eval_nodes, strict=True))
    differing: list[tuple[fx.Node, Any, Any]] = []
    for in_eval, in_train in zip(eval_nodes, train_nodes, strict=True):
        if (in_eval.op, in_eval.target) != (in_train.op, in_train.target):
            return graphs
        args = fx.node.map_arg(in_train.args, partner.__getitem__)
        kwargs = fx.node.map_arg(in_train.kwargs, partner.__getitem__)
        both = (in_eval.args, dict(in_eval.kwargs)), (args, dict(kwargs))
        if not _alike(*both, _same):
            if not _alike(*both, _differ_as_literals):
                return graphs
            differing.append((in_eval, args, kwargs))
    paths: dict[tuple[str, str, str], str] = {}
    for node, args, kwargs in differing:
        node.args = _chosen(model, node, node.args, args, paths)
        node.kwargs = _chosen(model, node, dict(node.kwargs), dict(kwargs), paths)
    return {"both": graphs["eval"]}


def _alike(in_eval: Any, in_train: Any, same: Callable[[Any, Any], bool]) -> bool:
    """Whether two argument structures hold the same at the same places, as `same` tells of two items."""
    if isinstance(in_eval, (tuple, list)) and isinstance(in_train, (tuple, list)):
        pairs = zip(in_eval, in_train, strict=False)
        return len(in_eval) == len(in_train) and all(_alike(a, b, same) for a, b in pairs)
    if isinstance(in_eval, dict) and isinstance(in_train, dict):
        return in_eval.keys() == in_train.keys() and all(_alike(in_eval[k], in_train[k], same) for k in in_eval)
    return same(in_eval, in_train)


def _same(in_eval: Any, in_train: Any) -> bool:
    """Whether two items are the same: 0 and 0.0 are not, which make other tensors of integers."""
    return in_eval is in_train or (type(in_eval) is type(in_train) and bool(in_eval == in_train))


def _differ_as_literals(in_eval: Any, in_train: Any) -> bool:
    """Whether two items are the same but for a plain number or a flag."""
    if isinstance(in_eval, fx.Node) or isinstance(in_train, fx.Node):
        return in_eval is in_train
    return in_eval == in_train or (isinstance(in_eval, (bool, int, float)) and isinstance(in_train, (bool, int, float)))


def _chosen(
    model: nn.Module, node: fx.Node, in_eval: Any, in_train: Any, paths: dict[tuple[str, str, str], str]
) -> Any:
    if isinstance(in_eval, (tuple, list)):
        chosen = [_chosen(model, node, a, b, paths) for a, b in zip(in_eval, in_train, strict=True)]
        return chosen if isinstance(in_eval, list) else tuple(chosen)
    if isinstance(in_eval, dict):
        return {k: _chosen(model, node, in_eval[k], in_train[k], paths) for k in in_eval}
    if isinstance(in_eval, fx.Node) or _same(in_eval, in_train):
        return in_eval
    path = node.meta.get("module_path", "")  # of the part whose forward asked, so that it follows that part
    key = (path, repr(in_train), repr(in_eval))
    if key not in paths:
        name = f"_by_mode_{len(paths)}"
        paths[key] = dotted(path, name)
        part = model.get_submodule(path)
        part.add_module(name, ByMode(in_train, in_eval).train(part.training))
    with node.graph.inserting_before(node):
        fetched = node.graph.call_module(paths[key])
    fetched.meta.update(value=in_eval, module_path=node.meta.get("module_path", ""))
    return fetched
