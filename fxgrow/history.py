"""What a grown module knows of its past: the growths it went through, and when each element was born."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fxgrow.birth import Birth, Births
from fxgrow.by_hand import ByHand, by_hand_since
from fxgrow.carried import ATTRIBUTE, Carried, carried_by
from fxgrow.contents import Part, parts_of
from fxgrow.errors import FxgrowError
from fxgrow.first_names import name_at_growth
from fxgrow.modules.tensors import named_tensors, tensors_named
from fxgrow.pages import as_html
from fxgrow.planning.plan import Plan, TensorGrowth
from fxgrow.planning.showing import in_words
from fxgrow.wrappers import WRAPPERS, wrapper_of

if TYPE_CHECKING:
    from fxgrow.proof.certificate import Certificate


@dataclass(frozen=True)
class Verification:
    """Outcome of running both models side by side: TESTED, with the worst relative error of each mode.

    A growth that fails it raises, so that no report says otherwise.

    Attributes
    ----------
    eval_error, train_error: relative errors, max |grown - original| / max |original| over all outputs.
    dtype: of the weights, which decides the tolerance.
    tolerance: the largest error that counts as the same function.
    seed: of the random inputs.
    preserving: False where the growth was asked to change the function (depth stacking).
    precision: in which the models ran.
    in_place: whether the outputs of the model's parts were compared, since the model picks its own outputs by rank
        among values that differ by rounding only, as a detector picks boxes by their scores.
    quick: what made the test cheaper than the full one (`fxgrow.measure.quick`), where the growth is proved.
    """

    eval_error: float
    train_error: float
    dtype: str
    tolerance: float
    seed: int
    preserving: bool = True
    precision: str = "float64"
    in_place: bool = False
    quick: str = ""

    @property
    def verdict(self) -> str:
        """TESTED; REFUTED where an error is beyond the tolerance; CHANGED where the function was to change."""
        if not self.preserving:
            return "CHANGED"
        errors = (self.eval_error, self.train_error)
        return "TESTED" if all(error <= self.tolerance for error in errors) else "REFUTED"

    def __str__(self) -> str:
        computed = "" if self.precision == "float64" else f"computed in {self.precision}, "
        computed += "of what its parts give, as ranks decide between ties, " if self.in_place else ""
        computed += f"{self.quick}, " if self.quick else ""
        return (
            f"{self.verdict}: relative error {self.eval_error:.1e} in eval, {self.train_error:.1e} in train "
            f"({computed}{self.dtype} weights, tolerance {self.tolerance:.0e}, seed {self.seed})"
        )


@dataclass(frozen=True, repr=False)
class Step:
    """One growth: its plan, the seed of its new entries, what verification found and what was proved.

    Attributes
    ----------
    plan: what was carried out.
    seed: of the new entries.
    verification: what running both models found; None where it was not run.
    certificate: what was proved; None where nothing was.
    fingerprint: hashes of the grown model for which the certificate was made.
    folded: whether multipliers went into the weights afterwards (`fxgrow.fold`).
    settled: how much a new unit counts in every norm over old units since this growth (`fxgrow.settle`); None where
        none was settled. Unless it is 0, the function has changed, and verification and certificate are not kept.
    by_hand: what was put in by hand between the growth before and this one.
    """

    plan: Plan
    seed: int
    verification: Verification | None = None
    certificate: Certificate | None = None
    fingerprint: dict[str, str] | None = None
    folded: bool = False
    settled: float | None = None
    by_hand: ByHand = field(default_factory=ByHand)

    def __str__(self) -> str:
        """In a paragraph what grew and what is known of it; `plan` and `certificate` print in full."""
        ways = f"init={self.plan.init}" + (f", depth_init={self.plan.depth.init}" if self.plan.depth else "")
        said = [f"{in_words(self.plan)} ({ways}, seed={self.seed})"]
        said.append(f"Certificate: {self.certificate.verdict}" if self.certificate is not None else "No certificate")
        said.append(str(self.verification) if self.verification is not None else "Not tested")
        said += ["Multipliers are folded into weights"] if self.folded else []
        said += [f"New units count {self.settled:g} in norms over old ones"] if self.settled else []
        if self.plan.like is not None and self.plan.like.needs and self.settled != 1:
            said.append(f"Unlike the target's own class, {self.plan.like.needs}")
        return ". ".join(said) + "."

    def __repr__(self) -> str:
        return f"<Step: {self}>"

    def _repr_html_(self) -> str:
        proof = self.certificate._repr_html_() if self.certificate is not None else ""
        return as_html(str(self)) + self.plan._repr_html_() + proof


@dataclass(frozen=True)
class History(Carried):
    """All growths of a module, in order, and the birth stages of its tensors.

    Attributes
    ----------
    parts: what each part was after the last growth, by path.
    by_hand: what was put in by hand since, once the model grows again: the next step takes it.
    """

    steps: tuple[Step, ...]
    births: dict[str, Birth]
    parts: tuple[tuple[str, Part], ...] = field(default=(), compare=False)
    by_hand: ByHand | None = field(default=None, compare=False)

    @property
    def stage(self) -> int:
        """The number of growths so far."""
        return len(self.steps)

    def lineage(self) -> list[dict[str, str]]:
        """For each number of growths from 0 on: a parameter's name now -> its name then, where it was there."""
        names = {name: name for name in self.births}
        lineage = [names]
        for step in reversed(self.steps):
            before = {name: step.plan.old_name(name) for name in names.values()}
            names = {now: old for now, then in names.items() if (old := before[then]) is not None}
            lineage.append(names)
        return lineage[::-1]

    def growths(self) -> list[dict[str, TensorGrowth]]:
        """How each step grew each parameter that it grew, by the names that they have now."""
        result = []
        for step, names in zip(self.steps, self.lineage()[1:], strict=True):
            growths = {growth.name: growth for growth in step.plan.tensors}
            result.append({now: growths[then] for now, then in names.items() if then in growths})
        return result

    def twins(self) -> dict[str, str]:
        """Each parameter of a block that a growth added -> the parameter of the block it repeats, by present names."""
        lineage, result = self.lineage(), {}
        for number, step in enumerate(self.steps):
            if step.plan.depth is None:
                continue
            before, after = ({then: now for now, then in names.items()} for names in lineage[number : number + 2])
            for tensor in step.plan.depth.tensors:
                if tensor.name in after and tensor.twin in before and after[tensor.name] != before[tensor.twin]:
                    result[after[tensor.name]] = before[tensor.twin]
        return result


def drawn_by(seed: int, stage: int) -> str:
    """What the new entries of a growth are drawn from."""
    return f"{seed}, stage {stage}"


def drawn_in_part(seed: str, path: str) -> str:
    """What the new entries of a part that grows by itself are drawn from; seed: what those of the whole model are."""
    return f"{seed}, {path}"


def history_of(model: nn.Module) -> History | None:
    """The history a module carries, if fxgrow made it."""
    history = carried_by(model)
    return history if isinstance(history, History) else None


GROWN_ONLY = "pass a module that fxgrow.grow or fxgrow.load returned"


def known_history(model: nn.Module, error: type[FxgrowError] = FxgrowError, remedy: str = GROWN_ONLY) -> History:
    """The history of a module that fxgrow grew.

    Raises
    ------
    error: it was not, or it is wrapped in something else.
    """
    wrapper = wrapper_of(model)
    if wrapper is not None:
        raise error(f"the model is wrapped in {wrapper}", remedy=WRAPPERS[wrapper][0])
    history = history_of(model)
    if history is None:
        raise error(f"{type(model).__name__} was not grown by fxgrow", remedy=remedy)
    return history


def before_growth(model: nn.Module) -> History | None:
    """The history of a model that grows again, if fxgrow made it, with what was put in by hand since."""
    history = history_of(model)
    if history is None or history.by_hand is not None:
        return history
    by_hand = by_hand_since(model, history.births, dict(history.parts))
    return replace(history, by_hand=by_hand, births=births_in_place(model, history))


def tensors_of(grown: nn.Module, history: History | None) -> dict[str, Tensor]:
    """The tensors of a module by name: those that are registered, and plain ones that a growth has changed."""
    growing = (growth.name for step in (history.steps if history else ()) for growth in step.plan.tensors)
    return {**named_tensors(grown), **tensors_named(grown, growing)}


def births_in_place(grown: nn.Module, history: History) -> dict[str, Birth]:
    """Births by the names that the last growth gave, each of what has the name now, if that is of the same shape."""
    now = births(grown)
    return {
        name: now[name] if name in now and now[name].shape == birth.shape else birth
        for name, birth in history.births.items()
    }


def report(grown: nn.Module) -> Step:
    """The last growth of a module that fxgrow grew: its plan, its seed, its certificate, what verification found."""
    history = history_of(grown) or known_history(grown)  # a wrapper that shows the model's attributes will do
    return history.steps[-1]


def births(grown: nn.Module) -> Births:
    """When each element of each parameter was born, by parameter name; tied parameters appear once.

    Parameters that were put in by hand since, as with a new head, count as born at the last growth; those that were
    moved since, as in a list from which a block was deleted, keep their births.

    Raises
    ------
    FxgrowError: the module was not grown by fxgrow.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 2))
    >>> fxgrow.births(grown)["0.bias"].axes
    ((0, 0, 0, 1, 1, 1),)
    """
    history = history_of(grown) or known_history(grown)
    by_name = Births()
    for name, parameter in grown.named_parameters():
        birth = history.births.get(name_at_growth(parameter, history.stage) or name)
        if birth is None or birth.shape != tuple(parameter.shape):
            birth = Birth(tuple((history.stage,) * size for size in parameter.shape))
        by_name[name] = birth
    return by_name


def learn(model: nn.Module, history: History, before: Mapping[str, Part] | None = None, **known: Any) -> None:
    """Let a grown model have a history in which more is known of the last step.

    before: what its parts were, if fxgrow has just changed them. Of those put in by hand, what was there before them
    stays known.
    """
    parts = history.parts
    if before is not None:
        after = parts_of(model)
        parts = tuple((path, after[path] if before.get(path) == part else part) for path, part in parts)
    last = replace(history.steps[-1], **known)
    setattr(model, ATTRIBUTE, replace(history, steps=(*history.steps[:-1], last), parts=parts))
