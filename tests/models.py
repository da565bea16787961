"""Plain user models, as people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fxgrow.zoo.nontrivial import lively
from torch import Tensor, nn

__all__ = ["PLAIN", "lively"]


class UNet(nn.Module):
    """Two levels, concatenated skips, transposed convolutions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.SiLU())
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.merge1 = nn.Sequential(
            nn.Conv2d(4 * width, 2 * width, 3, padding=1), nn.GroupNorm(4, 2 * width), nn.ReLU()
        )
        self.up2 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge2 = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.Sigmoid())
        self.leave = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        full = self.enter(x)
        half = self.down(full)
        quarter = self.deep(half)
        half = self.merge1(torch.cat([self.up1(quarter), half], dim=1))
        full = self.merge2(torch.cat([self.up2(half), full], dim=1))
        return self.leave(full)


class Encoder(nn.Module):
    """A classifier on `nn.TransformerEncoder`."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.embed = nn.Linear(6, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class CrossAttention(nn.Module):
    """`nn.MultiheadAttention` with queries from one input and keys from another."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(5, 12)
        self.memory = nn.Linear(7, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        memory = self.memory(y)
        attended, _ = self.attention(self.query(x), memory, memory, need_weights=False)
        return self.head(F.gelu(attended))


class Decoder(nn.Module):
    """GPT-like: causal attention written out, pre-norm, output weights tied to the embedding."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1 = nn.LayerNorm(width)
            self.attend = nn.Linear(width, 3 * width)
            self.project = nn.Linear(width, width)
            self.norm2 = nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Tensor) -> Tensor:
            batch, length, _width = x.shape
            q, k, v = self.attend(self.norm1(x)).chunk(3, dim=-1)
            q, k, v = (t.view(batch, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(y.transpose(1, 2).reshape(batch, length, -1))
            return x + self.mlp(self.norm2(x))

    def __init__(self, vocabulary: int = 23, width: int = 16, heads: int = 4, length: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.1 * torch.randn(1, length, width))
        self.blocks = nn.Sequential(*(Decoder.Block(width, heads) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.position)))


class Tagger(nn.Module):
    """Embedding, two bidirectional LSTM layers, a tag for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(19, 8)
        self.lstm = nn.LSTM(8, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(tokens))
        return self.head(states)


class TwoInputs(nn.Module):
    """Two inputs, a dictionary of outputs, functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.table = nn.Sequential(nn.Linear(4, 10), nn.Tanh())
        self.joint = nn.Linear(34, 12)
        self.label = nn.Linear(12, 3)
        self.value = nn.Linear(12, 1)

    def forward(self, image: Tensor, table: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([self.image(image), self.table(table)], dim=1)
        hidden = F.dropout(torch.relu(self.joint(joined)), 0.1, self.training)
        return {"label": self.label(hidden), "value": self.value(hidden)}


class ChannelConvolution(nn.Module):
    """A residual stream whose branch is gated by a convolution over its channels, as in ECA-Net."""

    def __init__(self, mode: str = "zeros") -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.over = nn.Conv1d(1, 1, 3, padding=1, bias=False, padding_mode=mode)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        y = self.norm(self.conv(x))
        gate = self.over(y.mean((2, 3)).view(y.shape[0], 1, -1)).sigmoid().view(y.shape[0], -1, 1, 1)
        return self.head((x + y * gate.expand_as(y)).relu().mean((2, 3)))


class OneHead(nn.Module):
    """Attention over space whose queries, keys and values come out of one normalised convolution, as in SHViT."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.joint = nn.Sequential(nn.Conv2d(8, 4 + 4 + 8, 1, bias=False), nn.BatchNorm2d(16))
        self.leave = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        query, key, value = (part.flatten(2) for part in self.joint(x).split([4, 4, 8], dim=1))
        weights = (query.transpose(-2, -1) @ key * 0.5).softmax(-1)
        x = x + self.leave((value @ weights.transpose(-2, -1)).reshape(x.shape))
        return self.head(x.relu().mean((2, 3)))


class Masked(nn.Module):
    """An encoder whose causal mask and positions are made in its forward, from the length of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(11, 16), nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
        x = self.embed(tokens) + self.position(torch.arange(length, device=tokens.device))
        return self.head(self.encoder(x, mask=mask))


class Detector(nn.Module):
    """Convolutions, learnt queries that attend to them, boxes and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2)
        )
        self.queries = nn.Parameter(torch.randn(5, 16))
        layer = nn.TransformerDecoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2, nn.LayerNorm(16))
        self.box, self.label = nn.Linear(16, 4), nn.Linear(16, 6)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image).flatten(2).transpose(1, 2)
        decoded = self.decoder(self.queries.unsqueeze(0).expand(image.shape[0], -1, -1), features)
        return {"boxes": self.box(decoded).sigmoid(), "labels": self.label(decoded)}


class Rotary(nn.Module):
    """A block as in Llama: RMS norms written out, rotary positions, grouped queries, gated feed-forward."""

    class Norm(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.head = nn.Embedding(13, width), nn.Linear(width, 13, bias=False)
        self.norm1, self.norm2 = Rotary.Norm(width), Rotary.Norm(width)
        self.q, self.k, self.v, self.o = (
            nn.Linear(width, n, bias=False) for n in (width, width // 2, width // 2, width)
        )
        self.gate, self.up, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)
        angles = torch.arange(20)[:, None] / 100 ** torch.linspace(0, 1, width // heads // 2)
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))

    def turned(self, x: Tensor) -> Tensor:
        length = x.shape[2]
        first, second = x.chunk(2, -1)
        return x * self.cos[:length] + torch.cat([-second, first], -1) * self.sin[:length]

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        batch, length, _ = x.shape
        normal = self.norm1(x)
        q, k, v = (
            part(normal).view(batch, length, heads, -1).transpose(1, 2)
            for part, heads in ((self.q, self.heads), (self.k, self.heads // 2), (self.v, self.heads // 2))
        )
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, -1))
        normal = self.norm2(x)
        return self.head(x + self.down(F.silu(self.gate(normal)) * self.up(normal)))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3))


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape)


PLAIN = {
    "perceptron": (perceptron, (torch.randn(2, 5),)),
    "unet": (UNet, (torch.randn(2, 3, 16, 16),)),
    "encoder": (Encoder, (torch.randn(2, 7, 6),)),
    "encoder-prenorm": (lambda: Encoder(True), (torch.randn(2, 7, 6),)),
    "cross-attention": (CrossAttention, (torch.randn(2, 4, 5), torch.randn(2, 6, 7))),
    "decoder": (Decoder, (tokens(2, 12),)),
    "tagger": (Tagger, (tokens(2, 3),)),  # on meta, a recurrence is worked out step by step
    "masked": (Masked, (tokens(2, 7),)),
    "one-head": (OneHead, (torch.randn(2, 3, 6, 6),)),
    "channel-convolution": (ChannelConvolution, (torch.randn(2, 3, 9, 9),)),
    "detector": (Detector, (torch.randn(2, 3, 32, 32),)),
    "rotary": (Rotary, (tokens(2, 7),)),
    "two-inputs": (TwoInputs, (torch.randn(2, 3, 8, 8), torch.randn(2, 4))),
}
"""Name -> (constructor, example inputs)."""


class Branched(nn.Module):
    """A residual branch of two layers, as blocks are that growth in depth repeats."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))  # type: ignore[no-any-return]
