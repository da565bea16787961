"""Grown models as folders: the weights, and timm's config where timm can build the grown model by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxgrow.writing import checked_folder, checked_target, write_text, written_whole

if TYPE_CHECKING:
    from torch import nn

    from fxgrow.files.native import Native
    from fxgrow.history import Step

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

OURS = "<!-- Written by fxgrow, which replaces it when a model is written here again, unless this line is gone. -->"
"""Marks model cards that nobody has made their own."""


@dataclass(frozen=True)
class Target:
    """Where a grown model goes: a file, or a folder, which is made if it is not there."""

    path: str
    is_folder: bool

    @classmethod
    def of(cls, path: str) -> Target:
        """What a path means: a folder if there is one of that name, or if it ends with a slash.

        Raises
        ------
        FileError: it cannot be written to.
        """
        is_folder = path.endswith(os.sep) or Path(path).is_dir()
        if is_folder:
            folder = checked_folder(path)
            for place in (folder / WEIGHTS, folder / CONFIG, folder / CARD):
                if place.exists():
                    checked_target(place)
        else:
            checked_target(path)
        return cls(path, is_folder)

    def write(
        self, grown: nn.Module, base: str | None, arguments: Mapping[str, Any], like: str | None = None
    ) -> dict[str, Any]:
        """Write a grown model, and say what else was written.

        Parameters
        ----------
        base, arguments: as `fxgrow.save` takes them. like: name of the model that it grew to.

        Raises
        ------
        FileError: it cannot be written.
        """
        from fxgrow.files.saving import save

        if not self.is_folder:
            save(grown, self.path, base=base, base_kwargs=arguments)
            return {}
        folder = Path(self.path)
        folder.mkdir(parents=True, exist_ok=True)
        save(grown, folder / WEIGHTS, base=base, base_kwargs=arguments)
        return _written_beside(grown, folder, base or "", arguments, like or "")


def _written_beside(
    grown: nn.Module, folder: Path, base: str, arguments: Mapping[str, Any], like: str
) -> dict[str, Any]:
    """Write what builds the grown model beside its weights: timm's config.json, or else the plans."""
    from fxgrow.files.native import NotNative, native_model
    from fxgrow.history import known_history

    history = known_history(grown)
    old = {path for path in (folder / CONFIG, *folder.glob("plan*.json")) if path.is_file()}
    card = folder / CARD
    written = card.read_text(encoding="utf-8", errors="replace") if card.exists() else OURS
    own_card = OURS not in written  # its reader wrote it, or took it over
    old |= {card} if card.exists() and not own_card else set()
    try:
        native = native_model(grown, folder / WEIGHTS, base, arguments, like)
    except NotNative as reason:
        numbers = [f"-{number}" if len(history.steps) > 1 else "" for number in range(1, len(history.steps) + 1)]
        names = [f"plan{number}.json" for number in numbers]
        for name, step in zip(names, history.steps, strict=True):
            write_text(folder / name, step.plan.to_json())
        for path in old - {folder / name for name in names}:
            path.unlink()
        note = f"timm cannot build it by itself, so {', '.join(names)} is beside the weights: {reason}"
        return {"native": False, "files": [WEIGHTS, *names], "note": note}
    from timm.models._hub import save_config_for_hf

    config = {"pretrained_cfg": dict(native.preprocessing), "model_args": dict(native.arguments)}
    with written_whole(folder / CONFIG) as partial:
        save_config_for_hf(native.model, str(partial), model_config=config)
    if not own_card:
        write_text(card, _card(native, history.steps, base))
    for path in old - {folder / CONFIG, card}:
        path.unlink()
    return {
        "native": True,
        "files": [WEIGHTS, CONFIG] + ([] if own_card else [CARD]),
        "architecture": native.architecture,
        "model_args": dict(native.arguments),
        "note": native.note,
    }


def _card(native: Native, steps: tuple[Step, ...], base: str) -> str:
    """A model card, with what the hub reads at its top, as timm's own have it."""
    import timm

    config = timm.get_pretrained_cfg(base.removeprefix("timm/")) if base.startswith("timm/") else None
    task = "image-classification" if getattr(native.model, "num_classes", 0) else "image-feature-extraction"
    head = ["library_name: timm", f"pipeline_tag: {task}", "tags:", f"- {task}", "- timm", "- fxgrow"]
    if config is not None and config.license:  # of the weights that grew
        head.append(f"license: {config.license}")
    changed = ", ".join(f"{key}={value!r}" for key, value in native.arguments.items())
    name = native.architecture.partition(".")[0]  # without the name of trained weights
    built = f"timm builds it as {name}{f' with {changed}' if changed else ''}"
    growths = [f"{number}. {step}" for number, step in enumerate(steps, start=1)]
    use = ["```python", "import timm", "", 'model = timm.create_model("hf-hub:USER/NAME", pretrained=True)', "```"]
    title = [f"# {name}, grown", "", f"Grown with fxgrow from {base or 'an unnamed model'}; {built}."]
    return "\n".join(["---", *head, "---", OURS, "", *title, "", *growths, "", *use, ""])
