"""Models of other packages, bare, small and random, grown to twice their width: python -m benchmarks.packages [GLOB]

Prints a line of Markdown for each: how it came back, what its certificate says, how much it grew, its error in float64.
Needs `pip install 'fxgrow[packages]'`.
"""

import fnmatch
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import nn

import fxgrow
from benchmarks.other_packages import PACKAGES, TOKENS, images
from fxgrow.errors import first_line

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
IMAGES = {"image_size": 32, "patch_size": 8}
VISION = {**SMALL, **IMAGES}
STAGES = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
WINDOWS = {**IMAGES, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
TEXT = {**SMALL, "vocab_size": 60}
SPEECH = {
    **{
        f"{side}_{setting}": size
        for side in ("encoder", "decoder")
        for setting, size in (("layers", 2), ("ffn_dim", 64))
    },
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "d_model": 32,
    "vocab_size": 60,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
TRANSFORMERS: dict[str, tuple[dict[str, Any], int]] = {
    "ViT": (VISION, 32),
    "Dinov2": ({k: v for k, v in VISION.items() if k != "intermediate_size"}, 32),
    "DeiT": (VISION, 32),
    "Beit": (VISION, 32),
    "ConvNext": ({**STAGES, "depths": [1, 1, 2, 1]}, 64),
    "ConvNextV2": ({**STAGES, "depths": [1, 1, 2, 1]}, 64),
    "Swin": (WINDOWS, 32),
    "Swinv2": (WINDOWS, 32),
    "Segformer": ({**STAGES, "num_attention_heads": [1, 2, 4, 8]}, 64),
    "CLIPVision": (VISION, 32),
    "SiglipVision": (VISION, 32),
    "MobileViT": (
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": 2,
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
        },
        64,
    ),
    "ResNet": ({**STAGES, "embedding_size": 8}, 64),
    "RegNet": ({**STAGES, "embedding_size": 8, "groups_width": 8}, 64),
    "Bert": (TEXT, 0),
    "GPT2": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 32}, 0),
    "Llama": ({**TEXT, "num_key_value_heads": 2}, 0),
    "Qwen2": ({**TEXT, "num_key_value_heads": 2}, 0),
    "DistilBert": ({"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 60}, 0),
}
"""Settings of models of transformers, and the size of their images; 0 for models of text."""

_PLAIN = {**IMAGES, "num_classes": 5, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 64}
_SIDES = {
    f"{side}_{setting}": size
    for side, patch in (("sm", 8), ("lg", 16))
    for setting, size in (("dim", 32), ("patch_size", patch), ("enc_depth", 1), ("enc_heads", 4), ("enc_mlp_dim", 64))
}
VIT_PYTORCH: dict[str, tuple[dict[str, Any], int]] = {
    "vit.ViT": (_PLAIN, 32),
    "simple_vit.SimpleViT": (_PLAIN, 32),
    "deepvit.DeepViT": (_PLAIN, 32),
    "cait.CaiT": ({**_PLAIN, "cls_depth": 1}, 32),
    "t2t.T2TViT": ({**{k: v for k, v in _PLAIN.items() if k != "patch_size"}, "t2t_layers": ((7, 4), (3, 2))}, 32),
    "cross_vit.CrossViT": (
        {**_SIDES, "image_size": 32, "num_classes": 5, "depth": 1, "cross_attn_depth": 1, "cross_attn_heads": 4},
        32,
    ),
    "pit.PiT": ({**_PLAIN, "patch_size": 4, "depth": (1, 1)}, 32),
    "cvt.CvT": ({"num_classes": 5, "s1_emb_dim": 16, "s2_emb_dim": 16, "s3_emb_dim": 16, "s3_depth": 1}, 64),
    "regionvit.RegionViT": ({"dim": (16, 16, 32, 32), "depth": (1,) * 4, "window_size": 2, "num_classes": 5}, 64),
    "nest.NesT": (
        {
            "image_size": 32,
            "patch_size": 4,
            "dim": 16,
            "heads": 2,
            "num_hierarchies": 2,
            "num_classes": 5,
            "block_repeats": (1, 1),
        },
        32,
    ),
    "max_vit.MaxViT": (
        {"num_classes": 5, "dim_conv_stem": 16, "dim": 16, "dim_head": 8, "depth": (1, 1), "window_size": 4},
        64,
    ),
    "xcit.XCiT": ({**_PLAIN, "cls_depth": 1, "local_patch_kernel_size": 3}, 32),
    "parallel_vit.ViT": (_PLAIN, 32),
    "vit_for_small_dataset.ViT": (_PLAIN, 32),
    "rvt.RvT": (_PLAIN, 32),
}


def models() -> Iterator[tuple[str, Callable[[], nn.Module], Any]]:
    """Names, what builds a model, and what it takes."""
    transformers: Any = import_module("transformers")
    for name, (settings, side) in TRANSFORMERS.items():
        build = lambda n=name, s=settings: getattr(transformers, f"{n}Model")(getattr(transformers, f"{n}Config")(**s))  # noqa: E731
        yield f"transformers/{name}", build, {"pixel_values": images(side)} if side else {"input_ids": TOKENS}
    t5 = lambda: transformers.T5Model(  # noqa: E731
        transformers.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=60)
    )
    yield "transformers/T5", t5, {"input_ids": TOKENS, "decoder_input_ids": TOKENS}
    whisper = lambda: transformers.WhisperModel(transformers.WhisperConfig(**SPEECH))  # noqa: E731
    yield "transformers/Whisper", whisper, {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": TOKENS}
    for name, (settings, side) in VIT_PYTORCH.items():
        home, _, kind = name.partition(".")
        build = lambda h=home, k=kind, s=settings: getattr(import_module(f"vit_pytorch.{h}"), k)(**s)  # noqa: E731
        yield f"vit_pytorch/{name}", build, images(side)
    for package in PACKAGES:
        yield from package()


def grown(build: Callable[[], nn.Module], inputs: Any) -> tuple[nn.Module, nn.Module]:
    """A random model away from trivial values, and the model twice as wide, both in float64."""
    torch.manual_seed(0)
    model = build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model, fxgrow.grow(model, 2, example_inputs=inputs)


def row(name: str, build: Callable[[], nn.Module], inputs: Any) -> str:
    try:
        model, result = grown(build, inputs)
    except Exception as error:  # whatever stops it is the finding
        return f"| {name} | {type(error).__name__}: {first_line(error)[:90]} | | | |"
    step = fxgrow.report(result)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, result))
    form = "in parts" if step.plan.parts else {"module": "its own class", "graph": "a graph"}[step.plan.form]
    error = max(step.verification.eval_error, step.verification.train_error) if step.verification else float("nan")
    verdict = step.certificate.verdict if step.certificate else "none"
    return f"| {name} | {form} | {verdict} | x{after / before:.2f} | {error:.1e} |"


def main(patterns: list[str]) -> int:
    warnings.filterwarnings("ignore")
    print("| model | comes back as | certificate | parameters | error |\n| --- | --- | --- | --- | --- |")
    rows = []
    for name, build, inputs in models():
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns or ["*"]):
            rows.append(row(name, build, inputs))
            print(rows[-1], flush=True)
    proved = sum("| PROVED |" in line for line in rows)
    print(f"\n{proved} of {len(rows)} grow and are PROVED")
    return 0 if proved == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
