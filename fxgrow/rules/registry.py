"""Where the rules are kept: which law each op obeys, looked up in constant time.

The rows themselves are in `table.py` (torch), `of_timm.py` and `of_torchvision.py`, which are read once their library
is imported: before that, no model can hold what it brings.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxgrow.errors import RuleError
from fxgrow.modules.libraries import home_of
from fxgrow.opaque import CustomFunction, hooked, without_hooks

if TYPE_CHECKING:
    from fxgrow.rules.law import Law

Target = type | Callable[..., Any] | str

_modules: dict[type, Law] = {}
_functions: dict[Any, Law] = {}
_methods: dict[str, Law] = {}
_unread = {"torch": "table", "timm": "of_timm", "torchvision": "of_torchvision"}
"""Libraries whose rows are still to be read, and the modules that have them."""


def rule(target: Target, law: Law) -> None:
    """Teach fxgrow an op: from now on `target` obeys `law`.

    Parameters
    ----------
    target: a module class (subclasses that inherit its `forward` count too), a `torch.autograd.Function`, a function,
        or the name of a tensor method.
    law: what the op does to axes and to what is known of new units.

    Raises
    ------
    RuleError: the target already has a law.

    >>> import torch, fxgrow
    >>> from fxgrow.rules.pointwise import Pointwise
    >>> class Swishy(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x * torch.sigmoid(1.7 * x)
    >>> fxgrow.rule(Swishy, Pointwise("zero"))
    """
    _read_rows()
    table: dict[Any, Law] = (
        _methods if isinstance(target, str) else _modules if isinstance(target, type) else _functions
    )
    if target in table:
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        raise RuleError(f"{name} already has a rule", remedy="remove one of the two registrations")
    table[target] = law


def _read_rows() -> None:
    """Read the rows for libraries that were imported since the last look."""
    while library := next((library for library in _unread if library in sys.modules), ""):
        importlib.import_module(f"fxgrow.rules.{_unread.pop(library)}")


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module; of a layer that multiplies its input, the class of layers that it is."""
    kind: type[nn.Module] = getattr(type(module), "plain_kind", type(module))
    return kind


def law_of_module(module: nn.Module) -> Law | None:
    """The law of a module's exact class, or of a base class whose forward it inherits unchanged."""
    _read_rows()
    if isinstance(module, CustomFunction):
        seen: Law | None = module.law
        return _modules.get(module.function, seen)
    kind = kind_of(module)
    for base in kind.__mro__:
        if base in _modules:
            same = all(getattr(kind, name, None) is getattr(base, name, None) for name in ("forward", "_conv_forward"))
            return _modules[base].of(module) if same and not hooked(module) else None
    return None


def why_unknown(module: nn.Module | None) -> str:
    """Why there is no law of what a node calls, behind its name; module: where it calls one."""
    has_row = module is not None and law_of_module(without_hooks(module)) is not None
    return "runs with hooks that its graph does not see" if has_row else "has no rule"


def law_of_function(function: Any) -> Law | None:
    _read_rows()
    return _functions.get(function)


def law_of_method(name: str) -> Law | None:
    """The law of a method; of one that writes entries in place, that of the function that it applies."""
    _read_rows()
    law = _methods.get(name)
    if law is None and name.endswith("_"):
        applied = _methods.get(name.removesuffix("_"))
        law = applied if applied is not None and applied.family in ("pointwise", "reduction") else None
    return law


def law_of_call(node: fx.Node, module: nn.Module | None) -> Law | None:
    """The law of what a node calls (`module`: where that is a module), if it calls anything and there is one."""
    if module is not None:
        return law_of_module(module)
    if node.op == "call_method":
        return law_of_method(str(node.target))
    return law_of_function(node.target) if node.op == "call_function" else None


def shown_by(
    node: fx.Node, module_of: Callable[[fx.Node], nn.Module | None] = lambda node: None, until: fx.Node | None = None
) -> fx.Node:
    """The node that made the tensor of which a node may give a view; the node itself where it makes one.

    module_of: what a node calls, where that is a module; without it, layers make theirs. until: where to stop.
    """
    while node is not until and (law := law_of_call(node, module_of(node))) is not None and law.may_show:
        if not node.args or not isinstance(node.args[0], fx.Node):
            break
        node = node.args[0]
    return node


def has_rule(target: Any) -> bool:
    """Whether a module class or a function has a row, so that capture must leave it whole."""
    _read_rows()
    return target in _modules or target in _functions


def whole_functions() -> list[Callable[..., Any]]:
    """Functions of other packages that have a row and do not ask whether they are overridden, as torch's own do."""
    _read_rows()
    homes = ("torch.", "fxgrow.")
    return [f for f in _functions if isinstance(f, FunctionType) and not home_of(f).startswith(homes)]


def rules(targets: Iterable[Any], law: Law) -> None:
    """The same law for several ops."""
    for target in targets:
        rule(target, law)


def named(home: Any, names: str) -> list[Any]:
    """What a module of Python has by these names.

    >>> named(torch, "cat stack") == [torch.cat, torch.stack]
    True
    """
    return [getattr(home, name) for name in names.split()]


def ranked(home: Any, names: str) -> list[Any]:
    """What it has by these names for one, two and three axes of space.

    >>> ranked(nn, "Conv") == [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    True
    """
    return [getattr(home, f"{name}{rank}d") for name in names.split() for rank in (1, 2, 3)]


def both(names: str) -> list[Target]:
    """What torch has by these names as functions and as methods of tensors.

    >>> both("view mean") == ["view", torch.mean, "mean"]
    True
    """
    targets: list[Target] = []
    for name in names.split():
        function = getattr(torch, name, None)
        targets += [function] if callable(function) else []
        targets += [name] if hasattr(Tensor, name) else []
    return targets


def rows() -> dict[Any, Law]:
    """Every target that has a law."""
    _read_rows()
    return {**_modules, **_functions, **_methods}
