"""The intermediate model: an original with new blocks, readouts and rescaled weights, and no wider.

A proof may choose any intermediate model, so long as that model computes what the original does (`equivalence.py`) and
the grown model computes what the intermediate one does (`checker.py`). Its tensors are the original's times a factor,
or belong to new blocks. They are worked out one at a time, when they are looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.proof.models import Model


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the intermediate model comes from: a tensor of the original, or how a new block's starts.

    source: "" for a tensor that is zero. started: what a new block makes of the source; None: it has the source itself.
    silent: whether some of its rows may be zero.
    """

    source: str
    started: Callable[[Tensor], Tensor] | None = None
    silent: bool = False


@dataclass(frozen=True)
class Intermediate(Model):
    """The intermediate model. `tensors` has shapes only.

    library: the modules that capture found in the original. before: what a part is called in the original; for one of
    a new block, its twin there. origins: of its tensors. sources: the tensors of the original. factors: what tensors
    are multiplied by, beside their origin. attributes: of modules that are others than in the original or in what a
    new block repeats: eps of norms that take up a factor, sizes of new layers. rounded_names: tensors that growth
    multiplied more than once.
    """

    library: nn.Module = field(kw_only=True)
    before: Callable[[str], str] = field(kw_only=True)
    origins: Mapping[str, Origin] = field(kw_only=True)
    sources: Mapping[str, Tensor] = field(kw_only=True)
    factors: dict[str, float] = field(kw_only=True, default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(kw_only=True, default_factory=dict)
    rounded_names: set[str] = field(kw_only=True, default_factory=set)

    def part(self, path: str) -> nn.Module:
        before = self.before(path)
        for root, place in ((self.module, before), (self.library, before), (self.structure, path)):
            try:
                module = root.get_submodule(place)
            except AttributeError:
                continue
            if path in self.attributes:
                module = copy.copy(module)
                module.__dict__.update(self.attributes[path])
            return module
        raise AttributeError(path)

    def tensor(self, name: str) -> Tensor | None:
        origin = self.origins.get(name)
        if origin is None:
            original = Model(self.graphs, self.module, self.library, self.sources)
            return original.tensor(self.name_before(name))
        if not origin.source:
            like = self.tensors[name]
            device = next(iter(self.sources.values())).device
            return torch.zeros((), dtype=like.dtype, device=device).expand(like.shape)
        tensor = self.sources[origin.source].detach()
        if origin.started is not None:
            tensor = origin.started(tensor)
        factor = self.factor(name)
        return tensor if factor == 1.0 else tensor * factor

    def name_before(self, name: str) -> str:
        """What a tensor or another attribute of a part is called in the original."""
        owner, dot, leaf = name.rpartition(".")
        return self.before(owner) + dot + leaf

    def reads_before(self, node: fx.Node) -> str:
        """What a node calls or reads, by its name in the original."""
        target = str(node.target)
        if node.op == "call_module":
            return self.before(target)
        return self.name_before(target) if node.op == "get_attr" else target

    def factor(self, name: str) -> float:
        return self.factors.get(name, 1.0)

    def rounded(self, name: str) -> bool:
        return name in self.rounded_names

    def is_zero(self, name: str) -> bool:
        """Whether every entry of a tensor is zero."""
        tensor = self.tensor(name)
        return tensor is not None and not bool(tensor.any())

    def silent_rows(self, name: str) -> Tensor | None:
        """Which entries of the first axis of a tensor are zero, where some may be."""
        origin = self.origins.get(name)
        tensor = self.tensor(name) if origin is not None and origin.silent else None
        if tensor is None:
            return None
        return ~tensor.flatten(1).any(1) if tensor.ndim > 1 else tensor == 0

    def is_one(self, name: str) -> bool:
        """Whether every entry of a tensor is one."""
        tensor = self.tensor(name)
        return tensor is not None and bool((tensor == 1).all())
