"""Packages import each other in one direction only, and the kernel of the proofs imports the laws and little else."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from benchmarks.kernel import ENTRY, believed, lines_of, modules, package_of, packages

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "certificates.md"

BESIDES_THE_LAWS = {
    *("fxgrow.errors", "fxgrow.fused", "fxgrow.guards", "fxgrow.noise", "fxgrow.opaque", "fxgrow.printing"),
    "fxgrow.spectral",
    *(f"fxgrow.modules.{name}" for name in ("containers", "devices", "holders", "libraries")),
    *(f"fxgrow.modules.{name}" for name in ("replacing", "tensors")),
}
"""Modules that know nothing of growth."""


def test_packages_import_each_other_in_one_direction_only() -> None:
    try:
        order = list(TopologicalSorter(packages()).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(reversed(error.args[1]))) from None
    assert order.index("fxgrow.axes") < order.index("fxgrow.rules") < order.index("fxgrow.proof")
    assert order.index("fxgrow.rules") < order.index("fxgrow.planning") < order.index("fxgrow.transforms")


def test_the_kernel_imports_the_laws_and_modules_that_know_nothing_of_growth() -> None:
    reached = {name if name in BESIDES_THE_LAWS else package_of(name) for name in believed()}
    assert reached == {"fxgrow.proof", "fxgrow.rules", "fxgrow.axes", *BESIDES_THE_LAWS}


def test_what_proves_a_law_is_not_in_the_law() -> None:
    """The planner's side of a law reads nothing of the kernel, so that neither can lean on the other's conclusions."""
    for name in (name for name in modules() if package_of(name) in ("fxgrow.rules", "fxgrow.axes")):
        assert "fxgrow.proof" not in {package_of(imported) for imported in modules()[name].imports}, name


def test_the_page_says_how_many_lines_are_believed() -> None:
    """To within a twentieth: `python -m benchmarks.kernel` prints the lines."""
    said = re.search(r"([\d,]+) lines of code in ([\d,]+) modules", PAGE.read_text())
    assert said is not None
    names = [*believed(), *ENTRY]
    for number, counted in zip(said.groups(), (sum(map(lines_of, names)), len(names)), strict=True):
        assert abs(int(number.replace(",", "")) - counted) <= counted / 20, (number, counted)


def test_no_module_is_longer_than_a_person_reads_at_once() -> None:
    lengths = {name: len(source.path.read_text().splitlines()) for name, source in modules().items()}
    assert {name: length for name, length in lengths.items() if length > 450} == {}
