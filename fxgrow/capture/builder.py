"""A graph under construction: the nodes behind tensors and numbers, and the sources of literals."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from fxgrow.capture import call_guards
from fxgrow.capture.answers import behind, if_finite, is_drawn, of_values, state_behind
from fxgrow.capture.chance import chance
from fxgrow.capture.contexts import Settled, settled
from fxgrow.capture.filled import Filled
from fxgrow.capture.methods import CALLER, HOOK, INSIDE, RUNNING, MethodRuns, calling_function, kinds_called
from fxgrow.capture.numbers import Attribute, Float, Int, Pending, node_of, of_numpy, plain, remembering
from fxgrow.capture.operators import MOVING
from fxgrow.capture.questions import Question, questions
from fxgrow.capture.refusing import Refusals
from fxgrow.errors import UntraceableError
from fxgrow.modules.containers import each_tensor, flat_tensors, holds_tensor, of_kind, with_dictionaries, with_items
from fxgrow.modules.holders import attribute, attributes_of, fields_of, held_by, holding, is_object
from fxgrow.modules.switching import kept_tensors, switched_again, switches_itself
from fxgrow.modules.tensors import CONSTANT, dotted, same_values
from fxgrow.opaque import packed_sequence
from fxgrow.rules.calls import writes_by_name

ASIDE = "calls_on_literals"
"""Where a node's meta has the calls that a forward makes before it, and that are no nodes."""


class Operands(NamedTuple):
    """Arguments as a graph holds them; sources: where literals among them come from, by their path."""

    args: Any
    kwargs: Any
    sources: dict[Any, Any]


_TYPES: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}
"""Types of Python's that torch takes for its own."""


class OutsideError(UntraceableError):
    """A tensor without data that this record has not made."""


class GraphBuilder(Refusals):
    """Makes the nodes of a graph, and knows which tensor each of them gives.

    Parameters
    ----------
    root: the model that runs, every tensor on the meta device.
    constants: collects the tensors that forwards make of numbers alone, by the names that they get in the model; one
        name for equal ones.
    originals: as of `Refusals`.
    """

    def __init__(self, root: nn.Module, constants: dict[str, Tensor], originals: Mapping[int, str]) -> None:
        super().__init__(originals)
        self.graph = fx.Graph()
        self.root = root
        self.constants = constants
        self.parts = dict(root.named_modules())
        self.modules: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self.plain: dict[int, str] = {}  # tensors that are neither parameters nor buffers
        self.moved: dict[int, tuple[Any, ...]] = {}  # these in another form: the call that gave it, for when it is used
        self.tensors: dict[int, dict[str, int]] = {}  # by module
        for path, module in self.parts.items():
            self.modules[id(module)], self.tensors[id(module)] = path, _tensors(module)
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self.names.setdefault(id(tensor), dotted(path, name))
            self.plain.update({id(t): dotted(path, n) for n, t in module.__dict__.items() if isinstance(t, Tensor)})
        self.methods = MethodRuns(self.parts.values(), self.modules)
        self.filled = Filled()
        self.aside: list[fx.Node] = []
        self.nodes: dict[int, fx.Node] = {}
        self.bare: dict[int, Tensor] = {}  # what stands for a tensor with values once it has a node
        self.numbers: dict[tuple[Any, ...], Any] = {}
        self.devices: dict[int, fx.Node] = {}
        self.dtypes: dict[torch.dtype, fx.Node] = {}
        self.alive: list[Any] = []
        self.without_gradients: set[fx.Node] = set()  # made while they were off
        self.grad_left: bool | None = None  # whether gradients are switched where a region ends; None: unknown
        self.kept: set[int] = set()  # tensors that parts made where their mode was set
        self.paths: list[tuple[str, int]] = []  # of the modules that run, and how many are being called then
        self.settling: set[fx.Node] = set()
        self.attributes_asked: set[Attribute] = set()
        self.asked: dict[str, str] = {}
        """Buffers by whose values the forward decides, and where."""
        self.by_size = False
        """Whether it was asked for what another size could change: a property of a tensor, or how many there are."""
        self.questions: set[Question] = set()
        self.entered: dict[str, tuple[Any, list[Tensor]]] = {}
        """The arguments that are no tensors as the forward gets them, and the tensors in them."""

    def answer(self, tensor: Tensor) -> Any:
        """What a tensor holds, if that is known; None if it is not."""
        node = self.node_of_tensor(tensor)
        answer = if_finite(node)
        if answer is not None:
            self.settled.append(Settled("that values are finite, which the forward asks", self.where(), lost=True))
            return answer
        values = self._made_of_sizes(tensor)
        if values is not None:
            return values.item()
        state = state_behind(node)
        values = of_values(node, {**self.constants, **state})
        if values is None:
            return None
        self.asked.update(dict.fromkeys(state, self.where()))
        said = f"that what the forward asks of {' and '.join(sorted(state))} is {values.item()}"
        self.settled.append(Settled(said, self.where(), lost=True))
        return values.item()

    def note_question(self, asked: str, tensor: Any = None) -> None:
        """Note what is asked of a tensor that another input could change."""
        self.by_size = True
        node = self.nodes.get(id(tensor))
        if node is not None and node.op == "placeholder":
            self.questions.update(questions(str(node.target), asked, tensor))

    def of_chance(self, value: Any) -> UntraceableError | None:
        """The refusal to say what a tensor holds that is drawn at random; None of any other."""
        drawn = isinstance(value, Tensor) and is_drawn(self.node_of_tensor(value))
        return chance("asks for a value that is drawn at random", self.where()) if drawn else None

    def _made_of_sizes(self, tensor: Tensor) -> Tensor | None:
        """The values of a tensor that goes by sizes alone, which are settled thereby; None of any other."""
        node = self.node_of_tensor(tensor)
        values = of_values(node, self.constants)
        if values is not None:
            self.by_size = True
            self.settling.update(source for source in behind([node]) if not holds_tensor(source.meta["value"]))
        return values

    def worked_out(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a call gives that needs values, on tensors that go by sizes alone; None of any other."""
        known = {id(tensor): self._made_of_sizes(tensor) for tensor in flat_tensors((args, kwargs))}
        if None in known.values():
            return None
        args, kwargs = each_tensor((args, kwargs), lambda tensor: known[id(tensor)])
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    def switch_again(self, module: nn.Module) -> None:
        """Let the graph have how a module that is called makes what it keeps where its mode is set, if it does so."""
        before = set(map(id, kept_tensors(module))) if switches_itself(module) else set()
        if before:
            quiet, self.quiet = self.quiet, True
            after = switched_again(module)
            self.quiet = quiet
            if before != set(map(id, after)):
                self.kept.update(map(id, switched_again(module)))

    def new_node(self, kind: str, target: Any, args: Any, kwargs: Any, value: Any, place: str | None = None) -> fx.Node:
        """A node at the end of the graph, which gives a value; `place`: whose forward made it, if not what runs now."""
        node = self.graph.create_node(kind, target)
        node.args, node.kwargs = args, kwargs  # torch looks through those that a node is created with
        node.meta["value"] = value
        if not torch.is_grad_enabled():
            self.without_gradients.add(node)
        if self.aside and kind != "get_attr":  # which may be moved
            node.meta[ASIDE], self.aside = self.aside, []
        return self._placed(node, place)

    def _placed(self, node: fx.Node, place: str | None = None) -> fx.Node:
        node.meta["module_path"] = self.place() if place is None else place
        if runs := self.methods.now():
            node.meta[RUNNING] = runs
        if (hook := self.methods.hook()) is not None:
            node.meta[HOOK] = hook
        if node.op in ("call_function", "call_method"):
            node.meta[CALLER] = calling_function()
            node.meta[INSIDE] = kinds_called(self._running()[1])
        return node

    def met_aside(self, target: Any, arguments: Any) -> None:
        """A call on tensors made of literals, which is no node, is noted with the next one: a module makes it, too."""
        literals = list(flat_tensors(arguments))
        for tensor in literals:
            self.met_outside(tensor)
        kind = "call_method" if isinstance(target, str) else "call_function"
        if literals:
            self.aside.append(self._placed(fx.Node(self.graph, "aside", kind, target, (), {})))

    def call(self, target: Any, args: tuple[Any, ...], value: Any = None) -> fx.Node:
        """A node for a call of a function."""
        return self.new_node("call_function", target, self.argument(args), {}, value)

    def number(self, function: Callable[..., Any], operands: tuple[Any, ...], value: Any) -> fx.Node:
        """A node for what a forward computes from sizes."""
        return self._node_of_call("call_function", function, self.operands(operands, {}), plain(value))

    def place(self) -> str:
        """Whose forward is running; of a part that another one holds too, the one that called it here."""
        return self._running()[0]

    def _running(self) -> tuple[str, int]:
        for caller, called in itertools.pairwise(self.paths):
            if caller[0] and not called[0].startswith(caller[0] + "."):
                return caller
        return self.paths[-1] if self.paths else ("", 0)

    def where(self) -> str:
        """The same for people, who know the model itself by its class."""
        return self.place() or type(self.root).__name__

    def running_hook(self) -> str | None:
        """The name of the hook that runs; None where none does."""
        hook = self.methods.hook()
        return None if hook is None else hook.name

    def operands(self, args: Any, kwargs: Any) -> Operands:
        """What a call is given, as the graph holds it."""
        sources: dict[Any, Any] = {}
        return Operands(self.argument(args, ("args",), sources), self.argument(kwargs, ("kwargs",), sources), sources)

    def operation(self, kind: str, target: Any, operands: Operands, value: Any, place: str | None = None) -> fx.Node:
        """A node for a call, by which what it gave is known from now on; `place` as in `new_node`."""
        node = self._node_of_call(kind, target, operands, value, place)
        self.bind(value, node)
        return node

    def _node_of_call(
        self, kind: str, target: Any, operands: Operands, value: Any, place: str | None = None
    ) -> fx.Node:
        node = self.new_node(kind, target, operands.args, operands.kwargs, value, place)
        if operands.sources:
            node.meta["sources"] = operands.sources
        return node

    def argument(self, value: Any, path: tuple[Any, ...] = (), sources: dict[Any, Any] | None = None) -> Any:
        """An argument as the graph holds it; where literals come from is noted in `sources`, by their path."""
        if isinstance(value, Tensor):
            return self.node_of_tensor(value)
        if isinstance(value, (Int, Float)):
            node = node_of(value)
            if node is None and sources is not None and value.source is not None:
                sources[path] = value.source
            return plain(value) if node is None else node
        if isinstance(value, PackedSequence):
            return self.call(packed_sequence, tuple(value), value)
        if isinstance(value, (tuple, list)):
            items = [self.argument(item, (*path, k), sources) for k, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self.argument(item, (*path, key), sources) for key, item in value.items()}
        if isinstance(value, slice):
            names = ("start", "stop", "step")
            return slice(*(self.argument(getattr(value, name), (*path, name), sources) for name in names))
        if of_numpy(value):  # numbers and indices
            return value.tolist()
        if isinstance(value, range):
            return list(value)
        if isinstance(value, type) and value in _TYPES:
            return _TYPES[value]
        if isinstance(value, torch.device) and id(value) in self.devices:
            return self.devices[id(value)]
        if isinstance(value, torch.dtype) and value in self.dtypes:
            return self.property_of(self.dtypes[value], "dtype", value)
        return value

    def take_over(self, first: GraphBuilder, nodes: list[fx.Node]) -> dict[fx.Node, fx.Node]:
        """Know what these nodes of another graph of the same model gave; returns those nodes by their copies.

        nodes: in order, with every node that they read but for those that say of which type a tensor is.
        """
        copies: dict[fx.Node, fx.Node] = {}
        for node in nodes:
            copies[node] = self.graph.node_copy(node, lambda source: copies.get(source, source.meta["value"]))
        self.nodes.update({tensor: copies[node] for tensor, node in first.nodes.items() if node in copies})
        self.alive.extend(first.alive)
        return {copy: node for node, copy in copies.items()}

    def knows(self, value: Any) -> bool:
        """Whether an argument comes from what is recorded, and not from literals alone."""
        if isinstance(value, Tensor):
            return id(value) in self.nodes or id(value) in self.names
        if isinstance(value, (tuple, list)):
            return any(map(self.knows, value))
        if isinstance(value, dict):
            return any(map(self.knows, value.values()))
        if isinstance(value, slice):
            return any(map(self.knows, (value.start, value.stop, value.step)))
        return node_of(value) is not None

    def note_moved(self, name: str, args: Any, kwargs: Any, value: Any) -> None:
        """A call of literals; what it gave of a plain tensor is recorded once it is used, unless it is written to."""
        if writes_by_name(name):
            self.moved.clear()
        elif name in MOVING and args and (id(args[0]) in self.plain or id(args[0]) in self.moved):
            self.moved[id(value)] = value, name, args, kwargs

    def has_its_own(self, module: nn.Module) -> bool:
        """Whether a module has the tensors that it had before the run, and no others for a while or from now on."""
        return _tensors(module) == self.tensors.get(id(module))

    def node_of_tensor(self, tensor: Tensor) -> fx.Node:
        """The node that gives a tensor; for one of the model, made where it is first asked for."""
        node = self.nodes.get(id(tensor))
        if node is None and id(tensor) in self.moved:
            _, target, args, kwargs = self.moved.pop(id(tensor))
            operands = self.operands(args, kwargs)
            self.bare[id(tensor)] = bare = tensor.to("meta")
            node = self.operation("call_method", target, operands, bare)
            self.bind(tensor, node)
        elif node is None and (node := self.filled.node_of(tensor)) is not None:
            self.bare[id(tensor)] = node.meta["value"]
            self.bind(tensor, node)
        elif node is None:
            name = self.names.get(id(tensor))
            if name is None and tensor.is_meta:
                raise OutsideError(
                    "a tensor comes from a function that cannot be seen into, such as a scripted or compiled one, or "
                    "was made outside of the forward",
                    where=self.where(),
                    remedy="call the plain function, or grow the parts around it",
                )
            if name is None:
                self.met_outside(tensor)
                with torch._C.DisableTorchFunction():  # a layer that is called on it has not switched the recorder off
                    name = self._constant(tensor)
                    self.bare[id(tensor)] = tensor.to("meta")
            node = self.new_node("get_attr", name, (), {}, self.bare.get(id(tensor), tensor))
            self.bind(tensor, node)
        return node

    def _constant(self, value: Tensor) -> str:
        if id(value) in self.plain:
            return self.plain[id(value)]
        for name, constant in self.constants.items():
            if constant is value or (constant.dtype == value.dtype and same_values(constant, value)):
                return name
        name = f"{CONSTANT}{len(self.constants)}"
        self.constants[name] = value.detach().clone()
        return name

    def bind(self, value: Any, node: fx.Node) -> None:
        """Let what an operation gave be known by its node."""
        if isinstance(value, Tensor):
            self.nodes[id(value)] = node
            self.alive.append(value)
            return
        self.by_size = True
        if isinstance(value, (tuple, list)):
            for k, item in enumerate(value):
                if isinstance(item, (Tensor, tuple, list)):
                    self.bind(item, self.new_node("call_function", operator.getitem, (node, k), {}, item))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(item, (Tensor, tuple, list)):
                    self.bind(item, self.new_node("call_function", operator.getitem, (node, key), {}, item))

    def reshaped(self, tensor: Tensor, made: Tensor, in_place: Callable[[], Any]) -> Tensor:
        """A tensor that gets another shape in place, known from now on as what another operation made of it."""
        if self.node_of_tensor(tensor).op in ("placeholder", "get_attr"):
            self.settled.append(
                Settled("that an input or a weight gets another shape in place", self.where(), lost=True)
            )
        before = tensor.view(tensor.shape)  # what the nodes so far gave
        for node in self.graph.nodes:
            value = node.meta["value"]
            if any(held is tensor for held in flat_tensors(value)):
                node.meta["value"] = each_tensor(value, lambda held: before if held is tensor else held)
        in_place()
        if id(tensor) in self.bare:
            self.bare[id(tensor)] = made
        self.bind(tensor, self.nodes[id(made)])
        return tensor

    def left_in_arguments(self, output: Any) -> list[str]:
        """The arguments into which the forward has put tensors that it does not return."""
        entered = [tensor for _, before in self.entered.values() for tensor in before]
        known = {*map(id, entered), *map(id, flat_tensors(output))}
        return [name for name, (value, _) in self.entered.items() if {*map(id, of_kind(value, Tensor))} - known]

    def entering(self, node: fx.Node, value: Any, name: str) -> Any:
        """An argument as the forward gets it: its tensors are known, and what is no tensor is settled."""
        if isinstance(value, Tensor):
            needing = value.requires_grad
            value = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            value.requires_grad_(needing)
            self.bind(value, node)
            return value
        held: Any = value if isinstance(value, Mapping) else {}
        pick: Any = operator.getitem
        if isinstance(value, (tuple, list)):
            held = dict(enumerate(value))
        elif is_object(value) and holds_tensor(value):
            held, pick = attributes_of(value), attribute
        if not held:
            if call_guards.writable(value):
                self.new_node("call_function", settled, (node, value, name), {}, None)
            else:
                called = call_guards.name_of_object(value)
                self.new_node("call_function", call_guards.same_object, (node, called, name), {}, None)
            if isinstance(value, (list, dict)) or is_object(value):
                return holding(value, held_by(value) or attributes_of(value))  # the forward may put something into it
            return remembering(value, node)
        keys = list(value) if isinstance(value, Mapping) else len(held)
        if pick is operator.getitem and call_guards.writable(keys):
            self.new_node("call_function", call_guards.structured, (node, keys, name), {}, None)
        entered = {}
        for key, item in held.items():
            picked = self.new_node("call_function", pick, (node, key), {}, with_dictionaries(item))
            called = f"{name}.{key}" if pick is attribute else f"{name}[{key!r}]"
            entered[key] = self.entering(picked, item, called)
            if isinstance(item, Tensor) and fields_of(value):
                self.new_node("call_function", call_guards.still_tensor, (picked, called), {}, None)
        return with_items(value, entered)

    def property_of(self, node: fx.Node, name: str, value: Any) -> fx.Node:
        """A node for a property of the tensor that a node gives: its device or dtype."""
        key = (node, name, None, self.place())
        if key not in self.numbers:
            self.numbers[key] = self.new_node("call_function", getattr, (node, name), {}, value)
        return self.numbers[key]  # type: ignore[no-any-return]

    def sizes_of(self, tensor: Tensor) -> torch.Size:
        """The shape of a tensor, in numbers that remember."""
        node = self.node_of_tensor(tensor)
        return torch.Size([self._size(node, k, size) for k, size in enumerate(self.bare.get(id(tensor), tensor).shape)])

    def _size(self, node: fx.Node, axis: int, size: int) -> Int:
        place = self.place()
        key = (node, "size", axis, place)
        if key not in self.numbers:
            make = partial(self.new_node, "call_method", "size", (node, axis), {}, size, place)
            self.numbers[key] = Int(size, Pending(self.graph, make))
        return self.numbers[key]  # type: ignore[no-any-return]


def _tensors(module: nn.Module) -> dict[str, int]:
    """The identities of the tensors in a module, by name."""
    attributes = (*module._parameters.items(), *module._buffers.items(), *module.__dict__.items())
    return {name: id(value) for name, value in attributes if isinstance(value, Tensor)}
