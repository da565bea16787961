"""The curves that schedules follow: sizes and epochs stage by stage, and which numbers make sense for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from fxgrow.errors import ScheduleError, check_one_of

BATCH_RATES = ("keep", "linear", "root")


def exponential_sizes(first: int, last: int, stages: int, rate: float) -> tuple[int, ...]:
    """The size of a dimension at each stage: each adds `rate` of it, to the nearest even number and at least two.

    The last stage has exactly `last` units; a dimension that is there earlier stays.

    Source: Yuan, Savarese, Maire, NeurIPS 2023, the growth schedule; the least of two is ours, since a fifth of
    four units rounds to none and such a dimension would never grow.

    >>> exponential_sizes(16, 64, stages=9, rate=0.2)
    (16, 20, 24, 28, 34, 40, 48, 58, 64)
    """
    sizes = [first]
    for _ in range(1, stages):
        sizes.append(min(last, sizes[-1] + max(2, nearest_even(rate * sizes[-1]))))
    sizes[-1] = last
    return tuple(sizes)


def interpolated_sizes(first: int, last: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """The size of a dimension at each stage, by where the stage's fraction lies between the first and the last.

    What is added to the first size is even, but for the last stage, which has exactly `last` units.

    >>> interpolated_sizes(16, 64, [0.25, 0.5, 0.75, 1.0])
    (16, 32, 48, 64)
    """
    span = fractions[-1] - fractions[0]
    way = [(fraction - fractions[0]) / span if span else 1.0 for fraction in fractions]
    return (first, *(min(last, first + nearest_even((last - first) * part)) for part in way[1:-1]), last)


def exponential_epochs(total: int, stages: int, rate: float, first: int | None = None) -> tuple[int, ...]:
    """The epochs of each stage: each has `rate` more than the one before, rounded; the last takes what is left.

    first: of the first stage; left out, it is chosen so that the last stage comes out near what the rate asks for.

    Raises
    ------
    ScheduleError: nothing is left for the last stage.

    Source: Yuan, Savarese, Maire, NeurIPS 2023: 8 of 160 epochs on CIFAR-10, 10 of 200 on CIFAR-100, 4 of 90 on
    ImageNet, which is what `first` comes out as.

    >>> exponential_epochs(160, stages=9, rate=0.2)
    (8, 10, 12, 14, 17, 20, 24, 29, 26)
    """
    if first is None:
        sum_of_powers = math.fsum((1 + rate) ** stage for stage in range(stages))
        first = max(1, rounded(total / sum_of_powers))
    epochs = [first]
    while len(epochs) < stages:
        epochs.append(epochs[-1] + rounded(rate * epochs[-1]))
    epochs[-1] = total - sum(epochs[:-1])
    if epochs[-1] < 1:
        raise ScheduleError(
            f"{stages} stages that start with {first} epochs and grow by {rate:g} need more than {total} epochs",
            remedy="ask for more epochs or fewer stages",
        )
    return tuple(epochs)


def late_epochs(total: int, budget: float, ratio: float, last: int) -> tuple[int, int]:
    """The epochs of a seed and of the large model, within a share of what `total` epochs of the large model take.

    ratio: what an epoch of the seed takes of one of the large model. last: epochs of the large model.

    Raises
    ------
    ScheduleError: the budget is no share, or leaves nothing for the seed.

    >>> late_epochs(24, budget=0.5, ratio=0.25, last=4)
    (32, 4)
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < math.inf:
        raise ScheduleError(f"budget={budget!r} is not a share of operations", remedy="pass a number such as 0.5")
    first = math.floor((budget * total - last) / ratio + 1e-9)
    if first < 1:
        raise ScheduleError(
            f"{last} epochs of the large model leave nothing for the seed of a budget of {budget:g} of {total} epochs",
            remedy="ask for a larger budget or fewer last epochs",
        )
    return first, last


def rounded(number: float) -> int:
    """To the nearest whole number, halves up."""
    return math.floor(number + 0.5)


def nearest_even(number: float) -> int:
    """To the nearest even number, odd ones up.

    >>> [nearest_even(number) for number in (0.8, 1.6, 3.0, 4.8)]
    [0, 2, 4, 4]
    """
    return 2 * rounded(number / 2)


def check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ScheduleError(f"{name}={count!r} is not a number of {name}", remedy="pass a whole number from 1 on")


def check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < math.inf:
            raise ScheduleError(f"{name}={rate!r} is not a rate of growth", remedy="pass a number from 0 on, as 0.2")


def check_start(start: float) -> None:
    if isinstance(start, bool) or not isinstance(start, (int, float)) or not 0 < start <= 1:
        raise ScheduleError(f"start={start!r} is not a part of the final width", remedy="pass a number such as 0.25")


def check_stages(widths: Sequence[float], epochs: Sequence[int]) -> None:
    if len(widths) != len(epochs) or not widths:
        raise ScheduleError(
            f"there are {len(widths)} widths and {len(epochs)} numbers of epochs",
            remedy="give one of each for every stage",
        )
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < math.inf:
            raise ScheduleError(f"{width!r} is not a width", remedy="give widths relative to the last, as 0.5")
    if any(after < before for before, after in itertools.pairwise(widths)):
        raise ScheduleError(f"the widths {list(widths)} shrink", remedy="give them in increasing order")
    for length in epochs:
        check_counts(epochs=length)


def check_batches(size: int | None, largest: int | None, rates: str) -> None:
    check_one_of(BATCH_RATES, rates, f"batch_rates={rates!r} is not known", ScheduleError)
    if size is not None:
        check_counts(batch_size=size)
    if largest is not None:
        check_counts(largest_batch=largest)
        if size is None or largest < size:
            raise ScheduleError(
                f"largest_batch={largest} goes with a batch_size up to it",
                remedy="pass both, as batch_size=128, largest_batch=512",
            )
