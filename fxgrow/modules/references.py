"""Exchanges the parts and tensors that attributes of modules refer to, however the attributes hold them."""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _WrappedHook
from torch.utils.hooks import RemovableHandle

from fxgrow.modules.holders import content_of, held_by, hold, holding
from fxgrow.modules.libraries import package_of
from fxgrow.modules.tensors import OF_MODULES, as_registered, place, tensors_named

_PLAIN = (bool, int, float, str, type(None))
_REGISTERED = ("_parameters", "_buffers", "_modules")


def exchange(modules: Iterable[nn.Module], others: Mapping[int, Any]) -> None:
    """Let the attributes of modules refer to other parts, tensors and containers: by the identities of those before.

    They are found in containers and objects of a user's own, which are copied, behind bound methods,
    `functools.partial` and weak references, and in what functions, hooks among them, close over or have as defaults.
    """
    exchanged, modules = _Exchange(others), list(modules)
    for functions in (False, True):  # they come last, since they may close over what attributes hold
        for module in modules:
            exchanged.package = package_of(type(module))
            for name, value in module.__dict__.items():
                if name in OF_MODULES:
                    if functions and value and type(value) is OrderedDict:  # of hooks
                        value.update({key: exchanged.behind(hook) for key, hook in value.items()})
                elif type(value) not in _PLAIN and (type(value) in _REMADE) is functions:
                    module.__dict__[name] = exchanged.of(value)


def counterparts(part: nn.Module, twin: nn.Module) -> dict[int, Any]:
    """What a twin of a part holds others in -> what the part does, which may hold them for others, too.

    Where growth has changed numbers or keys in it, it is the other way round: others get what the twin has.
    """
    twins = dict(twin.named_modules())
    pairs: dict[int, Any] = {}
    for path, module in part.named_modules():
        attributes = twins[path].__dict__ if path in twins else {}
        for name, value in module.__dict__.items():
            mine = attributes.get(name) if name not in OF_MODULES else None
            if type(mine) is type(value) and not isinstance(value, tuple) and held_by(value) is not None:
                old, new = (value, mine) if _differ(value, mine) else (mine, value)
                pairs[id(old)] = new
    return pairs


def _differ(value: Any, other: Any, around: tuple[int, ...] = ()) -> bool:
    """Whether two containers differ in more than the modules and tensors that they hold."""
    held, others = (held_by(each) if id(value) not in around else {} for each in (value, other))
    if held is None or others is None:
        return type(value) in _PLAIN and value != other
    if held.keys() != others.keys():
        return True
    inside = (*around, id(value))
    return any(_differ(item, others[key], inside) for key, item in held.items() if item is not others[key])


def place_all(root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters, buffers and plain tensors by name; attributes that held the ones before hold these."""
    before = tensors_named(root, tensors)
    for name, tensor in tensors.items():
        place(root, name, tensor)
    exchange(root.modules(), {id(tensor): tensors[name] for name, tensor in before.items()})


def unregistered(module: nn.Module, every: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Tensors with data that attributes of a module hold, or lists and dictionaries there, without being registered.

    every: those without data, and those of inference mode, too.
    """

    def within(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
        if isinstance(value, Tensor) and (every or not (value.is_meta or value.is_inference())):
            yield name, value
        elif id(value) not in seen and (held := held_by(value, package)) is not None:
            seen.add(id(value))
            for key, item in held.items():
                yield from within(item, f"{name}[{key!r}]" if isinstance(value, _SUBSCRIBED) else f"{name}.{key}")

    seen: set[int] = set()
    package = package_of(type(module))
    for name, value in module.__dict__.items():
        if name not in _REGISTERED:
            yield from within(value, name)


_SUBSCRIBED = (list, tuple, deque, dict)


def copy_unregistered(root: nn.Module, original: nn.Module) -> None:
    """Let a copy of a model have such tensors of its own, where it shares them with the original."""
    shared = {id(tensor) for module in original.modules() for _, tensor in unregistered(module)}
    copies: dict[int, Tensor] = {}
    for module in root.modules():
        for _, tensor in unregistered(module):
            if id(tensor) in shared and id(tensor) not in copies:
                copies[id(tensor)] = as_registered(tensor.detach().clone(), tensor)
    if copies:
        exchange(root.modules(), copies)


class _Exchange:
    def __init__(self, others: Mapping[int, Any]) -> None:
        self.others = others
        self.made: dict[int, Any] = {}
        """What several modules hold stays one."""
        self.package = ""  # of the module whose attributes are asked about
        self.alive: list[Any] = []  # what was asked about, so that nothing else gets its identity

    def of(self, value: Any) -> Any:
        """What stands for a value that an attribute holds."""
        value = self.others.get(id(value), value)
        if type(value) in _PLAIN or id(value) in self.made:
            return self.made.get(id(value), value)
        if type(value) is tuple and all(type(item) in _PLAIN for item in value):
            return value
        self.alive.append(value)
        held = held_by(value, self.package)
        if held is None:
            return self.behind(value)
        if not isinstance(value, tuple):
            self.made[id(value)] = holding(value, held)  # it may hold itself
        translated = {key: self.of(item) for key, item in held.items()}
        if isinstance(value, tuple):
            self.made[id(value)] = holding(value, translated)
        else:
            hold(self.made[id(value)], translated)
        return self.made[id(value)]

    def behind(self, value: Any) -> Any:
        """What stands for a part, a tensor, or for what calls one; anything else is what it was."""
        if id(value) in self.others and isinstance(value, (nn.Module, Tensor)):
            return self.others[id(value)]
        if id(value) in self.made:
            return self.made[id(value)]
        remade = _REMADE.get(type(value))
        if remade is None:
            return value
        self.alive.append(value)
        self.made[id(value)] = value
        self.made[id(value)] = remade(self, value)
        return self.made[id(value)]

    def method(self, value: Any) -> Any:
        owner = self.of(value.__self__)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)

    def weak_reference(self, value: Any) -> Any:
        target = self.behind(value())
        return value if target is value() else weakref.ref(target)

    def wrapped_hook(self, value: Any) -> Any:
        """A hook that torch gives its module, which it holds by a weak reference."""
        held = {name: self.behind(item) for name, item in value.__dict__.items()}
        if all(held[name] is item for name, item in value.__dict__.items()):
            return value
        twin = object.__new__(_WrappedHook)
        twin.__dict__.update(held)
        return twin

    def handle(self, value: Any) -> Any:
        """The handle of a hook, by which it is taken out of the dictionaries that hold it."""
        dicts = [reference() for reference in (value.hooks_dict_ref, *value.extra_dict_ref)]
        after = [self.others.get(id(held), held) for held in dicts]
        if all(new is old for new, old in zip(after, dicts, strict=True)):
            return value
        twin = object.__new__(RemovableHandle)
        twin.id, (twin.hooks_dict_ref, *extra) = value.id, map(weakref.ref, after)
        twin.extra_dict_ref = tuple(extra)
        return twin

    def partial(self, value: Any) -> Any:
        before = (value.func, *value.args, *value.keywords.values())
        function, *after = map(self.of, before)
        if all(new is old for old, new in zip(before, (function, *after), strict=True)):
            return value
        args, keywords = after[: len(value.args)], zip(value.keywords, after[len(value.args) :], strict=True)
        twin = functools.partial(function, *args, **dict(keywords))
        twin.__dict__.update({name: self.of(item) for name, item in value.__dict__.items()})
        return twin

    def function(self, value: Any) -> Any:
        cells, defaults, named = value.__closure__ or (), value.__defaults__ or (), value.__kwdefaults__ or {}
        twin = FunctionType(value.__code__, value.__globals__, value.__name__, None, tuple(map(self._cell, cells)))
        self.made[id(value)] = twin  # it may call itself
        before = [*(content_of(cell, _EMPTY) for cell in cells), *defaults, *named.values()]
        after = list(map(self.behind, before))
        if all(new is old or new is twin for old, new in zip(before, after, strict=True)):
            return value
        for cell, content in zip(cells, after, strict=False):
            if content is not _EMPTY:
                self._cell(cell).cell_contents = content
        for name in functools.WRAPPER_ASSIGNMENTS:
            setattr(twin, name, getattr(value, name))
        twin.__dict__.update(value.__dict__)
        rest = after[len(cells) :]
        twin.__defaults__ = tuple(rest[: len(defaults)]) if defaults else None
        twin.__kwdefaults__ = dict(zip(named, rest[len(defaults) :], strict=True)) if named else None
        return twin

    def _cell(self, cell: CellType) -> Any:
        return self.made.setdefault(id(cell), CellType())


_REMADE: Mapping[type, Callable[[_Exchange, Any], Any]] = {
    MethodType: _Exchange.method,
    weakref.ReferenceType: _Exchange.weak_reference,
    _WrappedHook: _Exchange.wrapped_hook,
    RemovableHandle: _Exchange.handle,
    functools.partial: _Exchange.partial,
    FunctionType: _Exchange.function,
}

_EMPTY = object()
