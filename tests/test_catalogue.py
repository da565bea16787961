"""Models by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import fxgrow
from fxgrow import catalogue
from fxgrow.catalogue import CatalogueError, entries, find, without_weights


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_resnet.r160_in1k", "torchvision/squeezenet1_1"])
def test_models_of_the_libraries(name: str) -> None:
    assert isinstance(find(name), nn.Module)


def test_options_reach_the_builder() -> None:
    model: Any = find("timm/test_resnet", num_classes=7)
    assert model.get_classifier().out_features == 7


def test_a_callable_or_a_module_by_its_path() -> None:
    assert isinstance(find("tests.models:perceptron"), nn.Sequential)
    assert isinstance(find("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/swinv2_tiny_window8_256", "torchvision/regnet_x_400mf"])
def test_models_without_weights(name: str) -> None:
    assert {parameter.device.type for parameter in without_weights(name).parameters()} == {"meta"}


def test_trained_weights_in_the_cache_of_torchvision_are_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    trained = find("torchvision/squeezenet1_1")
    url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(trained.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    assert_grown_from(trained, find("torchvision/squeezenet1_1", pretrained=True))


def test_trained_weights_in_the_cache_of_timm_are_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    trained = find("timm/test_resnet")
    home = tmp_path / f"models--{timm.get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(trained.state_dict(), home / "snapshots" / ("0" * 40) / "model.safetensors")
    assert_grown_from(trained, find("timm/test_resnet", pretrained=True))


def assert_grown_from(trained: nn.Module, model: nn.Module) -> None:
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in trained.state_dict().items())
    grown = fxgrow.grow(model, 1.5, verify=False)
    x = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(grown.eval()(x), trained.eval()(x), rtol=1e-4, atol=1e-5)


def test_every_model_is_listed_and_none_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_build", lambda *_: pytest.fail("a model was built"))
    listed = list(entries())
    assert {e.name for e in listed if e.library == "timm"} == set(timm.list_models())
    assert {e.name for e in listed if e.library == "torchvision"} == set(torchvision.models.list_models())
    shapes = [entry.input_shape for entry in listed if entry.input_shape is not None]
    assert len(shapes) > 0.95 * len(listed)
    assert all(shape[0] in (1, 3, 4) and min(shape[1:]) >= 16 for shape in shapes)


def test_entries_by_pattern() -> None:
    assert [entry.full_name for entry in entries(pattern="resnet18")] == ["timm/resnet18", "torchvision/resnet18"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zzzz", "'zzzz' is not the name of a model: write timm/NAME, torchvision/NAME or package.module:callable"),
        ("resnet18", "'resnet18' is not the name of a model: did you mean timm/resnet18 or torchvision/resnet18?"),
        ("google/vit-base-patch16-224", "'google/vit-base-patch16-224' is not the name of a model: did you mean timm/"),
        ("timm/vit_tiny", "there is no model 'timm/vit_tiny': did you mean timm/vit_tiny_patch16_224, "),
        ("timm/vit_tny", "there is no model 'timm/vit_tny': did you mean timm/vit_tiny_patch16_224, "),
        ("torchvision/resnet_18", "there is no model 'torchvision/resnet_18': did you mean torchvision/resnet18, "),
        ("timm/resnet18.a1_in", "timm/resnet18 has no weights 'a1_in': did you mean timm/resnet18.a1_in1k?"),
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
