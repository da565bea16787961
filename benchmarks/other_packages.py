"""Small random models of packages beside transformers and vit-pytorch, for `benchmarks.packages`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

Built = tuple[str, Callable[[], nn.Module], Any]
"""A name, what builds the model, and what it takes."""

TOKENS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))


def images(side: int, channels: int = 3) -> torch.Tensor:
    """Two random images."""
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def _made(home: str, name: str, /, **settings: Any) -> nn.Module:
    model: nn.Module = getattr(import_module(home), name)(**settings)
    return model


def segmentation_models_pytorch() -> Iterator[Built]:
    decoders = [
        "Unet",
        "UnetPlusPlus",
        "FPN",
        "PSPNet",
        "DeepLabV3",
        "DeepLabV3Plus",
        "MAnet",
        "Linknet",
        "PAN",
        "UPerNet",
    ]
    encoders = {"Unet": ("resnet18", "efficientnet-b0"), "Segformer": ("mit_b0",)}
    for name in (*decoders, "UPerNet", "Segformer"):
        for encoder in encoders.get(name, ("resnet18",)):
            build = partial(
                _made, "segmentation_models_pytorch", name, encoder_name=encoder, encoder_weights=None, classes=2
            )
            yield f"segmentation_models_pytorch/{name}, {encoder}", build, images(128)


_FLAT = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
_LEVELS = {"channels": (4, 8, 16), "strides": (2, 2)}
_TOKENS = {"hidden_size": 32, "mlp_dim": 64, "num_heads": 4}
MONAI: dict[str, tuple[dict[str, Any], int]] = {
    "UNet": ({**_FLAT, **_LEVELS, "num_res_units": 1}, 32),
    "AttentionUnet": ({**_FLAT, **_LEVELS}, 32),
    "BasicUNet": ({**_FLAT, "features": (8, 8, 16, 16, 32, 8)}, 32),
    "DynUNet": (
        {
            **_FLAT,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [8, 16, 32],
        },
        32,
    ),
    "SegResNet": ({**_FLAT, "init_filters": 8}, 32),
    "DenseNet": ({**_FLAT, "init_features": 16, "growth_rate": 8, "block_config": (2, 2)}, 32),
    "UNETR": ({**_FLAT, **_TOKENS, "img_size": (32, 32), "feature_size": 8}, 32),
    "SwinUNETR": ({**_FLAT, "feature_size": 12}, 64),
    "ViT": (
        {
            **_TOKENS,
            "in_channels": 1,
            "img_size": (32, 32),
            "patch_size": 8,
            "spatial_dims": 2,
            "num_layers": 2,
            "classification": True,
        },
        32,
    ),
}


def monai() -> Iterator[Built]:
    for name, (settings, side) in MONAI.items():
        yield f"monai/{name}", partial(_made, "monai.networks.nets", name, **settings), images(side, 1)


def open_clip() -> Iterator[Built]:
    vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8}
    text = {"context_length": 7, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2}
    build = partial(_made, "open_clip.model", "CLIP", embed_dim=32, vision_cfg=vision, text_cfg=text)
    yield "open_clip/CLIP", build, (images(32), TOKENS)


def pytorchcv() -> Iterator[Built]:
    names = "resnet10 preresnet18 seresnet18 shufflenetv2_wd2 mobilenet_wd4 densenet121 igcv3_wd4 ghostnet"
    for name in [*names.split(), "hrnet_w18_small_v1", "efficientnet_b0"]:
        build = partial(_made, "pytorchcv.model_provider", "get_model", name=name, pretrained=False)
        yield f"pytorchcv/{name}", build, images(224)


def diffusers() -> Iterator[Built]:
    blocks = {"block_out_channels": (16, 32), "norm_num_groups": 4}
    steps = torch.tensor([3, 4])
    unets: dict[str, tuple[dict[str, Any], Any]] = {
        "UNet2DModel": (
            {
                **blocks,
                "sample_size": 16,
                "layers_per_block": 1,
                "attention_head_dim": 8,
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            },
            (images(16), steps),
        ),
        "UNet2DConditionModel": (
            {
                **blocks,
                "sample_size": 16,
                "layers_per_block": 1,
                "attention_head_dim": 4,
                "cross_attention_dim": 16,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            },
            (images(16, 4), steps, torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))),
        ),
        "AutoencoderKL": (
            {**blocks, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
            images(32),
        ),
        "DiTTransformer2DModel": (
            {
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "in_channels": 4,
                "num_layers": 2,
                "sample_size": 8,
                "norm_num_groups": 4,
                "num_embeds_ada_norm": 10,
            },
            {"hidden_states": images(8, 4), "timestep": steps, "class_labels": steps},
        ),
    }
    for name, (settings, inputs) in unets.items():
        yield f"diffusers/{name}", partial(_made, "diffusers", name, **settings), inputs


def ultralytics() -> Iterator[Built]:
    kinds = {"cls": "ClassificationModel", "seg": "SegmentationModel"}
    for name in ("yolov5n", "yolov8n", "yolo11n", "yolov8n-seg", "yolov8n-cls"):
        kind = kinds.get(name.rpartition("-")[2], "DetectionModel")
        build = partial(_made, "ultralytics.nn.tasks", kind, cfg=f"{name}.yaml", verbose=False)
        yield f"ultralytics/{name}", build, images(64)


def peft() -> Iterator[Built]:
    def adapters() -> nn.Module:
        import timm

        settings = _lora(["qkv", "fc1"])
        model: nn.Module = import_module("peft").inject_adapter_in_model(settings, timm.create_model("test_vit"))
        return model

    def wrapped() -> nn.Module:
        transformers: Any = import_module("transformers")
        config = transformers.ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32
        )
        settings = _lora(["query", "value", "q_proj", "v_proj"])
        model: nn.Module = import_module("peft").get_peft_model(transformers.ViTModel(config), settings)
        return model

    yield "peft/LoRA in timm's test_vit", adapters, images(160)
    yield "peft/LoRA around transformers' ViT", wrapped, {"pixel_values": images(32)}


def _lora(targets: list[str]) -> Any:
    return import_module("peft").LoraConfig(r=4, target_modules=targets, init_lora_weights=False)


def whisper() -> Iterator[Built]:
    def build() -> nn.Module:
        home: Any = import_module("whisper.model")
        model: nn.Module = home.Whisper(home.ModelDimensions(8, 20, 32, 4, 2, 60, 20, 32, 4, 2))
        nn.init.normal_(model.get_parameter("decoder.positional_embedding"))  # it is whatever was in memory
        return model

    yield "whisper/Whisper", build, (torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(0)), TOKENS)


def x_transformers() -> Iterator[Built]:
    def build(kind: str, layers: str, **settings: Any) -> nn.Module:
        home: Any = import_module("x_transformers")
        inner = getattr(home, layers)(dim=32, depth=2, heads=4, attn_dim_head=8)
        model: nn.Module = getattr(home, kind)(attn_layers=inner, **settings)
        return model

    vit = partial(build, "ViTransformerWrapper", "Encoder", image_size=32, patch_size=8, num_classes=5)
    yield "x_transformers/ViTransformerWrapper", vit, images(32)
    decoder = partial(build, "TransformerWrapper", "Decoder", num_tokens=60, max_seq_len=16)
    yield "x_transformers/TransformerWrapper", decoder, TOKENS


def kornia() -> Iterator[Built]:
    for name in ("HardNet", "SOSNet", "HyNet"):
        yield f"kornia/{name}", partial(_made, "kornia.feature", name, pretrained=False), images(32, 1)
    sizes = {"embed_dims": (16, 32, 48, 64), "num_heads": (1, 1, 1, 2)}
    build = partial(_made, "kornia.models.tiny_vit", "TinyViT", img_size=64, num_classes=5, **sizes)
    yield "kornia/TinyViT", build, images(64)


PACKAGES: tuple[Callable[[], Iterator[Built]], ...] = (
    segmentation_models_pytorch,
    monai,
    open_clip,
    pytorchcv,
    diffusers,
    ultralytics,
    peft,
    whisper,
    x_transformers,
    kornia,
)
