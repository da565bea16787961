"""State that a model shares with its copies: of classes and files, in functions, in unregistered tensors."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType, TracebackType
from typing import Any, NamedTuple

from torch import Tensor, nn

from fxgrow.modules.holders import content_of, held_by, hold
from fxgrow.modules.libraries import is_among_packages, is_known, is_library
from fxgrow.modules.references import unregistered

OF_FILE = "global "
"""Begins the name of what a file has, before that of the file."""

_PLAIN = frozenset((bool, int, float, str, bytes, type(None), Tensor, nn.Parameter))
"""Classes of values that hold no others."""

_VALUES = (bool, int, float, str, type(None), Tensor)
"""Classes of values that are state by themselves."""

_CODE = frozenset((FunctionType, BuiltinFunctionType, ModuleType, type))
"""Classes of what files and classes define, which is no state."""

_MOST = 10_000
"""Containers and objects of one class or file that are looked into."""

_FEW = 64
"""So many items a container has at most in which functions are looked for."""

CACHED = type(functools.lru_cache(int))
"""The class of functions under `functools.lru_cache`."""


class Change(NamedTuple):
    """What has changed, in words; what it is now; and, of a global name, its place: "global file.name"."""

    text: str
    value: Any
    place: str = ""


class SharedState:
    """Puts back, at its end, what happens inside to such state of a model; that of libraries is left alone.

    >>> class Counting(nn.Module):
    ...     calls = 0
    >>> with SharedState(Counting()) as shared:
    ...     Counting.calls += 1
    ...     print(shared.changed()[0].text)
    the class attribute calls of Counting
    >>> Counting.calls
    0
    """

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        kinds = _classes(modules.values())
        self.hooks = {f"a hook ({id(hook)})": hook for hook in _hooks(modules.values())}
        own = [(path, part) for path, part in modules.items() if not is_known(type(part))]
        self.parts = [part.__dict__ for _, part in own]
        held = [value for names in self.parts for _, _, value in _items(names)]
        calling = (*self.hooks.values(), *held, *(type(value).__call__ for value in held if callable(value)))
        self.files = _files(kinds, map(_imported, calling))
        self.kinds = [*kinds, *(kind for names in self.files for kind in _defined_in(names) if kind not in kinds)]
        functions = dict(self._functions())
        self.owners: dict[str, Any] = {
            **{f"the class attribute {{}} of {kind.__name__}": kind for kind in self.kinds},
            **{f"the global name {{}} of {_name(names)}": names for names in self.files},
            **{f"the attribute {{}} of {name}": function.__dict__ for name, function in functions.items()},
            "what {} is a method of": {n: h.__self__ for n, h in self.hooks.items() if isinstance(h, MethodType)},
            "what {} closes over": {f"{name} ({own})": cell for name, own, cell in _cells(functions)},
            "what {} has as defaults": {
                name: (function.__defaults__, function.__kwdefaults__) for name, function in functions.items()
            },
        }
        self.before = {text: _snapshot(owner) for text, owner in self.owners.items()}
        self.tensors = {
            f"the tensor {name} of {path or type(part).__name__}": (tensor, tensor._version, tensor.detach().clone())
            for path, part in own
            for name, tensor in unregistered(part)
        }

    def __enter__(self) -> SharedState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for text, name, _ in list(self._changes()):
            owner, before = self.owners[text], self.before[text]
            value, contents = before.get(name, (None, {}))
            for holder, held in contents.values():
                if not isinstance(holder, tuple):
                    hold(holder, held)
            if isinstance(owner, type):
                setattr(owner, name, value) if name in before else delattr(owner, name)
            elif isinstance(cell := owner.get(name), CellType):
                cell.cell_contents = value
            elif name in before:
                owner[name] = value
            else:
                owner.pop(name, None)  # one function may have several names
        for tensor, version, data in self.tensors.values():
            if tensor._version != version:
                tensor.detach().copy_(data)

    def changed(self) -> list[Change]:
        """What has changed."""
        changes = [Change(text.format(name), value, self._place(text, name)) for text, name, value in self._changes()]
        written = {text: tensor for text, (tensor, version, _) in self.tensors.items() if tensor._version != version}
        return [*changes, *(Change(text, tensor) for text, tensor in written.items())]

    def _place(self, text: str, name: str) -> str:
        """The place of a global name, with the name of its file; "" of anything else."""
        owner = self.owners[text]
        is_file = isinstance(owner, dict) and vars(sys.modules.get(_name(owner), object)) is owner
        return f"{OF_FILE}{_name(owner)}.{name}" if is_file else ""

    def _changes(self) -> Iterator[tuple[str, str, Any]]:
        for text, owner in self.owners.items():
            before, now = self.before[text], _snapshot(owner)
            for name, (value, contents) in now.items():
                earlier, earlier_contents = before.get(name, (self, {}))
                if value is not earlier or not _same(contents, earlier_contents):
                    yield text, name, value

    @contextmanager
    def caches_bypassed(self) -> Iterator[list[Any]]:
        """Functions under `functools.lru_cache` run anew inside: what they would keep of a record is no value.

        Gives those that are called.
        """
        called: list[Any] = []
        with ExitStack() as stack:
            for kind in self.kinds:
                for name, value in list(vars(kind).items()):
                    plain = value.__func__ if isinstance(value, staticmethod | classmethod) else value
                    if isinstance(plain, CACHED):
                        fresh = _noted(plain.__wrapped__, called)
                        setattr(kind, name, fresh if plain is value else type(value)(fresh))
                        stack.callback(setattr, kind, name, value)
            for names in (*self.files, *self.parts):
                for holder, key, value in list(_items(names)):
                    if isinstance(value, CACHED):
                        holder[key] = _noted(value.__wrapped__, called)
                        stack.callback(holder.__setitem__, key, value)
            for _, _, cell in _cells(dict(self._functions())):
                value = content_of(cell)
                if isinstance(value, CACHED):
                    cell.cell_contents = _noted(value.__wrapped__, called)
                    stack.callback(setattr, cell, "cell_contents", value)
            yield called

    def _functions(self) -> Iterator[tuple[str, FunctionType]]:
        """The functions of these classes, files and parts, under names that tell them apart."""
        for kind in self.kinds:
            for name, value in vars(kind).items():
                plain = value.__func__ if isinstance(value, staticmethod | classmethod) else value
                yield from _functions_in(plain, f"{kind.__name__}.{name}")
        for names in (*self.files, *self.parts):
            for _, key, value in _items(names):
                yield from _functions_in(value, str(key))
        for name, hook in self.hooks.items():
            yield from _functions_in(hook, name)


def _noted(function: Any, called: list[Any]) -> Any:
    """A function that is noted whenever it is called."""

    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        called.append(function)
        return function(*args, **kwargs)

    return noted


def _hooks(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """What runs around the forwards of parts, but for libraries'."""
    for part in modules:
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()):
            if not is_library(getattr(hook, "__module__", None) or ""):
                yield hook


def _items(names: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """What names stand for, and what is in lists and dictionaries among that: each with its holder and its key."""
    for name, value in names.items():
        yield names, name, value
        if isinstance(value, (list, dict)) and len(value) < _FEW:
            yield from (
                (value, key, item) for key, item in (value.items() if isinstance(value, dict) else enumerate(value))
            )


def _functions_in(value: Any, name: str) -> Iterator[tuple[str, FunctionType]]:
    """A function, or one behind a cache, but for libraries'."""
    function = value.__wrapped__ if isinstance(value, CACHED) else value
    if isinstance(function, FunctionType) and not is_library(function.__module__ or ""):
        yield f"{name} ({id(function)})", function


def _cells(functions: Mapping[str, FunctionType]) -> Iterator[tuple[str, str, CellType]]:
    """The cells that functions close over: the name of each function, and its own for what the cell holds."""
    for name, function in functions.items():
        for own, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            yield name, own, cell


def _defined_in(names: dict[str, Any]) -> Iterator[type]:
    """The classes that a file defines, but for those of modules and of errors."""
    for value in names.values():
        is_class = isinstance(value, type) and value.__module__ == _name(names)
        if is_class and not issubclass(value, (nn.Module, BaseException)):
            yield value


def _classes(modules: Iterable[nn.Module]) -> list[type]:
    own = [kind for kind in dict.fromkeys(map(type, modules)) if not is_known(kind)]
    kinds = dict.fromkeys(base for kind in own for base in kind.__mro__)
    return [kind for kind in kinds if kind is not object and not is_known(kind)]


def _files(kinds: list[type], further: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The global names of the files of these classes, of further ones, and of those that these import from.

    Of files of installed packages only those of the packages that these are in.
    """
    homes = [*(vars(sys.modules[kind.__module__]) for kind in kinds if kind.__module__ in sys.modules), *further]
    own = {_name(home).partition(".")[0] for home in homes}
    files: dict[int, dict[str, Any]] = {}
    for home in homes:
        for names in (home, *map(_imported, home.values())):
            name = _name(names)
            foreign = is_among_packages(str(names.get("__file__"))) and name.partition(".")[0] not in own
            if names and not (is_library(name) or foreign or name.startswith("fxgrow.")):
                files[id(names)] = names
    return list(files.values())


def _name(names: dict[str, Any]) -> str:
    """What a file is called; code that was made while running may have no name."""
    return str(names.get("__name__", f"code without a file ({id(names)})"))


def _imported(value: Any) -> dict[str, Any]:
    """The global names of the file that a value is, or that a function is from."""
    plain = value.func if isinstance(value, functools.partial) else value
    function = inspect.unwrap(plain) if isinstance(plain, (FunctionType, MethodType, CACHED)) else None
    return vars(value) if isinstance(value, ModuleType) else getattr(function, "__globals__", {})


_Contents = dict[int, tuple[Any, dict[Any, Any]]]


def _snapshot(owner: Any) -> dict[str, tuple[Any, _Contents]]:
    """The state that a class or a file has: each value, and what it holds, and what these hold, by their identities."""
    names = vars(owner) if isinstance(owner, type) else owner
    state: dict[str, tuple[Any, _Contents]] = {}
    seen: set[int] = set()
    for name, value in names.items():
        value = content_of(value) if type(value) is CellType else value
        if type(value) in _CODE or name.startswith("__"):
            continue
        contents = _contents(value, seen) if type(value) not in _PLAIN else {}
        if contents or isinstance(value, _VALUES):
            state[name] = value, contents
    return state


def _contents(value: Any, seen: set[int]) -> _Contents:
    contents: _Contents = {}
    waiting = [value]
    while waiting and len(seen) < _MOST:
        holder = waiting.pop()
        held = held_by(holder) if id(holder) not in seen else None
        if held is not None:
            seen.add(id(holder))
            contents[id(holder)] = holder, dict(held)
            waiting += [item for item in held.values() if type(item) not in _PLAIN]
    return contents


def _same(contents: _Contents, others: _Contents) -> bool:
    return contents.keys() == others.keys() and all(
        len(held) == len(others[key][1])
        and all(name in others[key][1] and _is(item, others[key][1][name]) for name, item in held.items())
        for key, (_, held) in contents.items()
    )


def _is(item: Any, other: Any) -> bool:
    return item is other or (type(item) is bytes and bool(item == other))
