"""Models in parts: proves that the code between the parts computes what it did.

The parts are proved one by one to compute what they did. The rest is Python that no graph holds, but it is the same
code: the same classes with the same attributes and the same tensors. It cannot tell the grown parts from the old
ones as long as it only calls them. Whether it reads anything that has grown is looked up in the code of the classes
that hold a part, and of the part methods that they name.
"""

from __future__ import annotations

import dis
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.modules.containers import each_of_kind, of_kind
from fxgrow.modules.holders import content_of
from fxgrow.modules.tensors import named_tensors
from fxgrow.proof.certificate import Certificate, Verdict
from fxgrow.proof.comparing import equal_values, module_difference
from fxgrow.proof.straight_through import puts_out, takes_in

CLAIM = "what lies between the parts is as it was"


def between_parts(
    original: nn.Module,
    grown: nn.Module,
    parts: Sequence[str],
    heads: Sequence[str] = (),
    first: Sequence[tuple[str, int | str]] = (),
) -> Certificate:
    """That two models differ in nothing but in parts, and that only calls can tell.

    heads: parts that give more than they did. first: those that are given more, and as which argument of the model.
    """
    problem = _difference(original, grown, parts)
    if problem is not None:
        return Certificate(CLAIM, "values", (), Verdict.REFUTED, problem)
    changed = set()
    for path in parts:
        changed |= _changed_names(original.get_submodule(path), grown.get_submodule(path))
    names = _names_read(original, parts)
    reader = next(iter(sorted(_READERS & names)), None)
    if reader is not None and changed:
        detail = f"its code calls {reader}, which reaches whatever a part has, and a part that it calls has grown"
        return Certificate(CLAIM, "the same code on the same tensors", (), Verdict.UNKNOWN, detail)
    read = sorted(changed & names)
    if read:
        detail = f"its code reads {', '.join(read[:3])}, and a part that it calls has grown in something of that name"
        return Certificate(CLAIM, "the same code on the same tensors", (), Verdict.UNKNOWN, detail)
    told = [
        *(
            f"what {path} gives has grown, and its code may do more than put it out"
            for path in heads
            if not puts_out(original, path)
        ),
        *(
            f"what {path} is given has grown, and its code may do more than pass it on"
            for path, argument in first
            if not takes_in(original, path, argument)
        ),
    ]
    if told:
        return Certificate(CLAIM, "the same code on the same tensors", (), Verdict.UNKNOWN, told[0])
    count = sum(1 for _ in _tensors_outside(original, parts))
    conditions = (
        f"modules outside the parts have their classes and attributes, and their {count} tensors their values",
        "the code that calls the parts reads nothing else of them that has grown",
        *(f"it puts out what {path} gives, and does nothing else with it" for path in heads),
        *(f"it gives {path} what it is given, and does nothing else with it" for path, _ in first),
    )
    return Certificate(CLAIM, "the same code on the same tensors", conditions)


def _held(model: nn.Module, parts: Sequence[str]) -> set[nn.Module]:
    """What parts are and hold; the model may have further names for it."""
    return {held for path in parts for held in model.get_submodule(path).modules()}


def _tensors_outside(model: nn.Module, parts: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    held, owners = _held(model, parts), dict(model.named_modules(remove_duplicate=False))
    for name, tensor in named_tensors(model).items():
        if owners[name.rpartition(".")[0]] not in held:
            yield name, tensor


def _further_names(model: nn.Module, parts: Sequence[str]) -> set[str]:
    """The names that modules outside the parts have for what the parts hold."""
    held = _held(model, parts)
    outside = [(path, module) for path, module in model.named_modules(remove_duplicate=False) if module not in held]
    names = (
        (f"{path}.{name}" if path else name)
        for path, module in outside
        for name, child in module._modules.items()
        if child in held
    )
    return {*names} - {*parts}


def _difference(original: nn.Module, grown: nn.Module, parts: Sequence[str]) -> str | None:
    """The first thing outside the parts in which two models differ."""
    before, after = (
        {path: module for path, module in model.named_modules() if module not in held}
        for model, held in ((original, _held(original, parts)), (grown, _held(grown, parts)))
    )
    if before.keys() != after.keys():
        return f"its modules differ: {sorted(before.keys() ^ after.keys())[:3]}"
    apart = _further_names(original, parts) ^ _further_names(grown, parts)
    if apart:
        return f"{sorted(apart)[0]} is a layer of a part in one of them"
    places, places_after = _places(original), _places(grown)
    for path, module in before.items():
        pair = _without_parts(module, places), _without_parts(after[path], places_after)
        difference = module_difference(*pair, frozenset({"_fxgrow"}))
        if difference is not None:
            return f"{path or type(original).__name__}: {difference}"
        if list(module._modules) != list(after[path]._modules):
            return f"{path or type(original).__name__} has other parts"
    after_growth = named_tensors(grown)
    for name, tensor in _tensors_outside(original, parts):
        if name not in after_growth or not _equal(tensor, after_growth[name]):
            return f"{name} is not what it was"
    return None


def _places(model: nn.Module) -> dict[int, str]:
    """Where the modules and tensors of a model are, by their identities."""
    return {id(held): path for path, held in (*named_tensors(model).items(), *model.named_modules())}


def _without_parts(module: nn.Module, places: Mapping[int, str]) -> nn.Module:
    """A module without its parts, for a comparison of what it is itself; its functions are told by what they refer to.

    places: of the modules and tensors that they may refer to.
    """

    def told(function: FunctionType | MethodType) -> tuple[Any, ...]:
        if isinstance(function, MethodType):
            owner = function.__self__
            return *told(function.__func__), places.get(id(owner), owner)  # type: ignore[arg-type]
        referred = [*map(content_of, function.__closure__ or ()), *(function.__defaults__ or ())]
        at = [places.get(id(held), held) if isinstance(held, (nn.Module, Tensor)) else held for held in referred]
        return function.__code__, id(function.__globals__), function.__kwdefaults__, *at

    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__.update(each_of_kind(_beside_the_tree(module), _FUNCTIONS, told))
    twin.__dict__["_modules"] = {}
    return twin


def _beside_the_tree(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module, its hooks among them, without its parts and tensors."""
    return {k: value for k, value in module.__dict__.items() if k not in ("_parameters", "_buffers", "_modules")}


_FUNCTIONS = (FunctionType, MethodType)


def _equal(tensor: Tensor, other: Tensor) -> bool:
    return tensor.dtype == other.dtype and tensor.shape == other.shape and torch.equal(tensor, other)


def _changed_names(original: nn.Module, grown: nn.Module) -> set[str]:
    """Names of attributes and tensors in a part that are not what they were."""
    names = set()
    twins = dict(grown.named_modules())
    for path, module in original.named_modules():
        twin = twins.get(path)
        if twin is None:
            names |= {path.rpartition(".")[2]}
            continue
        for store in ("_parameters", "_buffers"):
            before, after = module.__dict__[store], twin.__dict__[store]
            for name, tensor in before.items():
                if tensor is not None and (name not in after or not _equal(tensor, after[name])):
                    names.add(name)
        names |= {name for name, value in _plain(module) if not equal_values(value, twin.__dict__.get(name))}
    return names


def _plain(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in module.__dict__.items():
        if not name.startswith("_") and name != "training" and isinstance(value, (bool, int, float, str, tuple, list)):
            yield name, value


def _names_read(model: nn.Module, parts: Sequence[str]) -> set[str]:
    """Names that the code around the parts reads as the forward runs: its own, and that of what it names."""
    holders = {type(model), *(type(model.get_submodule(path)) for path in _above(parts))}
    inner = {type(m) for path in parts for m in model.get_submodule(path).modules()}
    methods: dict[str, list[FunctionType]] = {}
    for kind in (*holders, *inner):
        for name, function in methods_of(kind):
            if name not in _CALLS:
                methods.setdefault(name, []).append(function)
    waiting = [function for kind in holders for name, function in methods_of(kind) if name in ("forward", "__call__")]
    inside = _held(model, parts)
    for module in model.modules():
        if module not in inside:  # functions that attributes and hooks hold
            attributes = _beside_the_tree(module)
            held = (*of_kind(attributes, FunctionType), *of_kind(attributes, MethodType))
            waiting += filter(None, map(function_in, held))
    return names_reached(waiting, methods)


def names_reached(waiting: list[FunctionType], methods: Mapping[str, Sequence[FunctionType]]) -> set[str]:
    """Names that functions look up, and that what they name does; `methods`: those that a name may be, by the name."""
    return {name for _, read in functions_reached(waiting, methods) for name in read}


def functions_reached(
    waiting: list[FunctionType], methods: Mapping[str, Sequence[FunctionType]]
) -> Iterator[tuple[FunctionType, set[str]]]:
    """Functions, and what they name, each with the names that it looks up. For arguments `names_reached`."""
    names: set[str] = set()
    seen: set[int] = set()
    while waiting:
        function = waiting.pop()
        read = _names_in(function.__code__)
        read -= {name for name in read & methods.keys() - names if _of_a_logger(function, name)}
        for name in read - names:
            waiting.extend(methods.get(name, ()))
        names |= read
        helpers = {id(helper): helper for helper in _helpers(function, read) if id(helper) not in seen}
        seen |= helpers.keys()
        waiting.extend(helpers.values())
        yield function, read


_CALLS = ("forward", "__call__", "__init__")

_READERS = frozenset(
    (
        *("parameters", "named_parameters", "buffers", "named_buffers", "state_dict", "get_parameter", "get_buffer"),
        *("_parameters", "_buffers", "__dict__", "vars", "functional_call", "stack_module_state"),
    )
)
"""What reads the tensors of a module without their names."""

_OF_ANY = frozenset(("device", "dtype", "is_cuda"))
"""What growth leaves as it is in the first parameter of a module."""

_OF_DTYPE = frozenset(("is_floating_point", "is_complex"))


def _above(parts: Iterable[str]) -> set[str]:
    """Paths of the modules that hold parts, the root aside."""
    above = set()
    for path in parts:
        while "." in path:
            path = path.rpartition(".")[0]
            above.add(path)
    return above


def methods_of(kind: type) -> Iterator[tuple[str, FunctionType]]:
    """Functions of a class that are its own, not torch's; those that it overrides only if it may call them."""
    by_name: dict[str, list[FunctionType]] = {}
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        for name, member in vars(base).items():
            function = function_in(member)
            if function is not None:
                by_name.setdefault(name, []).append(function)
    for name, functions in by_name.items():
        calls_up = any("super" in override.__code__.co_names for override in functions)
        yield from ((name, function) for function in (functions if calls_up else functions[:1]))


def _helpers(function: FunctionType, names: set[str]) -> Iterator[FunctionType]:
    """Functions outside of classes, not torch's, that a function names or closes over."""
    for value in (*map(function.__globals__.get, names), *map(content_of, function.__closure__ or ())):
        helper = function_in(value)
        if helper is not None and (helper.__module__ or "").partition(".")[0] != "torch":
            yield helper


def function_in(value: Any) -> FunctionType | None:
    """The function that a value is, or calls as properties, methods and partial calls do."""
    value = next((getattr(value, name) for kind, name in _CALLING.items() if isinstance(value, kind)), value)
    return value if isinstance(value, FunctionType) else None


_CALLING: Mapping[type, str] = {
    **dict.fromkeys((staticmethod, classmethod, MethodType), "__func__"),
    **dict.fromkeys((functools.partial, functools.cached_property), "func"),
    property: "fget",
}


def _names_in(code: CodeType) -> set[str]:
    """Names that a function looks up, those of functions written inside it among them."""
    names = set(code.co_names)
    if "parameters" in names and all(map(_of_first, *_around(code, "parameters"))):
        names.remove("parameters")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_in(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            names.add(constant)  # getattr(part, "weight")
    return names


def _of_a_logger(function: FunctionType, name: str) -> bool:
    """Whether a function looks up a name nowhere but in a logger of its file, as `LOGGER.info`."""
    inner = (constant for constant in function.__code__.co_consts if isinstance(constant, CodeType))
    if not hasattr(logging.Logger, name) or any(name in _names_in(code) for code in inner):
        return False
    before, _ = _around(function.__code__, name)
    homes = [steps[0] for steps in before if steps]
    return bool(homes) and all(
        home.opname == "LOAD_GLOBAL" and isinstance(function.__globals__.get(str(home.argval)), logging.Logger)
        for home in homes
    )


def _around(code: CodeType, name: str) -> tuple[list[list[dis.Instruction]], list[list[dis.Instruction]]]:
    """The instructions before each place where code looks up a name, the nearest first, and those after it."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _PLUMBING]
    places = [k for k, step in enumerate(steps) if step.argval == name]
    return [steps[:k][::-1] for k in places], [steps[k + 1 :] for k in places]


_PLUMBING = ("CACHE", "PRECALL", "PUSH_NULL", "EXTENDED_ARG")


def _of_first(before: list[dis.Instruction], after: list[dis.Instruction]) -> bool:
    """Whether parameters are looked up in `next(module.parameters()).device`, or the like.

    The like is also `next(p.dtype for p in module.parameters() if p.is_floating_point())`.
    """
    place = next((k for k, step in enumerate(before) if step.argval == "next" or step.opname[:5] != "LOAD_"), -1)
    read = next((step for step in after if not step.opname.startswith("CALL")), None)
    if place < 0 or read is None:
        return False
    if before[place].opname != "MAKE_FUNCTION" or len(before) < place + 3:
        return before[place].argval == "next" and read.argval in _OF_ANY
    generator, caller = before[place + 1].argval, before[place + 2].argval
    return caller == "next" and isinstance(generator, CodeType) and {*generator.co_names} <= _OF_ANY | _OF_DTYPE
