"""How a grown model differs from one that a constructor makes: a target's, or a config's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """An attribute of a part whose value differs from what a constructor sets."""

    module: str
    attribute: str
    value: Any
    built_with: Any

    def __str__(self) -> str:
        place = f"{self.module}.{self.attribute}" if self.module else self.attribute
        return f"{place} = {self.value!r}, not {self.built_with!r}"


@dataclass(frozen=True)
class Likeness:
    """How a grown model differs from a target as the constructor makes it.

    Attributes
    ----------
    target: its class.
    settings: attributes; with them and the grown `state_dict`, a target computes what the grown model does.
    parts: path, class and class in the target of parts that differ by more than attributes.
    norms: paths of the parts that are norms over old units; `fxgrow.settle(model, 1)` makes them the target's.
    drops: path, the part and the target's, as text, of parts that are other dropout or stochastic depth, or none. The
        grown model has the model's; in eval mode they are the same.
    """

    target: str
    settings: tuple[Setting, ...] = ()
    parts: tuple[tuple[str, str, str], ...] = ()
    norms: tuple[str, ...] = ()
    drops: tuple[tuple[str, str, str], ...] = ()

    @property
    def needs(self) -> str:
        """For which parts a grown model needs fxgrow, in a sentence, and what can be done; "" where for none."""
        others = tuple(path for path, *_ in self.parts if path not in self.norms)
        native = "puts the target's own there"
        kinds = (
            (
                self.norms,
                "norm",
                "over old units of fxgrow's",
                f"; fxgrow.settle(model, 1) {native}, and changes the function",
            ),
            (others, "part", "that fxgrow edited", f", and nothing {native}"),
        )
        said = []
        for paths, noun, which, remedy in kinds:
            if paths:
                count, first = (f"{len(paths)} {noun}s", " first") if len(paths) > 1 else (f"a {noun}", "")
                said.append(
                    f"it needs {count} {which} ({paths[0]}{first}), "
                    f"so {self.target} does not compute what it does without fxgrow{remedy}"
                )
        return "; ".join(said)


@dataclass(frozen=True)
class ConfigGrowth:
    """How a config grows from which a class builds its model, as in transformers.

    Attributes
    ----------
    module: the path of the model that keeps the config; "" for the whole.
    entries: of the config, with their values after and before.
    like: how the grown model differs from one that its class builds from the grown config.
    obstacle: why the class cannot build such a model from any config; `like` is None then.
    flags: what the class is given besides the config (`add_pooling_layer=False`), as the model was built with.
    """

    module: str
    entries: tuple[Setting, ...]
    like: Likeness | None = None
    obstacle: str = ""
    flags: tuple[tuple[str, bool], ...] = ()
