"""Models of other packages, as they are: grown in their own class, and proved. Skipped where a package is not there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxgrow
from benchmarks.packages import grown, models

NAMES = [
    *("transformers/ViT", "transformers/Bert", "transformers/Swinv2", "vit_pytorch/cvt.CvT", "vit_pytorch/vit.ViT"),
    *("segmentation_models_pytorch/FPN, resnet18", "monai/UNETR", "open_clip/CLIP", "pytorchcv/seresnet18"),
    *("diffusers/UNet2DModel", "ultralytics/yolov8n", "peft/LoRA in timm's test_vit", "whisper/Whisper"),
    *("x_transformers/TransformerWrapper", "kornia/HardNet"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_models_of_other_packages(name: str) -> None:
    pytest.importorskip(name.partition("/")[0])
    build, inputs = next((build, inputs) for listed, build, inputs in models() if listed == name)
    model, result = grown(build, inputs)
    assert isinstance(result, type(model))
    assert str(fxgrow.report(result).certificate.verdict) == "PROVED"


def test_einops_follows_the_input_and_grows() -> None:
    einops = pytest.importorskip("einops")
    layers = pytest.importorskip("einops.layers.torch")

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
            self.back = layers.Rearrange("n k t d -> n t (k d)")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.leave(self.back(einops.rearrange(self.enter(x), "n t (k d) -> n k t d", k=2).relu()))

    model = Mixed().double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    result = fxgrow.grow(model, 2, example_inputs=x)
    assert str(fxgrow.report(result).certificate.verdict) == "PROVED"
    longer = torch.randn(3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(result(longer), model(longer), rtol=1e-10, atol=1e-10)


def test_einops_that_a_forward_imports_as_it_runs_is_recorded_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("einops")
    for name in [name for name in sys.modules if name.partition(".")[0] == "einops"]:
        monkeypatch.delitem(sys.modules, name)  # as where nothing has imported it yet

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            from einops import rearrange

            x = self.enter(x)
            h, w = x.shape[2:]
            x = rearrange(x, "n (heads c) h w -> n heads c (h w)", heads=2).relu()
            return self.leave(rearrange(x, "n heads c (h w) -> n (heads c) h w", h=h, w=w))  # type: ignore[no-any-return]

    grown = fxgrow.grow(Heads().double(), 2, example_inputs=torch.randn(2, 3, 4, 4, dtype=torch.float64))
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


def small_vit() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, num_labels=5
    )
    return transformers.ViTForImageClassification(config)


PICTURES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(16) % 5


def test_accelerates_wrappers_train_as_without_them() -> None:
    """The optimizer that it wraps keeps its state through growth, and has rates by age."""
    accelerate = pytest.importorskip("accelerate")

    def trained(accelerated: bool) -> list[float]:
        model, losses = small_vit().double(), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        helper = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        if accelerated:
            model, optimizer = helper.prepare(model, optimizer)
        for step in range(8):
            if step == 4:
                plain = helper.unwrap_model(model)
                model = fxgrow.grow(plain, 1.5, depth=1.5, example_inputs=PICTURES[:2].double(), verify=False)
                assert type(model) is type(plain)
                transfer = fxgrow.replace_parameters(optimizer, model, model=plain)
                assert transfer.carried
                rates = fxgrow.adapt_rates(optimizer, model, every=1)
                model = helper.prepare(model) if accelerated else model
            half = slice(8 * (step % 2), 8 * (step % 2) + 8)
            with helper.accumulate(model):
                loss = model(PICTURES[half].double(), labels=LABELS[half]).loss
                if accelerated:
                    helper.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                else:
                    (loss / 2).backward()
                    if step % 2:
                        optimizer.step()
                        optimizer.zero_grad()
            losses.append(loss.item())
        assert any(rate != 1.0 for by_stage in rates.current().values() for rate in by_stage.values())
        return losses

    assert trained(True) == pytest.approx(trained(False), rel=1e-10)


def test_the_trainer_of_transformers_trains_a_grown_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = small_vit()
    grown = fxgrow.grow(model, 1.5, depth=1.5, example_inputs={"pixel_values": PICTURES[:2]})
    assert type(grown) is type(model)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    images = [{"pixel_values": image, "labels": int(label)} for image, label in zip(PICTURES, LABELS, strict=True)]
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=12, per_device_train_batch_size=16, learning_rate=3e-3, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    before = grown.get_parameter("classifier.weight").detach().clone()
    trainer = transformers.Trainer(model=grown, args=settings, train_dataset=images)
    first = trainer.predict(images)
    trainer.train()
    torch.testing.assert_close(torch.tensor(first.predictions), model(PICTURES).logits, rtol=1e-4, atol=1e-5)
    assert first.predictions.shape == (16, 5)
    assert trainer.predict(images).metrics["test_loss"] < 0.8 * first.metrics["test_loss"]
    assert not torch.equal(grown.get_parameter("classifier.weight"), before)
