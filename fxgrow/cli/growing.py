"""`grow`, `plan` and `fold`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import fxgrow
from fxgrow.cli import options as given
from fxgrow.cli.options import amounts_of, doing, inputs_of, number_of, say, show
from fxgrow.cli.sources import ModelSource, file_of, source_of
from fxgrow.errors import AmountError
from fxgrow.pages import titled

if TYPE_CHECKING:
    from fxgrow.files.exporting import Target
    from fxgrow.history import Step

Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE|FOLDER/", help="Write the grown model here; a folder loads without fxgrow."
    ),
]


def grow(
    model: given.Model,
    width: given.Width = None,
    depth: given.Depth = None,
    like: given.Like = None,
    init: given.Init = "zero",
    depth_init: given.DepthInit = "copy",
    parameterization: given.Parameterization = None,
    form: given.Form = "auto",
    classes: given.Classes = None,
    class_init: given.ClassInit = "zero",
    in_chans: given.InChans = None,
    seed: Annotated[int, typer.Option(help="Of the new weights.")] = 0,
    round_to: given.RoundTo = 1,
    pretrained: given.Pretrained = False,
    original: given.OriginalOption = "",
    shapes: given.Shapes = None,
    verify: Annotated[bool, typer.Option(help="Prove and test that the function is the same.")] = True,
    full: Annotated[bool, typer.Option("--full", help="Test in float64 at full size, although it is proved.")] = False,
    output: Output = None,
    stream: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="Grow this checkpoint tensor by tensor, into shards in a new folder -o."),
    ] = None,
    as_json: given.AsJson = False,
    verbose: given.Verbose = False,
) -> None:
    """Grow a model, or one that has grown, and show what changed."""
    asked = _Asked(width, depth, like, classes, in_chans)
    target = _target(output) if stream is None else None
    how: dict[str, Any] = {
        "init": init,
        "depth_init": depth_init,
        "round_to": round_to,
        "seed": seed,
        "parameterization": parameterization,
        "form": form,
        "class_init": class_init,
    }
    if stream is not None and output is None:
        raise AmountError("--stream writes shards, and there is no folder for them", remedy="name a new one with -o")
    with doing(f"building {model}"):
        source = source_of(model, original, pretrained=pretrained, weights=stream is None)
    how |= asked.amounts() | {"example_inputs": inputs_of(shapes)}
    if stream is not None and output is not None:
        with doing(f"growing {stream} into {output}"):
            grown = fxgrow.grow_files(
                stream, output, source.model, base=source.base, base_kwargs=source.arguments, **how
            )
    else:
        with doing("growing and verifying" if verify else "growing"):
            grown = fxgrow.grow(source.model, verify="full" if verify and full else verify, **how)
    files = _written(grown, source, target, like)
    step = fxgrow.report(grown)
    if as_json:
        _print_json(model, step, output, files)
        return
    ways = f"init={init}, depth_init={depth_init}" if depth or like else f"init={init}"
    title = f"{model} grown {asked} ({ways}, seed={seed})"
    show(_totals(title, step))
    say(str(step.verification) if step.verification else "not verified")
    if step.certificate is not None:
        say(f"certificate: {step.certificate.verdict}")
    _say_written(output, files)


class _Asked:
    """How much to grow, read before anything slow is done."""

    def __init__(
        self, width: list[str] | None, depth: list[str] | None, like: str | None, classes: str | None, chans: str | None
    ) -> None:
        self.like = like
        self.given = {"": width, "depth ": depth}
        self.ends = {"classes": number_of(classes), "in_chans": number_of(chans)}
        self.wider, self.deeper = amounts_of(width), amounts_of(depth)
        if like is None and all(asked is None for asked in (width, depth, classes, chans)):
            raise AmountError(
                "no amount to grow by was given",
                remedy="pass --width 1.5, --depth 1.5, PATH=AMOUNT for a part, --like MODEL, --classes or --in-chans",
            )
        if like is not None and (width or depth):
            raise AmountError("--like gives every size", remedy="leave --width and --depth out, or --like")

    def amounts(self) -> dict[str, Any]:
        """What `fxgrow.grow` takes."""
        target = None
        if self.like is not None:
            from fxgrow.catalogue import without_weights

            target = without_weights(self.like)
        return {"width": self.wider, "depth": self.deeper, "like": target, **self.ends}

    def __str__(self) -> str:
        if self.like is not None:
            return f"like {self.like}"
        said = [f"{kind}{' '.join(amounts)}" for kind, amounts in self.given.items() if amounts]
        return "by " + ", ".join([*said, *(f"{name} {more}" for name, more in self.ends.items() if more is not None)])


def plan(
    model: given.Model,
    width: given.Width = None,
    depth: given.Depth = None,
    like: given.Like = None,
    init: given.Init = "zero",
    depth_init: given.DepthInit = "copy",
    parameterization: given.Parameterization = None,
    form: given.Form = "auto",
    classes: given.Classes = None,
    in_chans: given.InChans = None,
    round_to: given.RoundTo = 1,
    original: given.OriginalOption = "",
    shapes: given.Shapes = None,
    as_json: given.AsJson = False,
    verbose: given.Verbose = False,
) -> None:
    """Show what growing would do, and why not more; no weights are allocated where the model allows it."""
    asked = _Asked(width, depth, like, classes, in_chans)
    with doing(f"building {model}"):
        source = source_of(model, original, weights=False)
    with doing("capturing and planning"):
        planned = fxgrow.plan(
            source.model,
            **asked.amounts(),
            example_inputs=inputs_of(shapes),
            init=init,
            depth_init=depth_init,
            round_to=round_to,
            parameterization=parameterization,
            form=form,
        )
    if as_json:
        print(planned.to_json())
    else:
        show(planned)


def fold(
    file: given.Saved,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE|FOLDER/", help="Write the folded model here.")],
    original: given.OriginalOption = "",
    as_json: given.AsJson = False,
    verbose: given.Verbose = False,
) -> None:
    """Put the multipliers of variance transfer into the weights, for inference; the function stays."""
    target = _target(output)
    with doing(f"reading {file}"):
        source = source_of(str(file_of(file)), original)
    with doing("folding"):
        folded = fxgrow.fold(source.model)
    files = _written(folded, source, target, None)
    if as_json:
        print(json.dumps({"file": output, **files}))
        return
    _say_written(output, files)


def _target(output: str | None) -> Target | None:
    if output is None:
        return None
    from fxgrow.files.exporting import Target

    return Target.of(output)


def _written(grown: Any, source: ModelSource, target: Target | None, like: str | None) -> dict[str, Any]:
    """Write a grown model, and return what was written beside it, as JSON has it."""
    if target is None:
        return {}
    with doing(f"writing {target.path}"):
        return target.write(grown, source.base, source.arguments, like)


def _say_written(output: str | None, files: dict[str, Any]) -> None:
    if output is None:
        return
    say(f"written to {output}")
    if files.get("native"):
        say(f"loads without fxgrow: timm.create_model('local-dir:{output.rstrip('/')}', pretrained=True)")
    if files.get("note"):
        say(files["note"])


def _print_json(model: str, step: Step, output: str | None, files: dict[str, Any]) -> None:
    checked = step.verification
    document = {
        "model": model,
        "totals": asdict(step.plan.totals),
        "verification": {**asdict(checked), "verdict": checked.verdict} if checked else None,
        "certificate": str(step.certificate.verdict) if step.certificate is not None else None,
        "file": output or "",
        **files,
    }
    print(json.dumps(document))


def _totals(title: str, step: Step) -> Table:
    totals = step.plan.totals
    table = titled(escape(title), "", right=("before", "after", "ratio"))
    for name, before, after in (
        ("parameters", totals.parameters_before, totals.parameters_after),
        ("FLOPs a sample", totals.flops_before, totals.flops_after),
    ):
        table.add_row(name, f"{before:,}", f"{after:,}", f"x{after / max(1, before):.2f}")
    return table
