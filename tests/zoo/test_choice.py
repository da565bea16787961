"""What a sweep looks at: samples, ranges of sizes, and choices that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
from fxgrow.zoo.choice import chosen, smallest_per_family
from fxgrow.zoo.sizes import parameters_of

from fxgrow.catalogue import CatalogueError, entries


def test_all_of_them_the_smallest_first() -> None:
    models = chosen("timm", "test_*", "all")
    assert {entry.name for entry in models} == {entry.name for entry in entries("timm", "test_*")}
    sizes = [parameters_of(entry) for entry in models]
    assert sizes == sorted(sizes)


def test_the_smallest_of_each_family() -> None:
    models = chosen()
    assert len({entry.family for entry in models}) == len(models) > 120
    assert [entry.name for entry in smallest_per_family(entries("timm", "test_res*"))] == ["test_resnet"]


def test_ranges_of_sizes_leave_nothing_out() -> None:
    small, large = chosen("timm", "resnet*", "all", at_most=25), chosen("timm", "resnet*", "all", at_least=25)
    assert small and large
    assert max(map(parameters_of, small)) <= 25e6 <= min(map(parameters_of, large))
    assert [*small, *large] == chosen("timm", "resnet*", "all")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("keras", "*", "all"), "there is no library 'keras': use one of timm, torchvision"),
        ((None, "*", "some"), "there is no sample 'some': use one of smallest-per-family, all"),
        ((None, "zzz*", "all"), "no model matches 'zzz*': see timm.list_models() for names"),
        (
            ("timm", "resnet18", "all", 20.0, 30.0),
            "no model of these has between 20 and 30 million parameters: theirs are between 11.7 and 11.7 million",
        ),
    ],
)
def test_choices_that_mean_nothing(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        chosen(*arguments)
    assert str(caught.value) == text
