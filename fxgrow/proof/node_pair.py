"""One step of a proof as a rule sees it: a node of the grown graph beside the node of the original it grew from."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.modules.containers import each_of_kind, has_fractions, of_kind
from fxgrow.modules.holders import compared_by
from fxgrow.modules.tensors import OF_TREE
from fxgrow.proof.claims import (
    Claim,
    HeldValues,
    Map,
    Refuted,
    Unproved,
    at_old,
    earliest,
    is_new,
    one_number,
    same_map,
    spare,
    unchanged,
)
from fxgrow.proof.values import DERIVED_ULPS, ULPS, at_index, differing, exact, first
from fxgrow.rules.calls import Called, writes
from fxgrow.rules.registry import kind_of

ABSENT = type("Absent", (), {"__repr__": lambda self: "nothing"})()
"""Stands for an argument that one of the two nodes does not have."""


@dataclass(frozen=True)
class Both:
    """A value that is no tensor: what the original has at this place, and what the grown model has."""

    old: Any
    new: Any

    @property
    def same(self) -> bool:
        return equal_values(self.old, self.new)


def equal_values(value: Any, other: Any) -> bool:
    """Whether two plain values are equal; floats up to the rounding of one multiplication."""
    if isinstance(value, float) and isinstance(other, (int, float)) and not isinstance(other, bool):
        return value == other or math.isclose(value, other, rel_tol=1e-15) or (math.isnan(value) and math.isnan(other))
    if isinstance(value, int) and isinstance(other, int):  # one may remember where it comes from
        return value == other and isinstance(value, bool) == isinstance(other, bool)
    if isinstance(value, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(value) == len(other) and all(map(equal_values, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(equal_values(value[k], other[k]) for k in value)
    if isinstance(value, slice) and isinstance(other, slice):
        return equal_values((value.start, value.stop, value.step), (other.start, other.stop, other.step))
    if isinstance(value, Tensor) or isinstance(other, Tensor):
        alike = isinstance(value, Tensor) and isinstance(other, Tensor)
        return (
            alike
            and value.shape == other.shape
            and value.dtype == other.dtype
            and (value is other or torch.equal(value, other))
        )
    if isinstance(value, nn.Module) and isinstance(other, nn.Module):
        return module_difference(value, other, frozenset()) is None
    if isinstance(value, weakref.ref) and isinstance(other, weakref.ref):
        referred, looked_at = (value(), other()), (nn.Parameter, nn.Module)  # where they stand in the tree
        of_tree = all(held is None or isinstance(held, looked_at) for held in referred)
        return of_tree or equal_values(*referred)
    if type(value) is not type(other):
        return False
    held, others = compared_by(value), compared_by(other)
    if held is None or others is None or held is value:
        return bool(value == other)
    return equal_values(dict(held), dict(others))


class Use(Called[Claim]):
    """A pair of nodes with their arguments; a rule asks it for what it needs and tells it what it checked.

    argument(index, name): a `Claim`, a `Both`, or a list, tuple, dict or slice of those. memory: what rules keep
    for the next node of the kind; blocks repeat.
    """

    def __init__(
        self,
        old: fx.Node,
        new: fx.Node,
        modules: tuple[nn.Module, nn.Module] | None,
        args: Any,
        kwargs: dict[str, Any],
        parameter_of: Callable[[str], Claim | None],
        attributes: Mapping[str, Any] | None = None,
        memory: dict[Any, Any] | None = None,
    ) -> None:
        self.old = old
        self.new = new
        self.node, self.module = new, modules[1] if modules is not None else None
        self.old_module: nn.Module | None = modules[0] if modules is not None else None
        self.new_module: nn.Module | None = modules[1] if modules is not None else None
        self.args = args
        self.kwargs = kwargs
        self.parameter_of = parameter_of
        self.memory = memory if memory is not None else {}
        self.attributes = {k: v for k, v in (attributes or {}).items() if k != "eps" and not k.startswith("_")}
        self.conditions: list[str] = []
        self.rule = ""

    @property
    def writes(self) -> bool:
        """Whether the node writes to its first operand."""
        return writes(self.new, self.new_module)

    @property
    def value(self) -> Any:
        """What the original node evaluates to, on the meta device."""
        return self.old.meta["value"]

    # -- arguments -----------------------------------------------------------------------------------------

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        passed = self.args[index] if index < len(self.args) else self.kwargs.get(name, Both(ABSENT, ABSENT))
        if isinstance(passed, Both):
            return Both(*(default if value is ABSENT else value for value in (passed.old, passed.new)))
        return passed

    def claim(self, index: int = 0, name: str = "input") -> Claim:
        """The tensor at a position or under a name."""
        operand = self.argument(index, name)
        if not isinstance(operand, Claim):
            raise Unproved(f"argument {name!r} of {self.name} is not a tensor")
        return operand

    tensor = claim

    def optional(self, index: int, name: str) -> Claim | None:
        """A tensor, or None where neither node is given one."""
        argument = self.argument(index, name)
        if isinstance(argument, Claim):
            return argument
        if isinstance(argument, Both) and argument.old is None and argument.new is None:
            return None
        raise Unproved(f"argument {name!r} of {self.name} is given in one of the models only")

    def given(self, index: int, name: str, default: Any = None) -> Any:
        """The tensor at a position or under a name, or the number that the grown node has there."""
        value = self.argument(index, name, default)
        return value if isinstance(value, Claim) else plain(value).new

    def setting(self, index: int, name: str, default: Any = None) -> Both:
        """An attribute of both modules, or an argument of both functions."""
        if self.new_module is None:
            return plain(self.argument(index, name, default))
        return Both(*(getattr(module, name, default) for module in (self.old_module, self.new_module)))

    def claims(self) -> list[Claim]:
        """Every tensor among the arguments, in order."""
        return list(claims_in([self.args, self.kwargs]))

    operands = claims

    def same_numbers(self, besides: Iterable[str] = (), places: Iterable[int] = ()) -> None:
        """Every plain argument is what it was, but for some that the rule itself looks at."""
        skipped, at = set(besides), set(places)
        arguments = [*((str(k), a) for k, a in enumerate(self.args) if k not in at), *self.kwargs.items()]
        for name, item in arguments:
            if name not in skipped:
                for both in numbers_in(item):
                    if not both.same:
                        raise Refuted(f"argument {name} of {self.name} is {both.new}, it was {both.old}")

    def settle(self, own: Sequence[Claim]) -> None:
        """Let tensors of one number have their old units where other tensors, or those of the module, do."""
        others = [claim for claim in (*self.claims(), *own) if not claim.uniform]
        maps = [(c.old[k], c.new[k], m) for c in others for k, m in enumerate(c.maps) if m is not None]

        def settled(claim: Claim) -> Claim:
            positions = list(claim.maps)
            for axis, position in enumerate(claim.maps):
                sizes = claim.old[axis], claim.new[axis]
                if position is not None:
                    positions[axis] = next((m for old, new, m in maps if (old, new) == sizes), position)
            return one_number(claim.old, claim.new, tuple(positions), claim.zero is not None)

        if any(claim.uniform for claim in self.claims()):
            self.args, self.kwargs = (
                each_of_kind(item, Claim, lambda c: settled(c) if c.uniform else c) for item in (self.args, self.kwargs)
            )

    # -- modules -------------------------------------------------------------------------------------------

    def same_module(self, besides: Iterable[str] = ()) -> None:
        """Both modules are of one class with the same attributes, but for some that are what the plan says."""
        if self.old_module is None or self.new_module is None:
            return
        for name in besides:
            follows = name != "eps" and not name.startswith("_")
            if follows and name not in self.attributes and name in self.old_module.__dict__:
                self.attributes[name] = self.old_module.__dict__[name]
        for name, wanted in self.attributes.items():
            value = self.new_module.__dict__.get(name, ABSENT)
            if not equal_values(value, wanted):
                raise Refuted(f"its {name} is {value}, it should be {wanted}")
        difference = module_difference(self.old_module, self.new_module, frozenset(besides))
        if difference is not None:
            raise Refuted(difference)

    def same_settings(self, besides: Iterable[str] = ()) -> None:
        """Both modules are alike but for some attributes, and so is every plain argument."""
        self.same_module(besides)
        self.same_numbers()

    def parameter(self, name: str) -> Claim | None:
        """The module's own parameter or buffer of that name.

        Raises
        ------
        Refuted: one of the two modules has none.
        """
        has = [getattr(m, name, None) is not None for m in (self.old_module, self.new_module)]
        if has[0] != has[1]:
            raise Refuted(f"{self.new.target}.{name} is there in one of the models only")
        return self.parameter_of(f"{self.new.target}.{name}") if has[0] else None

    # -- what a rule says ----------------------------------------------------------------------------------

    def checked(self, text: str) -> None:
        """Record a condition that was checked."""
        if text not in self.conditions:
            self.conditions.append(text)

    def equal(self, claim: Claim) -> Claim:
        """The claim with its old part established: from the values, where it is of known values.

        Raises
        ------
        Refuted: an old entry is not what it was.
        """
        if claim.held is not None and not claim.constant:
            self.old_entries(claim.held, claim.maps, claim.old)
        return without_values(claim)

    def fixed(self, claim: Claim, axes: Iterable[int], what: str) -> None:
        """Some axes of a tensor have not grown."""
        if any(claim.maps[axis] is not None for axis in axes):
            raise Unproved(f"{what} of {self.name} has grown")

    def unchanged(self, claims: Iterable[Claim], what: str) -> None:
        """Some tensors are what they were, whole."""
        if not all(self.equal(claim).same for claim in claims):
            raise Unproved(f"{what} of {self.name} has grown")

    def old_entries(self, held: HeldValues, maps: tuple[Map, ...], old: tuple[int, ...], factor: float = 1.0) -> None:
        """Old entries of a tensor of known values are those of the original, times a factor that rounds."""
        self.checked(check_old_entries(held, maps, old, factor))

    def agreeing_maps(self, maps: Iterable[Map], sizes: Iterable[int], what: str) -> Map:
        """The one map that several tensors have for a dimension."""
        pairs = [(m, s) for m, s in zip(maps, sizes, strict=True)]
        first, size = pairs[0]
        for other, other_size in pairs[1:]:
            if not same_map(first, other) or size != other_size:
                raise Unproved(f"{what}: the tensors of {self.name} do not have their old units at the same positions")
        return first


def check_old_entries(held: HeldValues, maps: tuple[Map, ...], old: tuple[int, ...], factor: float = 1.0) -> str:
    """What `Use.old_entries` checks, in words.

    Raises
    ------
    Refuted: an old entry is not what it was.
    """
    kept = at_old(held.new, maps, old)
    wanted = held.old if factor == 1.0 else exact(held.old) * factor
    if kept.shape != wanted.shape:
        raise Refuted(
            f"{held.name} is of shape {list(held.new.shape)}, which is not a growth of {list(held.old.shape)}"
        )
    stored = held.exact and factor == 1.0 and not held.rounded
    bound = 0.0 if stored else (ULPS if held.exact else DERIVED_ULPS) * held.precision
    wrong = differing(kept, wanted, bound, largest=not held.exact)
    if wrong.any():
        place = first(wrong)
        raise Refuted(
            f"{held.name}: old entry {list(place)} is {at_index(kept, place):.9g}, "
            f"it should be {at_index(wanted, place):.9g}"
        )
    times = f" x {factor:.6g}" if factor != 1.0 else ""
    return f"old entries of {held.name} are the original's{times}" + ("" if stored else " (few ulp)")


def without_values(claim: Claim) -> Claim:
    """A claim of values as one of old entries, which are to be checked, and of what is seen of new ones."""
    if claim.held is None:
        return claim
    return unchanged(claim.new) if claim.constant else Claim(claim.old, claim.new, claim.maps, *facts_of(claim))


REPEATING = frozenset({"pair", "copy", "opposite", "share"})
"""Fills that leave equal rows behind."""


def facts_of(claim: Claim) -> tuple[Tensor | None, dict[int, Tensor], dict[int, Tensor]]:
    """What is known of the new part of a tensor of known values: looked up in the values."""
    assert claim.held is not None
    if all(m is None for m in claim.maps):
        return None, {}, {}
    value, fills = claim.held.new, claim.held.fills
    new = is_new(claim)
    nothing = value == 0
    if not claim.held.exact and has_fractions(value) and value.numel():  # worked out, so that nothing may be rounded
        sizes = value.abs()
        nothing = sizes <= DERIVED_ULPS * claim.held.precision * sizes.where(sizes.isfinite(), 0.0).amax()
    zero = spare(nothing & new.to(value.device))
    copies: dict[int, Tensor] = {}
    means: dict[int, Tensor] = {}
    for axis, position in enumerate(claim.maps):
        if position is not None and fills & REPEATING:
            copies[axis] = repeated(value, axis)
        if position is not None and "mean" in fills:
            means[axis] = mean_positions(value, axis, position, claim.held.precision)
    return None if zero is None else zero.cpu(), copies, means


def repeated(value: Tensor, axis: int) -> Tensor:
    """Position -> the first position along an axis with the same entries, bit for bit. Shape `[positions]`."""
    value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    rows = value.detach().movedim(axis, 0).reshape(value.shape[axis], -1)
    count = rows.shape[0]
    if rows.shape[1] == 0:
        return torch.arange(count)
    keys = rows.double()
    order = torch.argsort((keys * _mixer(rows.shape[1]).to(keys.device)).sum(1), stable=True)
    ordered = rows[order]
    starts = torch.ones(count, dtype=torch.bool, device=rows.device)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(1)  # equal rows have equal sums, and so are neighbours
    source = torch.empty(count, dtype=torch.long)
    source[order.cpu()] = starts.cumsum(0).cpu() - 1
    return earliest(source)


@functools.lru_cache(maxsize=64)
def _mixer(size: int) -> Tensor:
    """Weights that tell rows apart by their sums."""
    generator = torch.Generator().manual_seed(0)
    return torch.empty(size, dtype=torch.float64).uniform_(0.5, 1.5, generator=generator)


def mean_positions(value: Tensor, axis: int, position: Tensor, precision: float) -> Tensor:
    """Which new positions along an axis hold the mean of the old ones, up to rounding. Shape `[positions]`."""
    old, new = (position >= 0).nonzero().flatten(), (position < 0).nonzero().flatten()
    result = torch.zeros(len(position), dtype=torch.bool)
    if not len(old) or not len(new) or not has_fractions(value):
        return result
    before, added = (exact(value.index_select(axis, units.to(value.device))) for units in (old, new))
    mean, scale = before.mean(axis, keepdim=True), before.abs().amax(axis, keepdim=True)
    bound = ULPS * precision * scale
    near = (added - mean).abs() <= bound
    for other in range(value.ndim):
        if other != axis:
            near = near.all(other, keepdim=True)
    result[new] = near.flatten().cpu()
    return result


def no_rule(use: Use) -> Unproved:
    return Unproved(f"{use.name} has no proof rule, and something that it is given has grown")


def plain(item: Any) -> Both:
    """A structure of plain values, as one pair of values."""
    if isinstance(item, Both):
        return item
    if isinstance(item, Claim):
        raise Unproved("a tensor is given where a number is expected")
    if isinstance(item, slice):
        parts = [plain(p) for p in (item.start, item.stop, item.step)]
        return Both(slice(*(p.old for p in parts)), slice(*(p.new for p in parts)))
    if isinstance(item, dict):
        by_key = {key: plain(value) for key, value in item.items()}
        return Both({k: v.old for k, v in by_key.items()}, {k: v.new for k, v in by_key.items()})
    pairs = [plain(value) for value in item]
    kind = type(item) if type(item) in (tuple, list) else tuple
    return Both(kind(p.old for p in pairs), kind(p.new for p in pairs))


def claims_in(item: Any) -> Iterator[Claim]:
    """The tensors of a structure, in order."""
    return of_kind(item, Claim)


def numbers_in(item: Any) -> Iterator[Both]:
    """The plain values of a structure, in order."""
    return of_kind(item, Both)


_OF_HOOKS = ("_forward_", "_backward_", "_is_full_backward_", "_state_dict_", "_load_state_")
"""How the names begin of what modules keep of their hooks."""


def module_difference(old: nn.Module, new: nn.Module, besides: frozenset[str]) -> str | None:
    """The first attribute in which two modules differ, as a sentence; parameters and buffers are not looked at."""
    before_kind, after_kind = kind_of(old), kind_of(new)
    if before_kind is not after_kind:
        return f"it is a {after_kind.__name__}, it was a {before_kind.__name__}"
    besides |= {"factor"} if before_kind is not type(old) or after_kind is not type(new) else set()
    names = [name for name in old.__dict__ if old.__dict__[name] is not new.__dict__.get(name, ABSENT)]
    names += [name for name in new.__dict__ if name not in old.__dict__]
    for name in names:
        if name in OF_TREE or name in besides:
            continue
        before, after = old.__dict__.get(name, ABSENT), new.__dict__.get(name, ABSENT)
        if name.endswith("_hooks") or name.startswith(_OF_HOOKS):
            if (
                (before or after)
                and not _equal_attribute(list(_values(before)), list(_values(after)))
                and "forward" in name
            ):
                return f"its {name} differ"
            continue
        if isinstance(before, (nn.Module, Tensor)) or isinstance(after, (nn.Module, Tensor)):
            continue  # the same objects as in the tree, which is looked at below
        if before is not after and not _equal_attribute(before, after):
            return f"its {name} is {after}, it was {before}"
    if old._modules.keys() != new._modules.keys():
        return f"its parts are {list(new._modules)}, they were {list(old._modules)}"
    for name, part in old._modules.items():
        twin = new._modules[name]
        if (part is None) != (twin is None):
            return f"its {name} is there in one of the models only"
        if part is not None and twin is not None and (difference := module_difference(part, twin, besides)) is not None:
            return f"{name}: {difference}"
    return None


def _values(hooks: Any) -> list[Any]:
    return list(hooks.values()) if isinstance(hooks, dict) else []


def _equal_attribute(before: Any, after: Any) -> bool:
    try:
        return equal_values(before, after)
    except (RuntimeError, TypeError, ValueError):
        return False
