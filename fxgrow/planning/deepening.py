"""Growth in depth as a value: the runs of blocks, the new ones, and where every tensor comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    """Nodes of one graph (`mode`: both, eval, train) that a new block repeats, and after which value it comes."""

    mode: str
    nodes: tuple[str, ...]
    entry: str
    exit: str
    after: str


@dataclass(frozen=True)
class NewBlock:
    """A block that a growth adds. modules: pairs of a new module's path and its twin's, which was there before."""

    run: str
    modules: tuple[tuple[str, str], ...]
    regions: tuple[CopiedRegion, ...]


@dataclass(frozen=True)
class Children:
    """The children of a module after growth, in order: pairs of a name and the name before ("": a new one)."""

    path: str
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NewTensor:
    """A parameter or buffer of a new block.

    block: the number of its block. twin: the tensor it repeats, by its name before. start: "copy", "zero", "dirac"
    (an identity map), "ones", "shared" (it is its twin), or how it is drawn: "normal", "level", "zeros", "alike".
    """

    name: str
    block: int
    twin: str
    start: str


@dataclass(frozen=True)
class Deepening:
    """What a growth adds in depth.

    init: how the inner weights of new blocks start: "copy", "random", or "stack", which does not keep the function.
    renamed: pairs of a tensor's name after growth and before, where they differ.
    """

    init: str
    runs: tuple[Run, ...]
    blocks: tuple[NewBlock, ...] = ()
    children: tuple[Children, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    tensors: tuple[NewTensor, ...] = ()

    @property
    def preserving(self) -> bool:
        """Whether the grown model computes what the original computed."""
        return self.init != "stack" or not self.blocks

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Deepening:
        """The value that `dataclasses.asdict` took apart, perhaps with lists for tuples."""
        return cls(
            data["init"],
            tuple(Run(**{**r, "units": tuple(r["units"])}) for r in data["runs"]),
            tuple(
                NewBlock(
                    b["run"],
                    tuple((new, old) for new, old in b["modules"]),
                    tuple(CopiedRegion(**{**r, "nodes": tuple(r["nodes"])}) for r in b["regions"]),
                )
                for b in data["blocks"]
            ),
            tuple(Children(c["path"], tuple((new, old) for new, old in c["names"])) for c in data["children"]),
            tuple((new, old) for new, old in data["renamed"]),
            tuple(NewTensor(**t) for t in data["tensors"]),
        )


def renamed(path: str, children: Mapping[str, Mapping[str, str]]) -> str:
    """A path after growth; `children` maps the path of a module before growth to its children's names, old to new.

    >>> renamed("layer1.1.conv", {"layer1": {"0": "0", "1": "2"}})
    'layer1.2.conv'
    """
    above, done = "", []
    for name in path.split("."):
        done.append(children.get(above, {}).get(name, name))
        above = f"{above}.{name}" if above else name
    return ".".join(done)
