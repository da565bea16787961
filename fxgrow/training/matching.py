"""What each parameter of an older optimizer has become in a grown model, also where parts changed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fxgrow.errors import TrainingError
from fxgrow.first_names import name_at_growth
from fxgrow.history import History
from fxgrow.modules.tensors import dotted, within_any

Lineage = Sequence[Mapping[str, str]]

_REMEDY = "pass the optimizer of the model that was grown"


NEW = "it is new in the grown model"
BY_HAND = "it was put in by hand"
NOT_HELD = "the old optimizer does not hold it"


@dataclass(frozen=True)
class Match:
    """What an optimizer's parameters have become.

    Attributes
    ----------
    since: after how many growths they are.
    now: what those that are still there are called in the grown model.
    gone: what the others were called: they were replaced or taken out by hand.
    growth_names: what the last growth called each parameter that it gave and that is still there, by present names.
    lineage: of the history.
    """

    since: int
    now: dict[Tensor, str]
    gone: dict[Tensor, str]
    growth_names: dict[str, str]
    history: History
    lineage: Lineage

    @property
    def twins(self) -> dict[str, str]:
        """Each parameter of a new block -> the one that it repeats, by present names where they are still there."""
        names = {then: name for name, then in self.growth_names.items()}
        return {names.get(new, new): names.get(like, like) for new, like in self.history.twins().items()}

    def why_fresh(self, name: str) -> str:
        """Why a parameter of the grown model is none of the optimizer's."""
        then = self.growth_names.get(name)
        if then is None or then in self.gone.values() or _put_in(then, self.since, self.history, self.lineage):
            return BY_HAND
        return NOT_HELD if then in self.lineage[self.since] else NEW


def matched(
    names: Mapping[Tensor, str], stage: int | None, parameters: Mapping[str, Tensor], history: History
) -> Match:
    """Match an optimizer's parameters with those of a grown model, by their names and shapes.

    Where the number of growths is not known, it is the one after which fewest parameters have gone, best where all that
    the model had are held; the latest of these.

    Parameters
    ----------
    names, stage: of the optimizer's parameters; after how many growths they are, or None.
    parameters: of the grown model.

    Raises
    ------
    TrainingError: a parameter never was one of the model's, and no change by hand explains that.
    """
    growth_names = _growth_names(parameters, history)
    present = {then: name for name, then in growth_names.items()}
    shapes = {name: birth.shape for name, birth in history.births.items()}
    lineage, growths = history.lineage(), history.growths()
    own = {id(parameter): name for name, parameter in parameters.items()}
    fitting: list[tuple[tuple[int, bool, int], Match]] = []
    problem: TrainingError | None = None
    for since in range(history.stage, -1, -1):
        after = {then: name for name, then in lineage[since].items()}
        if stage in (None, since):
            now: dict[Tensor, str] = {}
            gone: dict[Tensor, str] = {}
            misfits: list[tuple[str, tuple[int, ...], str | None]] = []
            fits = False
            for parameter, name in names.items():
                shape, last = tuple(parameter.shape), after.get(name)
                if id(parameter) in own and since == history.stage:
                    now[parameter] = own[id(parameter)]
                elif last is not None and shapes[last] == shape and not _put_in(last, since + 1, history, lineage):
                    fits = True
                    if last in present:
                        now[parameter] = present[last]
                    else:
                        gone[parameter] = last
                elif since == history.stage and name in parameters and tuple(parameters[name].shape) == shape:
                    now[parameter] = name  # the optimizer was made after the change by hand
                elif _changed_by_hand(last, since, history, lineage):
                    gone[parameter] = last or name
                else:
                    misfits.append((name, shape, last))
            if misfits and problem is None:
                problem = _misfit(*min(misfits, key=lambda misfit: misfit[2] is not None))
            if not misfits and (now or fits):
                all_held = set(names.values()) == after.keys()
                fitting.append(((-len(gone), all_held, since), Match(since, now, gone, growth_names, history, lineage)))
        if since:
            shapes.update({name: growth.old_shape for name, growth in growths[since - 1].items()})
    if not fitting:
        raise problem or TrainingError("the grown model has none of the optimizer's parameters", remedy=_REMEDY)
    return max(fitting, key=lambda fit: fit[0])[1]


def _growth_names(parameters: Mapping[str, Tensor], history: History) -> dict[str, str]:
    """What the last growth called each parameter that it gave and that is still there.

    A part that was moved to another place (in a list from which a block was deleted) is known by its parameters, while
    the model is the one that `grow` returned; else by its name and sizes.
    """
    names = {
        name: then
        for name, parameter in parameters.items()
        if (then := name_at_growth(parameter, history.stage)) in history.births
    }
    moved = set(names.values())
    for name, parameter in parameters.items():
        birth = history.births.get(name)
        if name not in names and name not in moved and birth is not None and birth.shape == tuple(parameter.shape):
            names[name] = name
    return names


def _changed_by_hand(last: str | None, since: int, history: History, lineage: Lineage) -> bool:
    """Whether a parameter that does not fit may have been replaced between two growths."""
    between = [step.by_hand for step in history.steps[since:]]
    if any(change.refused is not None for change in between):  # something was, and it is not known what
        return True
    if last is not None:
        return _put_in(last, since, history, lineage)
    return any("class" in part or "gone" in part for change in between for part in change.parts.values())


def _put_in(last: str, since: int, history: History, lineage: Lineage) -> bool:
    """Whether a parameter is in a part that was put in by hand after so many growths, and before the last one.

    last: what it is called after the last.
    """
    for number in range(since, history.stage):
        then = lineage[number].get(last, "")
        by_hand = history.steps[number].by_hand.parts
        replaced = [path for path, part in by_hand.items() if "class" in part]
        replaced += [dotted(path, leaf) for path, part in by_hand.items() for leaf in part.get("tensors", ())]
        if within_any(then, tuple(replaced)):
            return True
    return False


def _misfit(name: str, shape: tuple[int, ...], last: str | None) -> TrainingError:
    if last is None:
        return TrainingError(
            "the optimizer holds a parameter that the grown model does not have", where=name, remedy=_REMEDY
        )
    return TrainingError(
        f"the optimizer's parameter has shape {list(shape)}, which the grown model's never had",
        where=name,
        remedy=_REMEDY,
    )
