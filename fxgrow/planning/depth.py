"""Planning growth in depth: how many blocks each run gains, which blocks they repeat, and what things are called."""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor, nn

from fxgrow.amounts import Amount, Amounts, covers
from fxgrow.capture import Captured
from fxgrow.errors import AmountError
from fxgrow.grouping import grouped
from fxgrow.modules.tensors import dotted, within, within_any
from fxgrow.planning.blocks import Finder, Found, FoundRun, Unit
from fxgrow.planning.chains import chains
from fxgrow.planning.deepening import Children, CopiedRegion, Deepening, NewBlock, NewTensor, Run, renamed
from fxgrow.planning.dense import Appending, NextLayer, appending
from fxgrow.planning.dense_layers import DenseRun, dense_runs, joins_of
from fxgrow.planning.edits import AttributeEdit
from fxgrow.planning.entries import DRAWS
from fxgrow.planning.loops import loops
from fxgrow.planning.names import names_of_slots, prefixes_counted
from fxgrow.planning.plan import Held, TensorGrowth

STARTS = ("copy", "random", "stack")
"""How the inner weights of new blocks start."""

MOST_BLOCKS = 2**16


@dataclass(frozen=True)
class Insertion:
    """A new block: the unit it repeats and the unit, or the new block, that it follows."""

    run: FoundRun
    twin: Unit
    after: Unit

    def regions(self) -> Iterator[CopiedRegion]:
        """What it repeats in each graph."""
        for own, end in zip(self.twin.regions, self.after.regions, strict=True):
            pairs = zip(own.others, end.others, strict=False)
            streams = tuple((entry.name, leaving.name, after.name) for (entry, leaving), (_, after) in pairs)
            names = tuple(node.name for node in own.nodes)
            yield CopiedRegion(own.mode, names, own.entry.name, own.exit.name, end.exit.name, others=streams)


def plan_depth(
    captured: Captured,
    asked: Amounts | Callable[[Found], Amounts],
    init: str,
    roles: Mapping[str, str],
    held: Mapping[str, str] = MappingProxyType({}),
    late: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Deepening, tuple[Held, ...], Mapping[str, TensorGrowth]]:
    """What to add to each run of blocks, what stays as deep as it is, and what reads channels of new dense layers.

    Parameters
    ----------
    asked: amounts, or what makes them of the runs that there are.
    roles: what parameters are for (weight, gain, bias, mean, variance), by name.
    held: paths of runs that have to stay as long as they are, and why. late: of those whose new blocks all come last.

    Raises
    ------
    AmountError: a key names no run, or a run would become shorter.
    """
    finder = Finder(captured)
    repeats = chains(finder, loops(finder, dense_runs(finder, finder.find()), held))
    amounts = asked if isinstance(asked, Amounts) else asked(repeats)
    if not amounts.prefix:  # else other parts of the model may have what a key names
        check_keys(amounts, repeats.runs, [path for path, _ in repeats.held], captured.model)
    lengths = {id(run): _length(amount, run) for run in repeats.runs if (amount := _asked(amounts, run)) is not None}
    growing = [run for run in repeats.runs if lengths.get(id(run), 0) > len(run.units) and run.path not in held]
    inner = {id(run): outer for run in repeats.runs if (outer := _around(run, growing)) is not None}
    dense = {
        run: lengths[id(run)] - len(run.units) for run in growing if isinstance(run, DenseRun) and id(run) not in inner
    }
    appended = appending(finder, dense) if dense else Appending()
    turns = tuple(root for run in growing for unit in run.units for root in unit.roots if id(run) not in inner)
    chosen: list[Insertion] = []
    shown: list[Run] = []
    for run in repeats.runs:
        if id(run) not in lengths:
            continue
        reason = held.get(run.path) or _refusal(run, inner.get(id(run)), appended)
        if reason:
            if run.path not in held or not within_any(run.units[0].path, turns):
                repeats.held.append((run.path, reason))
            continue
        before, after = len(run.units), lengths[id(run)]
        insertions = list(insertions_into(run, after - before, run.path in late))
        chosen.extend(insertions)
        units = tuple(unit.path for unit in run.units)
        how = _how(run, init) if insertions else "it stays as it is"
        last = f"; they come last: {late[run.path]}" if insertions and run.path in late else ""
        shown.append(Run(run.path, before, after, units, how + last))
    naming = Naming(finder, chosen, roles, appended)
    deepening = naming.deepening(init, tuple(shown))
    return deepening, tuple(_held(repeats)), {growth.name: growth for growth in naming.reading}


def _around(run: FoundRun, growing: list[FoundRun]) -> FoundRun | None:
    """A run that gains blocks, in one of whose blocks another run is."""
    return next((o for o in growing if o is not run and any(within(run.path, u.path) for u in o.units)), None)


def _refusal(run: FoundRun, outer: FoundRun | None, appended: Appending) -> str:
    """Why a run stays although more blocks were asked for."""
    if outer is not None:
        return f"they are inside blocks of {outer.path}, which are repeated as they are; grow them in a second step"
    if isinstance(run, DenseRun):
        return appended.refused.get(run, "")
    reading = [t.name for t in appended.tensors if any(within_any(t.name, unit.roots) for unit in run.clonable)]
    if reading:
        return f"{reading[0]} reads channels of new dense layers; grow them in a second step"
    return ""


def _held(repeats: Found) -> Iterator[Held]:
    """Blocks that stay as many as they are, those with one reason together."""
    for reason, paths in grouped((reason, path) for path, reason in dict.fromkeys(repeats.held)).items():
        yield Held(len(paths), tuple(paths), f"its blocks stay as many as they are: {reason}")


def insertions_into(run: FoundRun, count: int, late: bool = False) -> Iterable[Insertion]:
    """New blocks spread evenly over a run, whole periods of its pattern at a time, what is left over at its end.

    late: put them all at its end.
    """
    if isinstance(run, DenseRun):
        yield from itertools.repeat(Insertion(run, run.units[-1], run.units[-1]), count)
        return
    blocks, length = run.clonable, run.period
    groups = [blocks[k : k + length] for k in range(0, len(blocks) - length + 1, length)]
    groups = groups[-1:] if late else groups
    rounds, rest = divmod(count, length)
    for number, group in enumerate(groups):
        share = (number + 1) * rounds // len(groups) - number * rounds // len(groups)
        for _ in range(share):
            for twin in group:
                yield Insertion(run, twin, group[-1])
    tail = groups[-1]
    for twin in tail[:rest]:
        yield Insertion(run, twin, tail[-1])


def _asked(amounts: Amounts, run: FoundRun) -> Amount | None:
    matches = [match for path in (run.path, *(u.path for u in run.units)) if (match := amounts.match(path))]
    return matches[0][1] if matches else None


def _length(amount: Amount, run: FoundRun) -> int:
    before = len(run.units)
    if amount.kind == "exact" and amount.value < before:
        raise AmountError(
            f"exactly {amount.value} blocks were asked for, which is fewer than the {before} there are",
            where=run.path,
            remedy='pass a factor of at least 1 such as 1.5, or a string such as "+2" (2 more) or "=6" (exactly 6)',
        )
    after = amount.apply(before)
    if after > MOST_BLOCKS:
        raise AmountError(f"{after:g} blocks were asked for", where=run.path, remedy="ask for less")
    return max(before, int(after + 0.5))


def check_keys(amounts: Amounts, runs: Iterable[FoundRun | Run], staying: list[str], model: nn.Module) -> None:
    """Raise an AmountError for a key that covers neither a run nor blocks that stay."""
    runs = list(runs)
    units = [unit if isinstance(unit, str) else unit.path for run in runs for unit in run.units]
    paths = [*(run.path for run in runs), *units]
    run_paths = list(dict.fromkeys(run.path for run in runs))
    for key, _ in amounts.by_key:
        if not key or any(covers(key, path) for path in (*paths, *staying)):
            continue
        close = difflib.get_close_matches(key, run_paths, n=3) or run_paths[:6]
        exists = any(covers(key, path) for path, _ in model.named_modules() if path)
        raise AmountError(
            "there are no repeated blocks" if exists else "the key matches no module of the model",
            where=key,
            remedy=f"runs of blocks are {', '.join(close)}" if close else "no run of blocks was found in this model",
        )


def _how(run: FoundRun, init: str) -> str:
    if init == "stack":
        return "copied whole: the function changes"
    unit = run.clonable[-1]
    last = "its channels come last, what reads them starts at zero" if isinstance(run, DenseRun) else ""
    assert unit.identity is not None
    of_rows = [name for name, _, _ in unit.identity.rows]
    zero, rows, dirac, ones = (
        shortened_names([name.removeprefix(unit.path + ".") for name in names])
        for names in (unit.identity.zero, of_rows, unit.identity.dirac, unit.identity.ones)
    )
    said = [
        f"{zero} zero" if zero else "",
        f"rows of {rows} zero" if rows else "",
        f"{ones} one" if ones else "",
        f"{dirac} an identity map" if dirac else "",
        *unit.identity.facts,
        last,
    ]
    return "; ".join(filter(None, said))


def shortened_names(names: list[str]) -> str:
    """Names of tensors with those of one module together.

    >>> shortened_names(["bn2.weight", "bn2.bias", "gamma"])
    'bn2.weight and bias, gamma'
    """
    together = grouped(name.rpartition(".")[::2] for name in names)
    return ", ".join(
        f"{owner}.{' and '.join(leafs)}" if owner else ", ".join(leafs) for owner, leafs in together.items()
    )


class Naming:
    """Names after growth: new modules stand next to their twins; numbered children are numbered anew."""

    def __init__(
        self, finder: Finder, insertions: list[Insertion], roles: Mapping[str, str], appended: Appending
    ) -> None:
        self.appended = appended
        self.reading: list[TensorGrowth] = []  # tensors that read channels of new dense layers
        self.model = finder.model
        self.inputs = finder.captured.inputs
        self.shared = finder.shared
        self.insertions = insertions
        self.roles = roles
        self.order: dict[str, list[tuple[str, int]]] = {}  # container -> (old name, number of its copy; 0: itself)
        self.places: list[list[tuple[str, tuple[str, int]]]] = []  # per insertion: container, slot of each root
        self._arrange()
        self.names: dict[str, dict[tuple[str, int], str]] = {
            path: self._named(path, slots) for path, slots in self.order.items()
        }
        self.moves = {
            path: {old: new for (old, copy), new in names.items() if not copy} for path, names in self.names.items()
        }

    def _arrange(self) -> None:
        last: dict[int, dict[str, tuple[str, int]]] = {}  # after-unit -> container -> slot that was put there last
        copies: dict[str, int] = {}
        for insertion in self.insertions:
            places = []
            back = self._backwards(insertion.run)
            ends = last.setdefault(id(insertion.after), {})
            for root in insertion.after.roots:
                container, _, name = root.rpartition(".")
                self.order.setdefault(container, [(n, 0) for n in self.model.get_submodule(container)._modules])
                ends.setdefault(container, (name, 0))
                place, end = self._index(container, (name, 0)), self._index(container, ends[container])
                if place < end if container in back else place > end:
                    ends[container] = (name, 0)
            for root in insertion.twin.roots:
                container, _, name = root.rpartition(".")
                copies[root] = copies.get(root, 0) + 1
                slot = (name, copies[root])
                self.order[container].insert(self._index(container, ends[container]) + (container not in back), slot)
                ends[container] = slot
                places.append((container, slot))
            self.places.append(places)

    def _backwards(self, run: FoundRun) -> set[str]:
        """The containers through which a run goes from their end to their beginning."""
        ends = [dict(root.rpartition(".")[::2] for root in unit.roots) for unit in (run.units[0], run.units[-1])]
        places = {path: list(self.model.get_submodule(path)._modules) for path in ends[0].keys() & ends[1].keys()}
        return {path for path, names in places.items() if names.index(ends[0][path]) > names.index(ends[1][path])}

    def _index(self, container: str, slot: tuple[str, int]) -> int:
        return self.order[container].index(slot)

    def _named(self, path: str, slots: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Names of the children: numbered ones counted anew, others kept and new ones named after their twin."""
        longer = {name for name, copy in slots if copy}
        return names_of_slots(slots, prefixes_counted(self.model, path, self.inputs, longer))

    def after(self, path: str) -> str:
        """What something that was there is called after growth."""
        return renamed(path, self.moves)

    def deepening(self, init: str, runs: tuple[Run, ...]) -> Deepening:
        """The plan of it all."""
        named = (
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        )
        pairs = ((self.after(name), name) for name, _ in named)
        blocks: list[NewBlock] = []
        born: list[NewTensor] = []
        attributes = [replace(edit, module=self.after(edit.module)) for edit in self.appended.attributes]
        self.reading = [replace(growth, name=self.after(growth.name)) for growth in self.appended.tensors]
        earlier: Counter[str] = Counter()
        for insertion, places in zip(self.insertions, self.places, strict=True):
            run = insertion.run
            modules = tuple(
                (self._path(container, slot), root)
                for (container, slot), root in zip(places, insertion.twin.roots, strict=True)
            )
            regions = tuple(insertion.regions())
            tensors: Iterable[NewTensor] = tuple(self._born(len(blocks), modules, insertion.twin, init))
            aliases = tuple(dict.fromkeys(self._aliases(insertion.twin, tensors)))
            if isinstance(run, DenseRun):
                earlier[run.path] += 1
                layer, number = self.appended.layers[run], earlier[run.path]
                regions = tuple(
                    replace(
                        region, joins=joins_of(run, own), numbers=layer.numbers_of(own.mode, number), passed=run.passed
                    )
                    for region, own in zip(regions, insertion.twin.regions, strict=True)
                )
                at_once = 1 if run.kind == "residual" else number  # what else it reads comes with growth
                tensors = tuple(_longer(tensor, layer, at_once) for tensor in tensors)
                further = (layer.further(tensor, self._shape(tensor.twin), number) for tensor in tensors)
                self.reading.extend(filter(None, further))
                attributes.extend(_sized(layer, modules, number, self.model))
            kind = run.kind if isinstance(run, DenseRun) else "identity"
            blocks.append(NewBlock(run.path, modules, regions, kind, aliases))
            born.extend(tensors)
        children = tuple(
            Children(path, tuple((self.names[path][slot], "" if slot[1] else slot[0]) for slot in slots))
            for path, slots in self.order.items()
        )
        moved = tuple((new, old) for new, old in pairs if new != old)
        enlarged = tuple((growth.name, growth.new_shape) for growth in self.reading)
        edits = self.appended.nodes, tuple(attributes)
        return Deepening(init, runs, tuple(blocks), children, moved, tuple(born), enlarged, *edits)

    def _shape(self, name: str) -> tuple[int, ...]:
        owner, _, leaf = name.rpartition(".")
        return tuple(getattr(self.model.get_submodule(owner), leaf).shape)

    def _path(self, container: str, slot: tuple[str, int]) -> str:
        above, name = self.after(container) if container else "", self.names[container][slot]
        return dotted(above, name)

    def _born(self, block: int, modules: tuple[tuple[str, str], ...], twin: Unit, init: str) -> Iterator[NewTensor]:
        assert twin.identity is not None
        starts: dict[str, str] = {}
        rows: dict[str, list[tuple[int, int]]] = {}
        if init != "stack":
            for name, first, last in twin.identity.rows:
                rows.setdefault(name, []).append((first, last))
            starts |= dict.fromkeys(twin.identity.zero, "zero") | dict.fromkeys(twin.identity.dirac, "dirac")
            starts |= dict.fromkeys(twin.identity.ones, "ones")
        for new, old in modules:
            part = self.model.get_submodule(old)
            named = (*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False))
            for below, tensor in named:
                name = f"{old}.{below}"
                aliases = self.shared.get(name, [name])
                foreign = next((alias for alias in aliases if not within_any(alias, twin.roots)), None)
                start = next((starts[alias] for alias in aliases if alias in starts), "")
                silent = tuple(cut for alias in aliases for cut in rows.get(alias, ()))
                if foreign is not None and not start and not silent:
                    yield NewTensor(f"{new}.{below}", block, foreign, "shared")
                    continue
                if not start:
                    start = self._drawn(name, tensor) if init == "random" else "copy"
                twin_name = name if foreign is None else aliases[0]
                yield NewTensor(f"{new}.{below}", block, twin_name, start, silent=silent)

    def _aliases(self, twin: Unit, tensors: Iterable[NewTensor]) -> Iterator[tuple[str, str]]:
        """What the graph calls by a name outside the block, and the new block has for itself: new and old names."""
        born = [tensor for tensor in tensors if tensor.start != "shared"]
        own = {alias: tensor.name for tensor in born for alias in self.shared.get(tensor.twin, ())}
        outside = _called_outside(twin) if own else ()
        for target, (alias, name) in itertools.product(outside, own.items()):
            if within(alias, target):
                yield name.removesuffix(alias.removeprefix(target)), target

    def _drawn(self, name: str, tensor: Tensor) -> str:
        """How a tensor that need not be copied is drawn: by its role; statistics start afresh."""
        role = self.roles.get(name)
        if role is not None:
            return {**DRAWS, "variance": "ones"}[role]
        if name.endswith("num_batches_tracked"):
            return "zeros"
        return "alike" if isinstance(tensor, nn.Parameter) else "copy"


def _called_outside(unit: Unit) -> list[str]:
    """The parts and tensors that a unit calls by names outside of it."""
    nodes = itertools.chain.from_iterable((n, *n.all_input_nodes) for region in unit.regions for n in region.nodes)
    targets = dict.fromkeys(str(n.target) for n in nodes if n.op in ("call_module", "get_attr"))
    return [target for target in targets if not within_any(target, unit.roots)]


def _longer(tensor: NewTensor, layer: NextLayer, number: int) -> NewTensor:
    """A tensor of the new dense layer of a number, counted from one."""
    longer = tuple((axis, number * each) for axis, each in layer.longer.get(tensor.twin, ()))
    return replace(tensor, longer=longer, draw=layer.draws.get(tensor.twin, "alike")) if longer else tensor


def _sized(
    layer: NextLayer, modules: tuple[tuple[str, str], ...], number: int, model: nn.Module
) -> Iterator[AttributeEdit]:
    """Sizes that modules of the new dense layer of a number keep as attributes."""
    for (module, attribute), (size, each) in layer.sizes.items():
        new, old = next((new, old) for new, old in modules if within(module, old))
        value: int | tuple[int, ...] = size + number * each
        if isinstance(getattr(model.get_submodule(module), attribute), tuple):
            value = (size + number * each,)
        yield AttributeEdit(new + module.removeprefix(old), attribute, value)
