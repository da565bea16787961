"""Proves from code that no graph holds that it does nothing with a tensor but pass it on.

The output of a part is returned unchanged if each call of the part is the value of a `return`. An input goes to one
part alone if each use of the argument is an argument of that part. Code of any other form proves nothing.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator

from torch import nn

_OTHERWISE = {"getattr", "vars", "locals", "_modules", "__dict__", "modules", "children", "named_modules"}
_OTHERWISE |= {"named_children", "get_submodule", "eval", "exec", "super"}
"""Names by which code can reach a part, or a variable, without naming it."""

_LISTS = (list, tuple, set, dict)


def puts_out(model: nn.Module, path: str) -> bool:
    """Whether all that a part of a model gives is put out by the model as it is."""
    return _is_held_once(model, path) and all(
        _returned(_Code(owner), name, "forward") for owner, name in _steps(model, path)
    )


def takes_in(model: nn.Module, path: str, argument: int | str) -> bool:
    """Whether an argument of a model goes to a part, and nothing else is done with it."""
    if not _is_held_once(model, path):
        return False
    for owner, name in _steps(model, path):
        name_inside = _given(_Code(owner), name, "forward", argument)
        if name_inside is None:
            return False
        argument = name_inside
    return True


def _steps(model: nn.Module, path: str) -> Iterator[tuple[nn.Module, str]]:
    for name in path.split("."):
        yield model, name
        model = getattr(model, name)


def _is_held_once(model: nn.Module, path: str) -> bool:
    """Whether a part has one name, by which code has to call it."""
    part = model.get_submodule(path)
    holders = [module for module in model.modules() for child in module._modules.values() if child is part]
    plain = [value for module in model.modules() for name, value in vars(module).items() if name != "_modules"]
    lists = [value.values() if isinstance(value, dict) else value for value in plain if isinstance(value, _LISTS)]
    return len(holders) == 1 and not any(module is part for module in (*plain, *itertools.chain.from_iterable(lists)))


class _Code:
    """The methods of a module, read."""

    def __init__(self, module: nn.Module) -> None:
        kind = type(module)
        hooks = module._forward_hooks or module._forward_pre_hooks
        plain = kind.__call__ is nn.Module.__call__ and "forward" not in vars(module)
        self.kind = kind if plain and not hooks and kind.__module__.partition(".")[0] != "torch" else None
        self.read: dict[str, ast.FunctionDef | None] = {}

    def method(self, name: str) -> ast.FunctionDef | None:
        """A method as it is written, None if it cannot be told what it does."""
        if name not in self.read:
            self.read[name] = self._method(name)
        return self.read[name]

    def _method(self, name: str) -> ast.FunctionDef | None:
        function = inspect.getattr_static(self.kind, name, None) if self.kind is not None else None
        if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
            return None
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        except (OSError, SyntaxError, ValueError):
            return None
        names = {*function.__code__.co_names, *function.__code__.co_freevars}
        whole = isinstance(tree, ast.FunctionDef) and tree.name == name and not tree.decorator_list
        nested = any(
            isinstance(n, (ast.FunctionDef, ast.Lambda, ast.ClassDef)) for n in ast.walk(tree) if n is not tree
        )
        return tree if whole and not nested and not names & _OTHERWISE else None  # type: ignore[return-value]

    def called(self, function: ast.FunctionDef) -> dict[str, list[ast.Call | None]] | None:
        """The calls of what the module has, None among them where that is looked up for another use.

        None if the module itself is used otherwise than to look something up.
        """
        own = function.args.args[0].arg if function.args.args else ""
        calls: dict[str, list[ast.Call | None]] = {}
        parents = {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id == own:
                attribute = parents[node]
                if not isinstance(attribute, ast.Attribute):
                    return None
                call = parents[attribute]
                is_called = isinstance(call, ast.Call) and call.func is attribute
                calls.setdefault(attribute.attr, []).append(call if is_called else None)  # type: ignore[arg-type]
        return calls


def _returned(code: _Code, part: str, method: str) -> bool:
    """Whether, in a method, what a part gives is returned, and nothing else is done with it."""
    function = code.method(method)
    calls = code.called(function) if function is not None else None
    if function is None or calls is None:
        return False
    leading = list(calls.get(part, ()))
    for name, made in calls.items():
        if name != part and _is_method(code, name) and _reaches(code, part, name, {method}):
            if not _returned(code, part, name):
                return False
            leading += made
    given_back = [
        node for statement in ast.walk(function) if isinstance(statement, ast.Return) for node in _in(statement.value)
    ]
    kept: dict[str, ast.AST] = {}
    for statement in ast.walk(function):
        if isinstance(statement, ast.Assign) and statement.value in leading and len(statement.targets) == 1:
            (target,) = statement.targets
            if isinstance(target, ast.Name) and _only_returned(function, target.id, given_back):
                kept[target.id] = statement.value
    return bool(leading) and all(call in given_back or call in kept.values() for call in leading)


def _only_returned(function: ast.FunctionDef, name: str, given_back: list[ast.AST]) -> bool:
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == name]
    loads = [node for node in names if isinstance(node.ctx, ast.Load)]
    return len(names) == len(loads) + 1 and all(load in given_back for load in loads)


def _in(value: ast.AST | None) -> Iterator[ast.AST]:
    """What an expression gives as it is, alone or in a container."""
    if isinstance(value, (ast.Tuple, ast.List)):
        for item in value.elts:
            yield from _in(item)
    elif isinstance(value, ast.Dict):
        for item in value.values:
            yield from _in(item)
    elif value is not None:
        yield value


def _is_method(code: _Code, name: str) -> bool:
    return inspect.isfunction(inspect.getattr_static(code.kind, name, None))


def _reaches(code: _Code, part: str, method: str, seen: set[str]) -> bool:
    """Whether a method may call a part."""
    function = code.method(method)
    calls = code.called(function) if function is not None else None
    if calls is None or part in calls:
        return True
    inner = [name for name in calls if _is_method(code, name) and name not in seen]
    return any(_reaches(code, part, name, {*seen, method}) for name in inner)


def _given(code: _Code, part: str, method: str, argument: int | str) -> int | str | None:
    """As which argument a part is given an argument of a method that is put to no other use; None if it is."""
    function = code.method(method)
    calls = code.called(function) if function is not None else None
    names = [parameter.arg for parameter in function.args.args[1:]] if function is not None else []
    name = argument if isinstance(argument, str) else names[argument] if argument < len(names) else None
    if function is None or calls is None or name not in names:
        return None
    uses = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == name]
    loads = [node for node in uses if isinstance(node.ctx, ast.Load)]
    if len(loads) < len(uses):
        first = next(statement for statement in function.body if any(node in uses for node in ast.walk(statement)))
        inside = list(ast.walk(first))
        target = first.targets[0] if isinstance(first, ast.Assign) and len(first.targets) == 1 else None
        if not isinstance(target, ast.Name) or target.id != name:
            return None
        loads = [node for node in loads if node in inside]  # from then on the name is of something else
    places: set[int | str | None] = set()
    for load in loads:
        to = [(other, call) for other, made in calls.items() for call in made if call is not None and load in call.args]
        if len(to) != 1 or any(isinstance(passed, ast.Starred) for passed in to[0][1].args):
            return None
        other, position = to[0][0], to[0][1].args.index(load)
        inner = _is_method(code, other) and other != method
        places.add(position if other == part else _given(code, part, other, position) if inner else None)
    return places.pop() if len(places) == 1 else None
