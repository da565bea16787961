"""Models by name."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torchvision
from fxgrow.zoo import catalogue
from fxgrow.zoo.catalogue import CatalogueError, entries, find
from torch import nn


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_resnet.r160_in1k", "torchvision/squeezenet1_1"])
def test_models_of_the_libraries(name: str) -> None:
    assert isinstance(find(name), nn.Module)


def test_options_reach_the_builder() -> None:
    model: Any = find("timm/test_resnet", num_classes=7)
    assert model.get_classifier().out_features == 7


def test_a_callable_or_a_module_by_its_path() -> None:
    assert isinstance(find("tests.models:perceptron"), nn.Sequential)
    assert isinstance(find("torch.nn:Identity"), nn.Identity)


def test_every_model_is_listed_and_none_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_build", lambda *_: pytest.fail("a model was built"))
    found = list(entries())
    assert {e.name for e in found if e.library == "timm"} == set(timm.list_models())
    assert {e.name for e in found if e.library == "torchvision"} == set(torchvision.models.list_models())
    shapes = [entry.input_shape for entry in found if entry.input_shape is not None]
    assert len(shapes) > 0.95 * len(found)
    assert all(shape[0] in (1, 3, 4) and min(shape[1:]) >= 16 for shape in shapes)


def test_entries_by_pattern() -> None:
    assert [entry.full_name for entry in entries(pattern="resnet18")] == ["timm/resnet18", "torchvision/resnet18"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "resnet18",
            "'resnet18' is not the name of a model: write timm/NAME, torchvision/NAME or package.module:callable",
        ),
        ("timm/zzzzzz", "there is no model 'timm/zzzzzz': see timm.list_models() or torchvision.models.list_models()"),
        ("os:sep", "'os:sep' gives a str: name a callable that returns a torch.nn.Module"),
        ("os:nothing", "'os:nothing' cannot be imported: "),
        ("os:getcwd", "'os:getcwd' gives a str: "),
        ("tests.models:PLAIN", "'tests.models:PLAIN' gives a dict: "),
    ],
)
def test_names_that_lead_nowhere(name: str, text: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        find(name)
    assert str(caught.value).startswith(text)
