"""Growth in depth as a value: the runs of blocks, the new ones, and where every tensor comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fxgrow.modules.tensors import dotted
from fxgrow.planning.edits import AttributeEdit, NodeEdit


@dataclass(frozen=True)
class Run:
    """Blocks that follow each other. units: the parts that it consisted of. how: why new blocks change nothing."""

    path: str
    before: int
    after: int
    units: tuple[str, ...]
    how: str


@dataclass(frozen=True)
class CopiedRegion:
    """Nodes of one graph (`mode`: both, eval, train) that a new block repeats, and after which value it comes.

    joins: of a dense layer, the concatenations that take in what the new one gives, next to what it comes after.
    passed: of a dense layer that adds to what it is given, how many of the values that it concatenates are that.
    numbers: arguments that are others in the new one: the node that is repeated, where in its arguments, the value.
    others: further streams through it, each with its entry, its exit and the value after which the new block comes.
    """

    mode: str
    nodes: tuple[str, ...]
    entry: str
    exit: str
    after: str
    joins: tuple[str, ...] = ()
    numbers: tuple[tuple[str, tuple[Any, ...], Any], ...] = ()
    others: tuple[tuple[str, str, str], ...] = ()
    passed: int = 0

    @property
    def streams(self) -> tuple[tuple[str, str, str], ...]:
        """What enters it, what leaves it and after what the new block comes, stream by stream."""
        return ((self.entry, self.exit, self.after), *self.others)


@dataclass(frozen=True)
class NewBlock:
    """A block that a growth adds. modules: pairs of a new module's path and its twin's, which was there before.

    aliases: the same pairs for what has a name elsewhere in the model, by which its graph calls it, and which the
    new block has for itself.
    kind: "identity", or what a dense layer is given: "list" (what each layer before gave, concatenated in it),
    "stream" (the same, concatenated before), "residual" (the same, and it adds to it), "last" (what the layer before
    gave).
    """

    run: str
    modules: tuple[tuple[str, str], ...]
    regions: tuple[CopiedRegion, ...]
    kind: str = "identity"
    aliases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Children:
    """The children of a module after growth, in order: pairs of a name and the name before ("": a new one)."""

    path: str
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NewTensor:
    """A parameter or buffer of a new block.

    block: the number of its block. twin: the tensor it repeats, by its name before. start: "copy", "zero", "dirac"
    (an identity map), "ones", "shared" (it is its twin), or how it is drawn, as `TensorGrowth.draw` says.
    longer: axes that are longer than the twin's, and by how much. draw: how further entries are drawn.
    silent: stretches of its first axis that are zero, however the others start.
    """

    name: str
    block: int
    twin: str
    start: str
    longer: tuple[tuple[int, int], ...] = ()
    draw: str = ""
    silent: tuple[tuple[int, int], ...] = ()

    @property
    def is_copy(self) -> bool:
        """Whether it starts as its twin, entry by entry."""
        return self.start == "copy" and not self.longer and not self.silent

    def shape(self, twin: Sequence[int]) -> tuple[int, ...]:
        """Its shape beside its twin's."""
        added = dict(self.longer)
        return tuple(size + added.get(axis, 0) for axis, size in enumerate(twin))


@dataclass(frozen=True)
class Deepening:
    """What a growth adds in depth.

    Attributes
    ----------
    init: how the inner weights of new blocks start: "copy", "random", or "stack", which does not keep the function.
    renamed: pairs of a tensor's name after growth and before, where they differ.
    enlarged: shapes of tensors that read the channels of new dense layers, by name after growth.
    nodes, attributes: edits that follow from those channels.
    """

    init: str
    runs: tuple[Run, ...]
    blocks: tuple[NewBlock, ...] = ()
    children: tuple[Children, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    tensors: tuple[NewTensor, ...] = ()
    enlarged: tuple[tuple[str, tuple[int, ...]], ...] = ()
    nodes: tuple[NodeEdit, ...] = ()
    attributes: tuple[AttributeEdit, ...] = ()

    @property
    def moves(self) -> dict[str, dict[str, str]]:
        """Paths of modules before growth -> the names of their children, old to new."""
        return {children.path: {old: new for new, old in children.names if old} for children in self.children}

    @property
    def new_names(self) -> dict[str, str]:
        """What things that were there are called after growth, of those that are called something else."""
        return {old: new for new, old in self.renamed}

    @property
    def preserving(self) -> bool:
        """Whether the grown model computes what the original computed."""
        return self.init != "stack" or not self.blocks

    def under(self, path: str) -> Deepening:
        """The same for a model of which this one is a part, by names alone: nothing of its graphs."""

        def below(*names: str) -> tuple[str, ...]:
            return tuple(f"{path}.{name}" if name else path for name in names)

        return Deepening(
            self.init,
            tuple(replace(run, path=below(run.path)[0], units=below(*run.units)) for run in self.runs),
            tuple(
                NewBlock(below(b.run)[0], tuple((below(n)[0], below(o)[0]) for n, o in b.modules), (), b.kind)
                for b in self.blocks
            ),
            renamed=tuple((below(new)[0], below(old)[0]) for new, old in self.renamed),
            tensors=tuple(replace(t, name=below(t.name)[0], twin=below(t.twin)[0]) for t in self.tensors),
        )


def joined(several: Sequence[Deepening]) -> Deepening | None:
    """What is added to several parts of a model as one, by names alone."""
    if not several:
        return None
    return Deepening(
        several[0].init,
        tuple(run for deepening in several for run in deepening.runs),
        tuple(block for deepening in several for block in deepening.blocks),
        renamed=tuple(pair for deepening in several for pair in deepening.renamed),
        tensors=tuple(tensor for deepening in several for tensor in deepening.tensors),
    )


def renamed(path: str, children: Mapping[str, Mapping[str, str]]) -> str:
    """A path after growth; `children` maps the path of a module before growth to its children's names, old to new.

    >>> renamed("layer1.1.conv", {"layer1": {"0": "0", "1": "2"}})
    'layer1.2.conv'
    """
    above, done = "", []
    for name in path.split("."):
        done.append(children.get(above, {}).get(name, name))
        above = dotted(above, name)
    return ".".join(done)
