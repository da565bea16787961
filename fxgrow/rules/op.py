"""One use of an operation in a graph, as a law sees it: operands, parameters, integers, outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxgrow.axes.layout import Layout, Leaf, Reason, leaves, resolve
from fxgrow.axes.unify import NO_UNITS, Unifier
from fxgrow.modules.containers import each_of_kind, of_kind
from fxgrow.opaque import CustomFunction
from fxgrow.rules.calls import Called

if TYPE_CHECKING:
    from fxgrow.rules.law import Law

Path = tuple[Any, ...]
"""Where an argument sits in a node: ("args", 1, 0), ("kwargs", "scale"), ("args", 1, 2, "stop")."""


@dataclass(eq=False)
class Tensor:
    """A tensor in the graph: one layout per axis, and where it comes from.

    parameter: the name of a parameter or buffer. learns: False for a buffer.
    """

    axes: tuple[Layout, ...]
    parameter: str | None = None
    op: Op | None = None
    learns: bool = True
    _settled: frozenset[Leaf] = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def rank(self) -> int:
        return len(self.axes)

    def axis(self, index: int) -> Layout:
        return resolve(self.axes[index])

    def leaves(self) -> frozenset[Leaf]:
        return self._settled or frozenset(leaf for axis in self.axes for leaf in leaves(axis))

    def settle(self) -> None:
        """Keep the leaves as they are: all graphs were read, and what is tied is tied."""
        self._settled = self.leaves()


Tree = Tensor | tuple[Any, ...] | list[Any] | dict[Any, Any] | None
"""What a node evaluates to: a tensor, a container of trees, or None for anything else."""


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree, in order."""
    return of_kind(tree, Tensor)


@dataclass(eq=False)
class Op(Called["Tensor"]):
    """A node with its law, its operands and what the law has found out about it."""

    node: fx.Node
    law: Law
    unifier: Unifier
    module: Any
    tree_of: Callable[[fx.Node], Tree]
    parameter_of: Callable[[str], Tensor | None]
    output: Tree = None
    data: dict[str, Any] = field(default_factory=dict)
    sizes: list[tuple[Path, Layout]] = field(default_factory=list)
    pins: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    attributes: list[tuple[str, Layout, Tensor | None]] = field(default_factory=list)
    looked_at: set[fx.Node] = field(default_factory=set)
    roles: list[tuple[Tensor, str]] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Where in the model the op is: its module path, or else the name of its node."""
        if self.node.op == "call_module" and not isinstance(self.module, CustomFunction):
            return str(self.node.target)
        path = self.node.meta.get("module_path", "")
        return f"{path}.{self.node.name}" if path else self.node.name

    @property
    def value(self) -> Any:
        """The node's value on the meta device."""
        return self.node.meta["value"]

    # -- arguments -------------------------------------------------------------------------------------

    def path(self, index: int, name: str) -> Path:
        return ("args", index) if index < len(self.node.args) else ("kwargs", name)

    def number_paths(self) -> Iterator[tuple[Path, fx.Node]]:
        """Every argument that is a node holding no tensor."""

        def walk(raw: Any, path: Path) -> Iterator[tuple[Path, fx.Node]]:
            if isinstance(raw, fx.Node):
                if not any(True for _ in tensors(self.tree_of(raw))) and raw.meta["value"] is not None:
                    yield path, raw
            elif isinstance(raw, (tuple, list)):
                for k, item in enumerate(raw):
                    yield from walk(item, (*path, k))
            elif isinstance(raw, slice):
                for name in ("start", "stop", "step"):
                    yield from walk(getattr(raw, name), (*path, name))

        yield from walk(list(self.node.args), ("args",))
        for name, raw in self.node.kwargs.items():
            yield from walk(raw, ("kwargs", name))

    def lower(self, raw: Any) -> Any:
        """An argument with nodes replaced by tensors, or by their value where they are not tensors."""
        return each_of_kind(raw, fx.Node, self._lowered)

    def _lowered(self, node: fx.Node) -> Any:
        tree = self.tree_of(node)
        if tree is None:
            self.looked_at.add(node)
        return node.meta["value"] if tree is None else tree

    def tensor(self, index: int = 0, name: str = "input") -> Tensor:
        value = self.optional(index, name)
        if value is None:
            raise NotImplementedError(f"argument {name!r} of {self.name} is not a tensor")
        return value

    def optional(self, index: int, name: str) -> Tensor | None:
        argument = self.argument(index, name)
        return argument if isinstance(argument, Tensor) else None

    def operands(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return list(self._operands)

    @cached_property
    def _operands(self) -> tuple[Tensor, ...]:
        return tuple(tensors(each_of_kind([*self.node.args, *self.node.kwargs.values()], fx.Node, self.tree_of)))

    def parameter(self, name: str) -> Tensor | None:
        """The module's own parameter or buffer of that name."""
        return self.parameter_of(f"{self.node.target}.{name}")

    def role(self, tensor: Tensor | None, role: str) -> None:
        """Say what a parameter is for: weight, bias, gain, variance, mean."""
        if tensor is not None:
            self.roles.append((tensor, role))

    # -- what has to follow when sizes change ------------------------------------------------------------

    def size(self, path: Path, layout: Layout) -> None:
        """The integer at `path` is the size of `layout`."""
        self.sizes.append((path, layout))

    def pin(self, path: Path) -> None:
        """The number at `path` is a value, not a size: it stays what it was."""
        self.pins.append(path)

    def leave(self, path: Path) -> None:
        """The number at `path` is not asked for, and may become any."""
        self.unread.append(path)

    def attribute(self, name: str, layout: Layout, weight: Tensor | None = None) -> None:
        """An attribute is the size of `layout`: of the layer that is called, or whose parameters a function is given.

        weight: of the layer, for a function that is given those of several.
        """
        self.attributes.append((name, layout, weight))

    def written(self, name: str) -> Any:
        """The number that the forward itself gives an attribute of the module it calls; None where it does not."""
        return self.node.meta.get("written", {}).get(name)

    def sized(self, index: int, name: str, layout: Layout) -> None:
        """The attribute of a module that is called, or the argument of a function, is the size of `layout`."""
        if self.module is None:
            self.size(self.path(index, name), layout)
        self.attribute(name, layout)

    # -- results -----------------------------------------------------------------------------------------

    @property
    def made(self) -> Tensor:
        """The output of an op that has one."""
        assert isinstance(self.output, Tensor)
        return self.output

    def result(self, axes: list[Layout] | tuple[Layout, ...]) -> Tensor:
        return Tensor(tuple(resolve(axis) for axis in axes), op=self)

    def constants(self, value: Any, reason: Reason | None = None) -> Tree:
        """A tree of tensors none of whose dimensions grow; reason: why not, where that has to be said."""
        return constants(value, reason or NO_UNITS, self)

    def fix_operands(self, text: str) -> None:
        """Hold every dimension of every operand and parameter of this op."""
        reason = Reason(text, self.place)
        for operand in [*self.operands(), *self.module_parameters()]:
            self.unifier.fix(operand.axes, reason)

    def module_parameters(self) -> list[Tensor]:
        """Every parameter and buffer of the module."""
        return list(self._module_parameters)

    @cached_property
    def _module_parameters(self) -> tuple[Tensor, ...]:
        if self.module is None:
            return ()
        names = [name for name, _ in [*self.module.named_parameters(), *self.module.named_buffers()]]
        return tuple(tensor for name in names if (tensor := self.parameter(name)) is not None)


def constants(value: Any, reason: Reason | None, op: Op | None = None) -> Tree:
    """A tree of tensors none of whose dimensions grow, for that reason."""
    if isinstance(value, torch.Tensor):
        return Tensor(tuple(Leaf(size, reason=reason) for size in value.shape), op=op)
    if isinstance(value, (tuple, list)) and any(isinstance(item, (torch.Tensor, tuple, list, dict)) for item in value):
        return tuple(constants(item, reason, op) for item in value)
    return {key: constants(item, reason, op) for key, item in value.items()} if isinstance(value, dict) else None


def is_parametric(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter or computed from parameters alone."""
    pending, seen = [tensor], {tensor}
    while pending:
        made = pending.pop()
        if made.parameter is not None:
            continue
        operands = made.op.operands() if made.op is not None else []
        if made.op is None or (made.op.module is None) is not bool(operands):
            return False  # a module that is given nothing is a parametrization, or the like
        pending.extend(operand for operand in operands if operand not in seen)
        seen.update(operands)
    return True
