"""One step of a proof as a rule sees it: a node of the grown graph beside the node of the original it grew from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import fx, nn

from fxgrow.modules.containers import each_of_kind, of_kind
from fxgrow.proof.claims import (
    Claim,
    HeldValues,
    Map,
    Refuted,
    Unproved,
    one_number,
    same_map,
)
from fxgrow.proof.comparing import ABSENT, Both, equal_values, module_difference, plain
from fxgrow.proof.known_values import check_old_entries, without_values
from fxgrow.rules.calls import Called, writes


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


def no_rule(use: Use) -> Unproved:
    return Unproved(f"{use.name} has no proof rule, and something that it is given has grown")


def claims_in(item: Any) -> Iterator[Claim]:
    """The tensors of a structure, in order."""
    return of_kind(item, Claim)


def numbers_in(item: Any) -> Iterator[Both]:
    """The plain values of a structure, in order."""
    return of_kind(item, Both)
