"""Shows a plan as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fxgrow.grouping import grouped
from fxgrow.pages import titled

if TYPE_CHECKING:
    from fxgrow.planning.deepening import Deepening
    from fxgrow.planning.likeness import Likeness
    from fxgrow.planning.plan import Plan, Readout


def shown(plan: Plan) -> RenderableType:
    """Tables of what grows and what stays, totals, and what comes back."""
    headings = ("group", "size", "made by", "stays invisible by")
    grown = titled(f"{plan.model}: what grows (init={plan.init})", *headings, right=["parameters"])
    grown.columns[1].justify = "right"
    for group in plan.groups:
        size = f"{group.old} → {group.new}"
        grown.add_row(group.name, size, shortened(group.where), group.how, f"+{group.added:,}")
    stays = titled("what stays, and why", "size", "where", "reason")
    for staying in plan.held:
        stays.add_row(str(staying.size), shortened(staying.where), staying.reason)
    tables: list[RenderableType] = [_deeper(plan.model, plan.depth)] if plan.depth is not None else []
    tables += [grown] if plan.groups or plan.depth is None else []
    tables += [stays] if plan.held else []
    t = plan.totals
    summary = Text(
        f"parameters {t.parameters_before:,} → {t.parameters_after:,} (x{plan.ratio:.2f})    "
        f"FLOPs a sample {t.flops_before:,} → {t.flops_after:,} (x{t.flops_after / max(1, t.flops_before):.2f})"
    )
    form = Text(_comes_back_as(plan))
    return Group(*tables, *_rescaled(plan), *map(_read_out, plan.readouts), summary, form, *_unlike(plan))


def in_words(plan: Plan) -> str:
    """What a plan does to a model, in a sentence.

    >>> import torch, fxgrow
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> in_words(fxgrow.plan(model, width=2, example_inputs=torch.randn(1, 4)))
    'Sequential, 58 → 114 parameters (x1.97), 96 → 192 FLOPs a sample: 1 group of dimensions wider'
    """
    totals, done = plan.totals, []
    if plan.depth is not None and plan.depth.runs:
        done += [f"{run.path or 'the model'} {run.before} → {run.after} blocks" for run in plan.depth.runs[:4]]
        done += [f"{len(plan.depth.runs) - 4} more runs"] if len(plan.depth.runs) > 4 else []
    if plan.groups:
        done.append(f"{len(plan.groups)} group{'s' if len(plan.groups) > 1 else ''} of dimensions wider")
    if plan.classes is not None:
        done.append(f"{plan.classes.old} → {plan.classes.new} classes")
    parameters = f"{totals.parameters_before:,} → {totals.parameters_after:,} parameters (x{plan.ratio:.2f})"
    flops = f"{short(totals.flops_before)} → {short(totals.flops_after)} FLOPs a sample"
    return f"{plan.model}, {parameters}, {flops}: {', '.join(done) or 'nothing grows'}"


def short(number: int) -> str:
    """A large number in few characters.

    >>> short(25_557_032), short(999), short(8_178_000_000)
    ('25.6 M', '999', '8.18 G')
    """
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _unlike(plan: Plan) -> Iterator[Text]:
    if plan.like is not None:
        yield from _in_what(plan.like, "is a {} as its constructor makes it", "the target")
    for config in plan.configs:
        owner = config.module or plan.model
        given = "".join(f" and {name}={value}" for name, value in config.flags)
        if config.entries:
            changed = ", ".join(f"{entry.attribute} {entry.built_with} → {entry.value}" for entry in config.entries)
            yield Text(f"config of {owner}: {changed}")
        if config.like is not None:
            same = f"built from this config{given}, with the grown state dict, {{}} is the grown model"
            yield from _in_what(config.like, same, f"{owner} as built from this config{given}")
        else:
            yield Text(f"built from its config{given}, {owner} would be another: {config.obstacle}")


def _in_what(like: Likeness, same: str, counterpart: str) -> Iterator[Text]:
    """What a grown model has otherwise than one that a constructor makes."""
    alike = grouped(((each.attribute, each.value, each.built_with), each.module) for each in like.settings)
    if not alike and not like.parts and not like.drops:
        yield Text(same.format(like.target))
    for (attribute, value, built_with), modules in alike.items():
        yield Text(f"unlike {counterpart}: {attribute} = {value!r}, not {built_with!r}, of {shortened(list(modules))}")
    for path, kind, plain in like.parts:
        yield Text(f"unlike {counterpart}: {path} is {kind}, and no attribute of {plain} makes up for that")
    if like.parts:
        yield Text(like.needs)
    for (here, there), paths in grouped(((here, there), path) for path, here, there in like.drops).items():
        yield Text(f"unlike {counterpart} in train mode alone: {here}, not {there}, at {shortened(paths)}")


def _comes_back_as(plan: Plan) -> str:
    if plan.parts:
        paths = ", ".join(path for path, _ in plan.parts)
        why = f"; as a whole it cannot be captured: {plan.obstacle}" if plan.obstacle else ""
        return f"comes back as {plan.model}, its own class, grown in parts ({paths}), between which sizes stay{why}"
    if plan.form == "module":
        refused = "".join(f"; refuses {refusal}: {refusal.why}" for refusal in plan.refusals)
        return f"comes back as {plan.model}, its own class{refused}"
    return f"comes back as a graph module{f': {plan.obstacle}' if plan.obstacle else ''}"


def _rescaled(plan: Plan) -> Iterator[Table]:
    if plan.rescalings:
        table = titled("old weights rescaled, and what makes up for it", "weight", "kind", "factor", "made up for by")
        for rescaling in plan.rescalings:
            by = rescaling.by or f"left alone: {rescaling.reason}"
            table.add_row(rescaling.name, rescaling.kind, f"{rescaling.factor:.4g}", by)
        yield table


def _read_out(readout: Readout) -> Text:
    return Text(f"output of {readout.size} units: read through {readout.weight}, which starts at zero")


def _deeper(model: str, depth: Deepening) -> Table:
    """The runs of blocks and how they grow."""
    how = "how new ones change nothing" if depth.preserving else "how new ones start"
    table = titled(f"{model}: runs of blocks (depth_init={depth.init})", "run", "blocks", how)
    table.columns[1].justify = "right"
    for run in depth.runs:
        table.add_row(run.path, f"{run.before} → {run.after}", run.how)
    return table


def shortened(where: Sequence[str], most: int = 3) -> str:
    """The first few places, and how many more there are."""
    more = len(where) - most
    return ", ".join(where[:most]) + (f" and {more} more" if more > 0 else "")
