"""What the source code of a model's methods reads, compares and asks: attributes, items, arguments, global names."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import sys
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from fxgrow.capture.names_in_code import OF_ENDS, assignments, name_of, one_of, passed_on, passed_on_as
from fxgrow.modules.holders import held_by
from fxgrow.modules.libraries import is_library


@dataclass(frozen=True)
class Untried:
    """Stands for every other value of a name, of which none is tried, and why it is refused.

    besides: values that are no others; of keywords, the names of those that are tried as arguments of their own.
    unless: an argument and a value of it with which the forward has to do something else, or nothing is refused.
    """

    why: str
    besides: tuple[Any, ...] = ()
    unless: tuple[str, Any] | None = field(default=None, compare=False)


ANY = Untried("another name may stand for what computes something else with units that grow")
"""Of a name by which something is looked up, of which there are too many to try."""


def code_of(function: Any) -> ast.Module | None:
    """The code of a function, inside its decorators; None where it is not at hand.

    What a method calls its object is "self" in it.
    """
    plainly = inspect.unwrap(function.__func__ if isinstance(function, (MethodType, staticmethod)) else function)
    owner, _, name = getattr(plainly, "__qualname__", "").rpartition(".")
    is_method = bool(owner) and not owner.endswith("<locals>") and not isinstance(function, staticmethod)
    compiled = getattr(plainly, "__code__", None)
    return None if compiled is None else _parsed(compiled, name == "<lambda>", is_method)


@functools.lru_cache(maxsize=512)
def _parsed(compiled: CodeType, is_lambda: bool, is_method: bool) -> ast.Module | None:
    try:
        lines, first = inspect.getsourcelines(compiled)
        text = textwrap.dedent("".join(lines))
        code = ast.parse(text)
    except (OSError, TypeError, SyntaxError):
        return None
    method: ast.stmt | ast.Lambda | None = code.body[0]
    if is_lambda:
        method = _lambda_in(code, compiled, first, len(lines[0]) - len(text.splitlines(keepends=True)[0]))
        if method is None:
            return None
        code = ast.Module([ast.Expr(method)], [])
    elif isinstance(method, ast.FunctionDef):
        method.decorator_list = []  # which ran once
    if isinstance(method, (ast.FunctionDef, ast.Lambda)) and is_method:
        own_name = next((argument.arg for argument in (*method.args.posonlyargs, *method.args.args)), "self")
        for node in ast.walk(method) if own_name != "self" else ():
            if isinstance(node, ast.Name) and node.id == own_name:
                node.id = "self"
        _Spelled(method).visit(method)
    return code


class _Spelled(ast.NodeTransformer):
    """Reads attributes of the model where they are, not by names that code gives them: `config = self.config`."""

    def __init__(self, method: ast.FunctionDef | ast.Lambda) -> None:
        nodes = list(ast.walk(method))
        given = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        times = Counter((*given, *(node.arg for node in nodes if isinstance(node, ast.arg))))
        assigned = ((name_of(target), value) for node in nodes for target, value in assignments(node))
        once = {name: value for name, value in assigned if times[name] == 1}
        self.attributes = {name: value for name, value in once.items() if name_of(value).startswith("self.")}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.attributes.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


def _lambda_in(code: ast.Module, compiled: CodeType, line: int, indent: int) -> ast.Lambda | None:
    """The function without a name that was compiled to this; None where it is not whole in the lines that are at hand.

    line, indent: where they begin in the file, by which functions in the same lines are told apart.
    """
    places = [place for place in compiled.co_positions() if None not in place and place[2:] != (0, 0)]
    starts, ends = ((place[0], place[2]) for place in places), ((place[1], place[3]) for place in places)
    whole = min(starts, default=None), max(ends, default=None)
    for node in ast.walk(code):
        if isinstance(node, ast.Lambda):
            body, before = node.body, line - 1
            start = body.lineno + before, body.col_offset + indent
            if (start, ((body.end_lineno or 0) + before, (body.end_col_offset or 0) + indent)) == whole:
                return node
    return None


def functions_of(model: nn.Module, methods: frozenset[str]) -> Iterator[Any]:
    """Methods of a class and of those that it extends, but for torch's."""
    for base in type(model).__mro__:
        if not base.__module__.startswith("torch."):
            yield from (vars(base)[name] for name in methods & vars(base).keys())


def _walked(function: Any) -> Iterator[ast.AST]:
    """The code of a function; where it is not at hand, each name in it, as one of its own and as an attribute."""
    code = code_of(function)
    if code is not None:
        yield from ast.walk(code)
    elif is_unread(function):
        for name in _names_in(inspect.unwrap(function).__code__):
            yield from (ast.Name(name, ast.Load()), ast.Attribute(ast.Name("self", ast.Load()), name, ast.Load()))


def _names_in(code: CodeType) -> list[str]:
    """The names that compiled code reads and does not assign to."""
    assigned = {each.argval for each in dis.get_instructions(code) if each.opname in ("STORE_ATTR", "STORE_GLOBAL")}
    inside = [name for held in code.co_consts if isinstance(held, CodeType) for name in _names_in(held)]
    return [name for name in code.co_names if name not in assigned] + inside


def is_unread(function: Any) -> bool:
    """Whether a function is of Python code that is not at hand, so that what it asks for is not known."""
    return code_of(function) is None and hasattr(inspect.unwrap(function), "__code__")


def any_unread(model: nn.Module, methods: frozenset[str]) -> bool:
    """Whether the code of some methods is not at hand."""
    return any(map(is_unread, functions_of(model, methods)))


def walked(model: nn.Module, methods: frozenset[str]) -> Iterator[ast.AST]:
    """The code of some methods of a model, piece by piece."""
    for function in functions_of(model, methods):
        yield from _walked(function)


def named_values(model: nn.Module, code: Iterable[ast.AST]) -> dict[str, list[Any]]:
    """What code of a model compares each of its names with (`==`, `<`, `in`, `match`, `&`), or looks up by one.

    Attributes of the model are among its names, as `self.mode`. `ANY` where the keys of what is looked up in are not at
    hand, or are made of a name.
    """
    values: dict[str, list[Any]] = {}
    code = list(code)
    made = {name_of(node.targets[0]): node.value for node in code if isinstance(node, ast.Assign)}
    for node in code:
        if (looked_up := _looked_up(node)) is not None:
            holder, key = looked_up
            keys = _keys(_container(model, made.get(name_of(holder), holder)))
            if name := name_of(key):
                values.setdefault(name, []).extend(keys)
            for part in ast.walk(key) if not (name and keys) else ():
                if name := name_of(part):
                    values.setdefault(name, []).append(ANY)
        elif isinstance(node, ast.Compare):
            named: list[ast.AST] = [node.left, *node.comparators]
            constants = _constants(named)
            if constants and all(isinstance(op, _ORDER) for op in node.ops):
                constants = [c + step for c in constants if isinstance(c, (int, float)) for step in (-1, 0, 1)]
            elif isinstance(node.ops[0], (ast.In, ast.NotIn)) and (name := name_of(node.comparators[0])):
                alone = [(constant,) for constant in constants if isinstance(constant, str)]
                values.setdefault(name, []).extend((_MANY, _ONE, *alone, *constants))  # what is looked for may be in it
            elif not constants:  # with what counts the parts, perhaps
                lists = (len(part) for part in model.children() if isinstance(part, (nn.ModuleList, nn.Sequential)))
                constants = list(range(max(lists, default=0)))
                named = [side for side in named if isinstance(side, ast.Name)]
            several = [side.elts for side in named if isinstance(side, (ast.Tuple, ast.List))]
            if isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
                constants += [tuple(_constants(items)) for items in several]
            for part in (part for side in named if isinstance(side, ast.expr) for part in passed_on(side)):
                if name := name_of(part):
                    values.setdefault(name, []).extend(constants)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
            at = node.left.left if isinstance(node.left, ast.BinOp) else node.left  # bits >> 2 & 1
            shift = next((c for c in _constants([node.left]) if isinstance(c, int)), 0)
            if name := name_of(at):
                values.setdefault(name, []).extend(c << shift for c in _constants([node.right]) if isinstance(c, int))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in OF_ENDS:
            if name := name_of(node.func.value):
                values.setdefault(name, []).extend(_constants(node.args))
        elif isinstance(node, ast.Match) and (name := name_of(node.subject)):
            values.setdefault(name, []).extend(_constants([case.pattern for case in node.cases]))
    passed = passed_on_as(code).items()
    others = {name: [value for each in sorted(names) for value in values.get(each, ())] for name, names in passed}
    return values | {name: several for name, several in others.items() if several}


def asked_of(code: Sequence[ast.AST]) -> dict[str, str]:
    """The names of which code asks whether they are true, or the name of which attribute they are.

    Also those that it calls, and those of tuples of names.
    """
    asked: dict[str, str] = {}
    loops: list[tuple[str, str]] = []
    for node in code:
        if isinstance(node, (ast.If, ast.IfExp, ast.While)):
            tests = [node.test]
        elif isinstance(node, ast.BoolOp):
            tests = node.values
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            tests = [node.operand]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            asked.update({name_of(part): "getattr" for name in node.args[1:2] for part in ast.walk(name)})
            continue
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            asked.setdefault(node.func.id, "called")
            continue
        elif isinstance(node, (ast.For, ast.comprehension)):
            loops.append((name_of(node.iter), name_of(node.target)))
            continue
        else:
            continue
        asked.update({name: "truth" for test in tests if (name := name_of(test))})
    asked.update({several: "getattr" for several, each in loops if asked.get(each) == "getattr"})
    passed = passed_on_as(code).items()
    others = {name: next((asked[each] for each in sorted(names) if each in asked), "") for name, names in passed}
    return {name: how for name, how in others.items() if how} | asked


def read_names(code: Iterable[ast.AST]) -> list[str]:
    """The attributes of a model that code of it reads."""
    names = (name_of(node) for node in code if isinstance(getattr(node, "ctx", None), ast.Load))
    own = (name.removeprefix("self.") for name in names if name.startswith("self.") and "[" not in name)
    return list(dict.fromkeys(own))


def read_items(code: Iterable[ast.AST]) -> list[tuple[str, str]]:
    """The items of dictionaries and objects in attributes of a model that code of it reads.

    Each is the name of the attribute and that of the item in it, as of `self.options["mean"]` or `self.config.mean`.
    """
    items = (item for item in _items(code) if item[0].startswith("self."))
    return list(dict.fromkeys((name.removeprefix("self."), item) for name, item in items))


def read_globals(model: nn.Module, methods: frozenset[str]) -> Iterator[tuple[str, str, Any, list[Any]]]:
    """The global names, and items in these, that methods and the functions which they call read, but for functions.

    Each is the name of the file, that of the name or of an item in it (`options[mean]`), its value, and what the code
    compares it with.
    """
    waiting, seen = list(functions_of(model, methods)), set[Any]()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        names = getattr(function, "__globals__", {})
        file = str(names.get("__name__"))
        if function in seen or is_library(file) or vars(sys.modules.get(file, object)) is not names:
            continue
        seen.add(function)
        code = list(_walked(function))
        named, own = named_values(model, code), function.__code__.co_varnames
        for name in dict.fromkeys(node.id for node in code if isinstance(node, ast.Name) and node.id not in own):
            value = names.get(name)
            if isinstance(value, FunctionType):
                waiting.append(value)
            elif name in names:
                yield file, name, value, named.get(name, [])
        for name, item in _items(code):
            holder = None if name in own else names.get(name)
            if isinstance(holder, ModuleType) and not is_library(holder.__name__) and item in vars(holder):
                yield holder.__name__, item, vars(holder)[item], []
            elif (held := held_by(holder)) is not None and item in held:
                yield file, f"{name}[{item}]", held[item], []


def _items(code: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """The items of what names stand for that some code reads, with the names."""
    for node in code:
        keys: list[Any] = []
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            holder, keys = node.value, [node.attr]
        elif isinstance(node, ast.Subscript):
            holder, keys = node.value, _constants([node.slice])[:1]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            holder, keys = node.func.value, _constants(node.args[:1])
        if keys and isinstance(keys[0], str) and keys[0].isidentifier() and (name := name_of(holder)):
            yield name, keys[0]


_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_MANY, _ONE = tuple(range(16)), (1,)


def _constants(code: Sequence[ast.AST]) -> list[Any]:
    return [part.value for side in code for part in ast.walk(side) if isinstance(part, ast.Constant)]


def looked_for(code: Iterable[ast.AST], names: Collection[str]) -> dict[str, Any]:
    """The keywords that code looks for in a dictionary of some names, and what stands for one left out."""
    keywords: dict[str, Any] = {}
    for node in code:
        called = node.func if isinstance(node, ast.Call) and node.args else None
        if isinstance(node, ast.Call) and isinstance(called, ast.Attribute) and called.attr in ("get", "pop"):
            where, key, *rest = called.value, *(_constants([argument])[:1] for argument in node.args)
            default = rest[0][0] if rest and rest[0] else None
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            where, key, default = node.comparators[0], _constants([node.left])[:1], True
        elif isinstance(node, ast.Subscript):
            where, key, default = node.value, _constants([node.slice])[:1], None
        else:
            continue
        if isinstance(where, ast.Name) and where.id in names and key and isinstance(key[0], str):
            keywords.setdefault(key[0], default)
    return keywords


def looks_within(code: Iterable[ast.AST], name: str) -> bool:
    """Whether code looks for items in what a name holds, as by `options["norm"]["kind"]`."""
    for node in code:
        at, steps = node, 0
        while isinstance(at, (ast.Attribute, ast.Subscript, ast.Call)):
            steps += not isinstance(at, ast.Call)
            at = at.func if isinstance(at, ast.Call) else at.value
        if steps > 1 and name_of(at) == name:
            return True
    return False


def called_names(code: Iterable[ast.AST]) -> set[str]:
    """The names of what code calls, as `(act or relu)(x)` calls one of two."""
    called = (part for node in code if isinstance(node, ast.Call) for part in one_of(node.func))
    return {name for part in called if (name := name_of(part))}


def derived_from(code: Sequence[ast.AST], name: str) -> set[str]:
    """The names of what code goes through in a name (`for part in mode.split("+")`), and of what it makes of it."""
    derived: set[str] = set()
    for node in code:
        if isinstance(node, (ast.For, ast.comprehension)):
            made, of = node.target, node.iter
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made, of = node.targets[0], node.value.func
        else:
            continue
        if any(name_of(part) == name for part in ast.walk(of)):
            derived |= {name_of(part) for part in ast.walk(made)}
    return derived - {"", name}


def unpacked(code: Iterable[ast.AST]) -> set[str]:
    """The names of dictionaries whose items code gives on as keywords, as by `self.attend(x, **(options or {}))`."""
    given = (
        keyword.value for node in code if isinstance(node, ast.Call) for keyword in node.keywords if not keyword.arg
    )
    return {name for value in given for part in ast.walk(value) if (name := name_of(part))}


def _looked_up(code: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """What code looks something up in, and by what: `ACTS[act]`, `ACTS.get(act)`."""
    if isinstance(code, ast.Subscript):
        return code.value, code.slice
    if isinstance(code, ast.Call) and isinstance(code.func, ast.Attribute) and code.func.attr == "get" and code.args:
        return code.func.value, code.args[0]
    return None


def _container(model: nn.Module, code: ast.expr) -> Any:
    """The value of code like `self.heads` or of a global name, and the keys of a dictionary that is written out."""
    if isinstance(code, ast.Name):
        files = (vars(sys.modules.get(base.__module__, object)) for base in type(model).__mro__)
        return model if code.id == "self" else next((names[code.id] for names in files if code.id in names), None)
    if isinstance(code, ast.Dict):
        return {key.value: None for key in code.keys if isinstance(key, ast.Constant)}
    return getattr(_container(model, code.value), code.attr, None) if isinstance(code, ast.Attribute) else None


def _keys(container: Any) -> list[Any]:
    if isinstance(container, (dict, nn.ModuleDict, nn.ParameterDict)):
        return list(container.keys())
    listed = (list, tuple, nn.ModuleList, nn.Sequential, nn.ParameterList)
    return list(range(len(container))) if isinstance(container, listed) else []
