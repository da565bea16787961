"""What people call on timm models, called on grown ones: python -m benchmarks.methods [GLOB ...] [--most MILLIONS]

The smallest model of each family of timm, small images, random weights away from trivial values, float64, grown to
1.5 times its width and depth. A check says whether the grown model does what the original does: ok; no (the original
does it, the grown model does not, with the reason below the table); a dash (the original does not do it either).
`--out FILE` keeps the findings, a JSON line a model, and goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import pickle
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from fxgrow.zoo.choice import chosen
from fxgrow.zoo.images import bare
from fxgrow.zoo.nontrivial import lively
from timm.data import resolve_model_data_config
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError, first_line
from fxgrow.measure.verification import random_inputs, relative_error
from fxgrow.modules.containers import flat_tensors
from fxgrow.noise import WithoutNoise

EXACT = 1e-10
SIDE = 96
CLASSES = 10

Check = Callable[[Any, Any, Tensor], None]


def run(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    with torch.no_grad(), WithoutNoise():
        return call(*args, **options)


def assert_same(answer: Any, expected: Any, what: str) -> None:
    pairs = list(zip(flat_tensors(answer), flat_tensors(expected), strict=True))
    assert pairs, f"{what}: no tensors"
    for tensor, wanted in pairs:
        assert tensor.shape == wanted.shape, f"{what}: {tuple(tensor.shape)} and {tuple(wanted.shape)}"
        error = relative_error(tensor, wanted)
        assert error <= EXACT, f"{what}: off by {error:.1e}"


def in_both_modes(check: Check) -> Check:
    def checked(model: Any, grown: Any, images: Tensor) -> None:
        for training in (False, True):
            check(copy.deepcopy(model).train(training), copy.deepcopy(grown).train(training), images)

    return checked


@in_both_modes
def same_function(model: Any, grown: Any, images: Tensor) -> None:
    assert_same(run(grown, images), run(model, images), "output")


@in_both_modes
def head_of_features(model: Any, grown: Any, images: Tensor) -> None:
    def difference(network: Any) -> tuple[Any, Any]:
        return run(lambda: network.forward_head(network.forward_features(images))), run(network, images)

    assert_same(*difference(model), "of the original")
    assert_same(*difference(grown), "forward_head(forward_features(x))")


@in_both_modes
def intermediates(model: Any, grown: Any, images: Tensor) -> None:
    (last, features), (grown_last, grown_features) = (
        run(network.forward_intermediates, images) for network in (model, grown)
    )
    assert_same(run(grown.forward_features, images), grown_last, "forward_intermediates and forward_features")
    assert len(grown_features) >= len(features), f"{len(features)} features became {len(grown_features)}"
    few = [run(network.forward_intermediates, images, indices=1, intermediates_only=True) for network in (model, grown)]
    assert len(few[0]) == len(few[1]) == 1
    assert [tensor.ndim for tensor in flat_tensors(last)] == [tensor.ndim for tensor in flat_tensors(grown_last)]


def classifier(model: Any, grown: Any, images: Tensor) -> None:
    def described(network: Any) -> list[str]:
        held = network.get_classifier()
        parts = [part for part in (held if isinstance(held, tuple) else (held,)) if part is not None]
        inside = set(network.modules())
        assert parts and all(part in inside for part in parts), "the classifier is not a part of the model"
        return [f"{type(part).__name__} {getattr(part, 'out_features', None)}" for part in parts]

    assert described(grown) == described(model)


@in_both_modes
def another_head(model: Any, grown: Any, images: Tensor) -> None:
    shapes = []
    for network in (model, grown):
        network.reset_classifier(CLASSES)
        network.double()
        shapes.append([tuple(tensor.shape) for tensor in flat_tensors(run(network, images))])
        assert network.num_classes == CLASSES
    assert shapes[0] == shapes[1], f"{shapes[0]} became {shapes[1]}"
    features = []
    for network in (model, grown):
        network.reset_classifier(0)
        features.append(next(flat_tensors(run(network, images))).ndim)
    assert features[0] == features[1]


def gradients(model: Any, images: Tensor) -> list[Tensor | None]:
    model.zero_grad()
    with WithoutNoise():
        sum(tensor.square().mean() for tensor in flat_tensors(model(images))).backward()  # type: ignore[union-attr]
    return [parameter.grad for parameter in model.parameters()]


def checkpointing(model: Any, grown: Any, images: Tensor) -> None:
    model.set_grad_checkpointing(True)
    gradients(model.train(), images)
    plain, saving = copy.deepcopy(grown).train(), copy.deepcopy(grown).train()
    saving.set_grad_checkpointing(True)
    pairs = list(zip(gradients(saving, images), gradients(plain, images), strict=True))
    assert all((saved is None) == (plain_gradient is None) for saved, plain_gradient in pairs)
    largest = max(float(plain_gradient.abs().max()) for _, plain_gradient in pairs if plain_gradient is not None)
    for saved, plain_gradient in pairs:
        if saved is not None and plain_gradient is not None:
            assert float((saved - plain_gradient).abs().max()) <= EXACT * largest, "gradients differ"


def silent(model: Any, images: Tensor) -> set[str]:
    """The modules whose hooks do not fire in a forward, with # for numbers in their paths."""
    fired: set[str] = set()
    parts = {name: part for name, part in model.named_modules() if not isinstance(part, (nn.ModuleList, nn.Identity))}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: fired.add(name))
    run(model, images)
    return {re.sub(r"\d+", "#", name) for name in parts.keys() - fired}


def hooks(model: Any, grown: Any, images: Tensor) -> None:
    more = silent(copy.deepcopy(grown), images) - silent(copy.deepcopy(model), images)
    assert not more, f"hooks do not fire on {sorted(more)[:3]}"


def layer_decay(model: Any, grown: Any, images: Tensor) -> None:
    def scales(network: Any) -> set[float]:
        groups = param_groups_layer_decay(network, 0.05, layer_decay=0.75)
        assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in network.parameters())
        return {group["lr_scale"] for group in groups}

    before, after = len(scales(model)), len(scales(grown))
    deeper = len(list(grown.parameters())) > len(list(model.parameters()))
    assert after >= before if deeper else after == before, f"{before} layers became {after}"


def data_config(model: Any, grown: Any, images: Tensor) -> None:
    assert resolve_model_data_config(grown) == resolve_model_data_config(model)


def widths(model: Any, grown: Any, images: Tensor) -> None:
    """`num_features` and `head_hidden_size` are what the original's are: a size of features, of what the head reads."""

    def true_of(network: Any) -> dict[str, bool]:
        features = run(network.forward_features, images)
        sizes = {size for tensor in flat_tensors(features) for size in tensor.shape[1:]}
        before_logits = next(flat_tensors(run(network.forward_head, features, pre_logits=True))).shape[-1]
        return {
            "num_features": network.num_features in sizes,
            "head_hidden_size": network.head_hidden_size == before_logits,
        }

    before, after = true_of(model), true_of(grown)
    assert any(before.values())
    wrong = [f"{name} is {getattr(grown, name)}" for name, so in before.items() if so and not after[name]]
    assert not wrong, ", ".join(wrong)


def copies(model: Any, grown: Any, images: Tensor) -> None:
    expected = run(grown.eval(), images)
    assert_same(run(copy.deepcopy(grown), images), expected, "deepcopy")
    assert_same(run(pickle.loads(pickle.dumps(grown)), images), expected, "pickle")
    buffer = io.BytesIO()
    torch.save(grown.state_dict(), buffer)
    buffer.seek(0)
    twin = copy.deepcopy(grown)
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()
    twin.load_state_dict(torch.load(buffer))
    assert_same(run(twin, images), expected, "state_dict")


CHECKS: dict[str, Check] = {
    "function": same_function,
    "head of features": head_of_features,
    "intermediates": intermediates,
    "classifier": classifier,
    "reset": another_head,
    "checkpointing": checkpointing,
    "hooks": hooks,
    "layer decay": layer_decay,
    "data config": data_config,
    "widths": widths,
    "copies": copies,
}


def built(name: str, options: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(0)
    return lively(timm.create_model(name, **options, **more)).eval()


def answer(check: Check, model: Any, grown: Any, images: Tensor) -> str:
    """What a check says: ok, a dash where the original cannot do it, else what is wrong."""
    try:
        check(copy.deepcopy(model), copy.deepcopy(model), images)
    except Exception:
        return "-"
    try:
        check(copy.deepcopy(model), copy.deepcopy(grown), images)
    except Exception as error:  # whatever it raises is the finding
        return f"{type(error).__name__}: {first_line(error)}"
    return "ok"


def grown_in_its_class(model: nn.Module, images: Tensor) -> Any:
    """A model grown to 1.5 times its width and depth.

    Raises
    ------
    FxgrowError: it cannot grow, or its class cannot hold the growth.
    """
    grown = fxgrow.grow(model, 1.5, 1.5, example_inputs=images, verify=False)
    plan = fxgrow.report(grown).plan
    if plan.form == "graph" and not plan.parts:
        raise FxgrowError(f"it comes back as a graph: {plan.obstacle}")
    return grown.eval()


def features_of(name: str, options: dict[str, Any], images: Tensor) -> str:
    """Whether a model that gives features still says what they are, and gives the same."""
    try:
        model = built(name, options, features_only=True)
        run(model, images)
    except Exception:
        return "-"
    try:
        grown = grown_in_its_class(model, images)
        same_function(model, grown, images)
        for read in ("channels", "reduction"):
            said = [getattr(network.feature_info, read)() for network in (model, grown)]
            assert said[0] == said[1], f"{read} {said[0]} became {said[1]}"
        assert isinstance(grown, type(model)), type(grown).__name__
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return "ok"


def findings(name: str) -> dict[str, str]:
    """What each check says of one model.

    Raises
    ------
    FxgrowError: it does not come back in its own class.
    """
    _, options, inputs = bare(f"timm/{name}", SIDE)
    (images,) = random_inputs(inputs, 2)[0]
    images = images[:2] if len(images) >= 2 else images.repeat(2, 1, 1, 1)
    model = built(name, options)
    grown = grown_in_its_class(model, images)
    answers = {label: answer(check, model, grown, images) for label, check in CHECKS.items()}
    del grown
    return {**answers, "features": features_of(name, options, images)}


def table(rows: list[dict[str, Any]]) -> str:
    headings = [*CHECKS, "features"]
    lines = [f"| model | {' | '.join(headings)} |", "| --- " * (len(headings) + 1) + "|"]
    reasons: list[str] = []
    counts: Counter[str] = Counter()
    for row in rows:
        if "error" in row:
            reasons.append(f"- {row['model']}: {row['error']}")
            counts["not looked at"] += 1
            continue
        cells = [row[heading] if row[heading] in ("ok", "-") else "no" for heading in headings]
        lines.append(f"| {row['model']} | {' | '.join(cells)} |")
        counts.update(cells)
        reasons += [f"- {row['model']}, {h}: {row[h]}" for h, cell in zip(headings, cells, strict=True) if cell == "no"]
    total = ", ".join(f"{kind}: {count}" for kind, count in counts.items())
    return "\n".join((*lines, "", total, "", *reasons))


def main(arguments: list[str]) -> int:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "globs", nargs="*", metavar="GLOB", help="names of models; the smallest of each family if left out"
    )
    parser.add_argument("--most", type=float, default=30.0, metavar="MILLIONS", help="of parameters")
    parser.add_argument("--out", type=Path, help="a file of JSON lines")
    options = parser.parse_args(arguments)
    sample = "all" if options.globs else "smallest-per-family"
    choices = [chosen("timm", pattern, sample, at_most=options.most) for pattern in options.globs or ["*"]]
    names = [entry.name for entries in choices for entry in entries]
    kept = options.out.read_text().splitlines() if options.out and options.out.exists() else []
    rows: dict[str, Any] = {row["model"]: row for row in map(json.loads, kept)}
    for name in names:
        if name not in rows:
            try:
                rows[name] = {"model": name, **findings(name)}
            except Exception as error:
                rows[name] = {"model": name, "error": f"{type(error).__name__}: {first_line(error)}"}
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(rows[name]) + "\n")
    print(table([rows[name] for name in names]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
