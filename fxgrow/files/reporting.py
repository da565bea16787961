"""A page on a saved model: one HTML file, which loads nothing, with all that is known of its growths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fxgrow.birth import Births
from fxgrow.catalogue import find
from fxgrow.errors import FxgrowError
from fxgrow.files.saving import header_of, history_in, load
from fxgrow.growth.certifying import certify
from fxgrow.history import History, Step
from fxgrow.pages import as_html, page, titled
from fxgrow.plots import as_svg
from fxgrow.proof.certificate import Certificate
from fxgrow.schedule import Schedule
from fxgrow.version import __version__
from fxgrow.writing import text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYMBOLS = (
    "n and m are the fan-ins before and after growth, sigma and s the roots of the mean squares of old and of new "
    "weights, rho the second moment of new inputs beside that of old ones; f is what old weights were multiplied by, "
    "c and kappa are the roots of the mean squares of the weights that read new units and old ones."
)


@dataclass(frozen=True)
class Report:
    """What is known of a saved model: prints as a paragraph for each growth.

    file: its name. header: its metadata. certificate: that of a proof beside the original, where that was named.
    """

    file: str
    header: Mapping[str, Any]
    history: History
    certificate: Certificate | None = None
    schedule: Schedule | None = None

    def __str__(self) -> str:
        return "\n\n".join(f"Growth {number}: {step}" for number, step in enumerate(self.history.steps, start=1))

    def html(self) -> str:
        """The page."""
        made_by = f"Written by fxgrow {__version__}; the model was saved with {versions(self.header)}."
        return page(f"{self.header['model']}, grown: {self.file}", self._parts(), made_by)

    def _parts(self) -> Iterator[tuple[str, str]]:
        origin = self.header.get("base") or "an unnamed original"
        yield "Growths", as_html(f"{self.file} grew from {origin}.") + as_html(growths(self.history.steps))
        for number, step in enumerate(self.history.steps, start=1):
            several = f" {number}" if len(self.history.steps) > 1 else ""
            yield f"Growth{several}: plan", as_html(str(step)) + step.plan._repr_html_()
            if step.certificate is not None:
                said = as_html("As it was proved when the model grew. A claim opens to those that it rests on.")
                yield f"Growth{several}: certificate", said + step.certificate._repr_html_()
        if self.certificate is not None:
            said = as_html("Proved for this page, beside the original.")
            yield "Certificate beside the original", said + self.certificate._repr_html_()
        yield "Births", as_html(born(self.history)) + Births(self.history.births)._repr_html_()
        scale = self.certificate.scale if self.certificate is not None else None
        if scale is not None and scale.layers:
            yield "Scale", as_html(SYMBOLS) + _plotted(scale, "scale") + scale._repr_html_()
        if self.schedule is not None:
            yield "Schedule", _plotted(self.schedule, "schedule") + self.schedule._repr_html_()


def report_of(file: Path, original: str = "", *, pretrained: bool = False, schedule: Path | None = None) -> Report:
    """What is known of a saved model.

    Parameters
    ----------
    original: name of the model that it grew from, built with its weights: then the growth is proved anew, and the
        scale of new units is known.
    schedule: file of what `Schedule.to_json` gave.

    Raises
    ------
    FxgrowError: a file cannot be read, or the model did not grow from the original.
    """
    header = header_of(file)
    history = history_in(header, file)
    certificate = None
    if original:
        before = find(original, pretrained=pretrained)
        certificate = certify(load(file, before), before)
    read = Schedule.from_json(text_of(schedule, "schedule")) if schedule is not None else None
    return Report(file.name, header, history, certificate, read)


def growths(steps: Sequence[Step]) -> Table:
    """A row for each growth."""
    table = titled("growths", "stage", "init", "seed", "parameters", "verification")
    for stage, step in enumerate(steps, start=1):
        totals, verification = step.plan.totals, step.verification
        table.add_row(
            str(stage),
            step.plan.init,
            str(step.seed),
            f"{totals.parameters_before:,} → {totals.parameters_after:,}",
            f"eval {verification.eval_error:.1e}, train {verification.train_error:.1e}" if verification else "not run",
        )
    return table


def counts_by_stage(history: History) -> dict[int, int]:
    """How many elements of all parameters were born at each stage."""
    counts = Counter[int]()
    for birth in history.births.values():
        counts.update(birth.counts())
    return dict(sorted(counts.items()))


def born(history: History) -> Table:
    """A row for each birth stage."""
    table = titled("elements by birth stage", right=("stage", "elements", "of all"))
    counts = counts_by_stage(history)
    elements = max(1, sum(counts.values()))
    for stage, count in counts.items():
        table.add_row(str(stage), f"{count:,}", f"{count / elements:.1%}")
    return table


def versions(header: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in header["versions"].items())


def _plotted(shown: Any, name: str) -> str:
    """A plot as SVG; nothing where matplotlib is not installed, as tables say the same."""
    try:
        figure: Figure = shown.plot()
    except FxgrowError:
        return ""
    return f'<div class="plot">{as_svg(figure, name)}</div>'
