"""Chooses the models of the catalogue that a sweep looks at: by sample and by range of sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fxgrow.zoo.sizes import parameters_of

from fxgrow.catalogue import CatalogueError, Entry, entries
from fxgrow.errors import check_one_of
from fxgrow.modules.libraries import LIBRARIES

SAMPLES = ("smallest-per-family", "all")


def chosen(
    library: str | None = None,
    pattern: str = "*",
    sample: str = "smallest-per-family",
    at_least: float = 0.0,
    at_most: float = math.inf,
) -> list[Entry]:
    """The models of a sample that have between `at_least` and `at_most` million parameters, the smallest first.

    >>> [entry.name for entry in chosen("timm", "resnet1*", "all", at_most=11)]
    ['resnet10t', 'resnet14t']

    Raises
    ------
    CatalogueError: there is no such library or sample, or no model matches.
    """
    if library is not None:
        check_one_of(LIBRARIES, library, f"there is no library {library!r}", CatalogueError)
    check_one_of(SAMPLES, sample, f"there is no sample {sample!r}", CatalogueError)
    candidates = list(entries(library, pattern))
    if not candidates:
        raise CatalogueError(f"no model matches {pattern!r}", remedy="see timm.list_models() for names")
    if sample == "smallest-per-family":
        candidates = smallest_per_family(candidates)
    sizes = {entry: parameters_of(entry) for entry in candidates}
    within = [entry for entry in candidates if at_least * 1e6 <= sizes[entry] <= at_most * 1e6]
    if not within:
        least, most = (f"{size / 1e6:.1f}" for size in (min(sizes.values()), max(sizes.values())))
        raise CatalogueError(
            f"no model of these has between {at_least:g} and {at_most:g} million parameters",
            remedy=f"theirs are between {least} and {most} million",
        )
    return sorted(within, key=lambda entry: sizes[entry])


def smallest_per_family(models: Iterable[Entry]) -> list[Entry]:
    """The model with the fewest parameters of each family, in the order of the families.

    >>> [entry.name for entry in smallest_per_family(entries("timm", "test_res*"))]
    ['test_resnet']
    """
    smallest: dict[str, Entry] = {}
    for entry in models:
        smaller = smallest.get(entry.family)
        if smaller is None or parameters_of(entry) < parameters_of(smaller):
            smallest[entry.family] = entry
    return sorted(smallest.values(), key=lambda entry: entry.family)
