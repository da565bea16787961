"""Modules whose forward is in a graph: they refuse values for the attributes that the graph holds as they were."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch import fx, nn

from fxgrow.capture.handed_on import code_run
from fxgrow.capture.methods import RUNNING, kind_before_growth
from fxgrow.capture.source_code import read_names
from fxgrow.errors import FxgrowError
from fxgrow.grouping import grouped
from fxgrow.modules.libraries import home_of
from fxgrow.modules.tensors import prefixes

_PLAIN = (bool, int, float, str, tuple, list, dict, set, enum.Enum, type(None))


class Traced(nn.Module):
    """A module that does not run: a graph makes its calls, and has what `fixed` names as it was when it was made."""

    fixed: Collection[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.fixed:
            raise FxgrowError(
                f"the graph has {name} as it was when the model grew: setting it would change nothing",
                where=name,
                remedy='set it before growth, or grow with form="module"',
            )
        super().__setattr__(name, value)


def classes_that_run(
    model: nn.Module, graphs: Iterable[fx.Graph]
) -> Iterator[tuple[type[nn.Module], list[str], frozenset[str]]]:
    """The classes of the modules that graphs go through, the paths of each one's modules, and its methods that run."""
    nodes = [node for graph in graphs for node in graph.nodes]
    runs = {(run.path, run.method) for node in nodes for run in node.meta.get(RUNNING, ())}
    inside = {above for node in nodes for above in prefixes(node.meta.get("module_path", ""))} | {""}
    kinds = {path: kind_before_growth(type(part)) for path, part in model.named_modules() if path in inside}
    for kind, paths in grouped((kind, path) for path, kind in kinds.items()).items():
        yield kind, paths, frozenset({"forward", *(method for path, method in runs if path in paths)})


def fixed_by(model: nn.Module, graphs: Iterable[fx.Graph]) -> dict[str, set[str]]:
    """The plain attributes that the forwards of modules read of themselves, by the path of each module."""
    fixed: dict[str, set[str]] = {}
    for kind, paths, methods in classes_that_run(model, graphs):
        parts = {path: model.get_submodule(path) for path in paths if not home_of(kind).startswith("torch.")}
        names = read_names(code_run(next(iter(parts.values())), methods)) if parts else []
        for path, part in parts.items():
            values = {name: vars(part).get(name, getattr(kind, name, part)) for name in names if name != "training"}
            fixed[path] = {name for name, value in values.items() if isinstance(value, _PLAIN)}
    return fixed
