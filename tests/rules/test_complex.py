"""Complex numbers: transforms of Fourier between layers, and weights that are complex or hold pairs of real numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from tests.checks import assert_grows, example, worst_error
from tests.pairing import in_turn, slow

GENERATOR = torch.Generator().manual_seed(11)
IMAGES = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=GENERATOR)
TOKENS = torch.randn(3, 4, 6, dtype=torch.float64, generator=GENERATOR)


class Between(nn.Module):
    """Two layers with something between that keeps the channels, or doubles them."""

    def __init__(self, between: Callable[[Tensor], Tensor], times: int = 1) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8 * times, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(self.enter(x)))


def filtered(h: Tensor) -> Tensor:
    """The lower half of the frequencies."""
    z = torch.fft.rfft2(h, norm="ortho")
    low = torch.cat([z[..., :2], torch.zeros_like(z[..., 2:])], dim=-1)
    return torch.fft.irfft2(low, s=h.shape[-2:], norm="ortho").relu()


BETWEEN: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "the real part": (lambda h: torch.fft.fft2(h).real.tanh(), 1),
    "the imaginary part": (lambda h: torch.fft.fft(h, dim=2).imag.relu(), 1),
    "both parts": (lambda h: torch.cat([torch.real(torch.fft.fft2(h)), torch.imag(torch.fft.fft2(h))], 1), 2),
    "there and back": (lambda h: torch.fft.irfftn(torch.fft.rfftn(h, dim=(2, 3)), s=(6, 6), dim=(-2, -1)).relu(), 1),
    "the lower half": (filtered, 1),
    "size and angle": (lambda h: torch.fft.rfft2(h).abs().log1p() + torch.fft.rfft2(h).angle().sin(), 1),
    "by size and angle": (lambda h: torch.fft.ifft2(torch.polar(h.abs(), h.sin())).real, 1),
    "in the middle": (lambda h: torch.fft.fftshift(torch.fft.fft2(h), dim=(-2, -1)).abs(), 1),
    "pairs of reals": (lambda h: torch.view_as_real(torch.fft.rfft2(h)).flatten(-2).relu(), 1),
    "made of reals": (lambda h: torch.fft.ifft2(torch.complex(h.relu(), h.tanh())).real, 1),
    "correlated": (lambda h: torch.fft.irfft(torch.fft.rfft(h) * torch.fft.rfft(h.tanh()).conj(), n=6), 1),
}


@pytest.mark.parametrize(("name", "init"), in_turn(BETWEEN, ("zero", "mirror")))
def test_what_lies_between_two_layers(name: str, init: str) -> None:
    torch.manual_seed(0)
    model = Between(*BETWEEN[name]).double()
    grown = assert_grows(model, (IMAGES,), 2, init, least_ratio=1.9)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class GlobalFilter(nn.Module):
    """GFNet's: a complex gain for each frequency and channel, held as pairs of reals."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(3, 2, width, 2))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.rfft2(x.unflatten(1, (3, 3)), dim=(1, 2), norm="ortho")
        z = z * torch.view_as_complex(self.gain)
        return torch.fft.irfft2(z, s=(3, 3), dim=(1, 2), norm="ortho").flatten(1, 2)


class FourierLayer(nn.Module):
    """A Fourier neural operator's: a complex matrix for each of the lowest frequencies, written into zeros."""

    def __init__(self, width: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        shape = (width, width, 2, 2)
        drawn = torch.randn(*shape, 2) if dtype is None else torch.randn(shape, dtype=dtype)
        self.low, self.high = nn.Parameter(drawn), nn.Parameter(drawn.clone())
        self.width, self.paired = width, dtype is None

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT.unflatten(2, (3, 3))
        z = torch.fft.rfft2(x)
        low, high = (torch.view_as_complex(w) if self.paired else w for w in (self.low, self.high))
        out = torch.zeros(x.shape[0], self.width, 3, x.size(-1) // 2 + 1, dtype=torch.complex128)
        out[:, :, :2, :2] = torch.einsum("bixy,ioxy->boxy", z[:, :, :2, :2], low)
        out[:, :, -2:, :2] = torch.einsum("bixy,ioxy->boxy", z[:, :, -2:, :2], high)
        return torch.fft.irfft2(out, s=(x.size(-2), x.size(-1))).flatten(2).mT


class BlockDiagonal(nn.Module):
    """AFNO's: frequencies through two layers in blocks, real and imaginary parts apart, shrunk."""

    def __init__(self, width: int, blocks: int = 2) -> None:
        super().__init__()
        self.blocks, self.block = blocks, width // blocks
        self.one = nn.Parameter(torch.randn(2, blocks, self.block, self.block))
        self.two = nn.Parameter(torch.randn(2, blocks, self.block, self.block))
        self.bias = nn.Parameter(torch.randn(2, blocks, self.block))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, channels = x.shape
        z = torch.fft.rfft2(x.reshape(batch, 3, 3, channels), dim=(1, 2))
        z = z.reshape(batch, 3, 2, self.blocks, self.block)

        def product(part: Tensor, weight: Tensor) -> Tensor:
            return torch.einsum("...bi,bio->...bo", part, weight)

        real = F.relu(product(z.real, self.one[0]) - product(z.imag, self.one[1]) + self.bias[0])
        imag = F.relu(product(z.imag, self.one[0]) + product(z.real, self.one[1]) + self.bias[1])
        real, imag = (product(part, self.two[k]) for k, part in enumerate((real, imag)))
        z = torch.view_as_complex(F.softshrink(torch.stack([real, imag], dim=-1), lambd=0.01))
        return x + torch.fft.irfft2(z.reshape(batch, 3, 2, channels), s=(3, 3), dim=(1, 2)).reshape(x.shape)


class FourierUnit(nn.Module):
    """LaMa's: a convolution over real and imaginary parts side by side as channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(2 * width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        z = torch.fft.rfftn(x.mT.unflatten(2, (3, 3)), dim=(-2, -1), norm="ortho")
        z = torch.stack((z.real, z.imag), dim=-1).permute(0, 1, 4, 2, 3).contiguous()
        z = self.norm(self.layer(z.view((batch, -1, *z.size()[3:])))).relu()
        z = z.view((batch, -1, 2, *z.size()[2:])).permute(0, 1, 3, 4, 2).contiguous()
        z = torch.complex(z[..., 0], z[..., 1])
        return torch.fft.irfftn(z, s=(3, 3), dim=(-2, -1), norm="ortho").flatten(2).mT


class Turned(nn.Module):
    """Neighbouring channels as complex numbers, turned by angles (rotary positions)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        angles = torch.randn(9, width // 2, dtype=torch.float64)
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous()) * self.turn
        return torch.view_as_real(z).flatten(-2).tanh()


class Mixing(nn.Module):
    """Patches, a block with a norm and a residual path around what mixes tokens, and a head."""

    def __init__(self, mixer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.embed, self.norm, self.mixer = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), mixer(8)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((x + self.mlp(self.mixer(self.norm(x)))).mean(1))


MIXERS: dict[str, Callable[[int], nn.Module]] = {
    "global filter": GlobalFilter,
    "complex weights": lambda width: FourierLayer(width, torch.complex128),
    "pairs as weights": lambda width: FourierLayer(width, None),
    "blocks": BlockDiagonal,
    "Fourier unit": FourierUnit,
    "turned": Turned,
}


@pytest.mark.parametrize(
    ("name", "how"), in_turn(MIXERS, ((1.5, "zero"), (2, "zero"), (2, "mirror"), (2, "replicate")))
)
def test_layers_that_mix_tokens_by_their_frequencies(name: str, how: tuple[float, str]) -> None:
    width, init = how
    torch.manual_seed(0)
    model = Mixing(MIXERS[name]).double()
    grown = assert_grows(model, (IMAGES,), width, init, least_ratio=0.9 * width)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class Products(nn.Module):
    """Two products with complex weights: units between them are read and made by complex numbers."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.one, self.two = (nn.Parameter(torch.randn(8, 8, dtype=dtype)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).to(torch.complex128)
        return self.leave((h @ self.one.to(h.dtype) @ self.two.to(h.dtype)).real)


@pytest.mark.parametrize(
    ("init", "dtype"),
    [
        *[slow("zero", torch.complex64), slow("mirror", torch.complex64)],  # shares of weights are rounded
        *[slow(init, torch.complex128) for init in ("zero", "mirror")],
        ("replicate", torch.complex128),
    ],
)
def test_an_imaginary_part_that_does_not_cancel_is_no_proof(init: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Products(dtype).double()
    grown = assert_grows(model, (TOKENS,), 2, init, least_ratio=2.5)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    for name in ("one", "two"):
        weight = grown.get_parameter(name)
        before = weight.detach().clone()
        for rows, columns in ((slice(8, None), slice(8)), (slice(8), slice(8))):
            with torch.no_grad():
                weight[rows, columns] += 0.1j
            assert worst_error(model, grown, example((TOKENS,)), training=False) > 1e-6
            assert str(fxgrow.certify(grown, model).verdict) == "REFUTED"
            with torch.no_grad():
                weight.copy_(before)


def test_a_transform_over_channels_holds_them() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.gain, self.leave = nn.Linear(6, 8), nn.Parameter(torch.ones(8)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            mixed = torch.fft.fft(torch.fft.fft(self.enter(x), dim=-1), dim=-2).real
            return self.leave(mixed * self.gain)

    plan = fxgrow.plan(Mixed(), 2, example_inputs=TOKENS.float())
    assert not plan.groups
    assert {place for dimension in plan.held for place in dimension.where} == {
        "enter.weight[0]",
        "enter.bias[0]",
        "gain[0]",
    }
    assert all("fft_fft is taken over it" in dimension.reason for dimension in plan.held)


def test_the_other_part_of_complex_numbers_is_not_proved() -> None:
    class OfOnePart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.leave = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.complex(self.first(x), self.second(x)).real)

    model = OfOnePart().double()
    grown = fxgrow.grow(model, 2, example_inputs=TOKENS, form="graph")
    for node in grown.graph.nodes:
        if node.target is getattr:
            node.args = (node.args[0], "imag")
    grown.recompile()
    assert str(fxgrow.certify(grown, model).verdict) == "REFUTED"
