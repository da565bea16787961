"""Ops that people write in their models, each between two layers: everything grows, exactly, proved and alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import fxgrow
from tests.checks import assert_grows
from tests.pairing import in_turn

TOKENS = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
GROUPS = torch.tensor([0, 1, 1, 0])


class Between(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(self.enter(x)))


def first_by_score(h: Tensor) -> Tensor:
    """The tokens in the order of their scores, as masked autoencoders pick theirs."""
    order = h.mean(-1).argsort(1)[:, :2]
    return h.gather(1, order.unsqueeze(-1).expand(-1, -1, h.shape[-1]))


def written(h: Tensor, end: int) -> Tensor:
    """The channels up to an end of another function than the others, written side by side as shifts of channels are."""
    made = torch.zeros_like(h)
    made[..., :end] = h[..., :end].tanh()
    made[..., end:] = h[..., end:]
    return made


BETWEEN = {
    "the largest tokens": lambda h: h.max(1).values,
    "a token for each batch": lambda h: h[torch.arange(h.shape[0]), h.sum(-1).argmax(-1)].tanh(),
    "tokens by their scores": first_by_score,
    "tokens by a list": lambda h: h[:, [2, 0]].tanh(),
    "half of the tokens": lambda h: h.narrow(1, 0, 2).sin(),
    "transposed twice": lambda h: h.mT.relu().mT,
    "gated by its tanh": lambda h: F.glu(torch.cat([h, h.tanh()], -1), -1),
    "a softmax of cumulated tokens": lambda h: h.cumsum(1).softmax(1),
    "standardised over tokens": lambda h: (h - torch.var_mean(h, 1, keepdim=True)[1]).tanh(),
    "a soft maximum": lambda h: h.logsumexp(1).sin(),
    "over a norm of tokens": lambda h: h / (1 + torch.linalg.vector_norm(h, dim=1, keepdim=True)),
    "between two": lambda h: torch.lerp(h, h.tanh(), 0.3),
    "weighted by their likeness": lambda h: h.tanh() * F.cosine_similarity(h, h[:, :1], dim=-1).unsqueeze(-1),
    "weighted by distances": lambda h: torch.cdist(h, h.sin()).softmax(-1) @ h,
    "between zeros": lambda h: F.pad(h, (2, 6)).tanh()[..., 2:10],
    "over the number of tokens": lambda h: h.tanh() / h[..., 0].numel(),
    "over the length of a unit": lambda h: h.sin() / len(h[0, :, 1]),
    "a quarter written": lambda h: written(h, h.shape[-1] // 4),
    "two channels written": lambda h: written(h, 2),
    "shuffled": lambda h: F.channel_shuffle(h.mT, 2).mT.sin(),
    "every other channel": lambda h: torch.cat([h[..., ::2].tanh(), h[..., 1::2]], -1),
    "pairs of channels turned": lambda h: torch.stack([-h[..., 1::2], h[..., 0::2]], -1).flatten(-2).tanh(),
    "every other token": lambda h: h[:, ::2].tanh(),
    "steps between tokens": lambda h: h.diff(dim=1, prepend=h[:, :1]).relu(),
    "added up by an index": lambda h: h.new_zeros(len(h), 2, h.shape[-1]).index_add_(1, GROUPS, h).relu(),
    "copied by an index": lambda h: h.index_copy(1, GROUPS[:1], h[:, 2:3].tanh()),
    "filled by an index": lambda h: torch.index_fill(h, 1, GROUPS[:1], 0.5).tanh(),
    "a mean for each channel": lambda h: h.tanh() * h.mean(-1, keepdim=True).repeat(1, 1, h.shape[-1]),
    "a mean tiled": lambda h: h.tanh() * h.mean(-1, keepdim=True).tile((1, 1, 8)),
    "a mean repeated each": lambda h: h.tanh() * h.mean(-1, keepdim=True).repeat_interleave(h.shape[-1], -1),
    "quantised": lambda h: torch.fake_quantize_per_tensor_affine(h, 0.1, 3, -128, 127).tanh(),
    "quantised by keywords": lambda h: torch.fake_quantize_per_tensor_affine(
        input=h, scale=0.1, zero_point=0, quant_min=-128, quant_max=127
    ).sin(),
    "scattered": lambda h: torch.zeros_like(h).scatter_add(1, GROUPS[None, :, None].expand_as(h), h).tanh(),
}


@pytest.mark.parametrize(("name", "init"), in_turn(BETWEEN, ("zero", "replicate")))
def test_what_lies_between_two_layers(name: str, init: str) -> None:
    torch.manual_seed(0)
    model = Between(BETWEEN[name]).double()
    grown = assert_grows(model, (TOKENS,), 2, init, least_ratio=1.9)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


SENSITIVE = {
    "an angle of two": lambda h: F.normalize(torch.atan2(h, -h), dim=-1),
    "an angle": lambda h: F.normalize(torch.angle(torch.complex(-h, h)), dim=-1),
    "filled by a tensor": lambda h: F.normalize(h.index_fill(1, GROUPS[:1], torch.tensor(0.5, dtype=h.dtype)), dim=-1),
}


@pytest.mark.parametrize("name", SENSITIVE)
def test_a_zero_has_a_sign_and_what_is_written_over_zeros_is_none(name: str) -> None:
    torch.manual_seed(0)
    model = Between(SENSITIVE[name]).double()
    grown = assert_grows(model, (TOKENS,), 2, "zero", least_ratio=1.9)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class Recurrence(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.leave = kind(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 8)
        pair = isinstance(self.cell, nn.LSTMCell)
        hidden = (state, state) if pair else state
        for step in range(x.shape[1]):
            hidden = self.cell(x[:, step], hidden)
        return self.leave(hidden[0] if pair else hidden)


class FirstState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.leave = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(1, x.size(0), 8, dtype=x.dtype)
        return self.leave(self.layer(x, (state, state))[0])


class BothWays(nn.Module):
    """A recurrent layer with a first state reads what another has read forwards and backwards, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.layer = nn.LSTM(6, 4, batch_first=True, bidirectional=True), nn.GRU(8, 8, batch_first=True)
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.layer(self.enter(x)[0], x.new_zeros(1, len(x), 8))[0])  # type: ignore[no-any-return]


class Scan(nn.Module):
    """A recurrence by hand over two directions in one axis, whose first state a parameter makes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.rates = nn.Parameter(torch.rand(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).mT
        h, rates = torch.stack((h, h.flip(2)), 1).flatten(1, 2), -self.rates.exp()
        decay, state, steps = (h[..., None] * rates[:, None]).exp(), rates.new_zeros(len(h), 16, 2), []
        for step in range(h.shape[-1]):
            state = decay[:, :, step] * state + h[:, :, step, None]
            steps.append(state.sum(-1))
        y = torch.stack(steps, 2).unflatten(1, (2, 8))
        return self.leave((y[:, 0] + y[:, 1].flip(2)).mT)  # type: ignore[no-any-return]


class LearnedQueries(nn.Module):
    """A decoder whose queries are parameters: its first products are of parameters alone."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        layer = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 1)
        self.queries = nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.decoder(self.queries.repeat(x.shape[0], 1, 1), self.enter(x)))


class Prototypes(nn.Module):
    """Tokens compared with learned ones, of fewer axes."""

    def __init__(self, compare: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(5, 3)
        self.prototypes, self.compare = nn.Parameter(torch.randn(5, 8)), compare

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.compare(self.enter(x), self.prototypes))


@pytest.mark.parametrize(
    "compare",
    [torch.cdist, lambda h, p: F.cosine_similarity(h.unsqueeze(-2), p, dim=-1), lambda h, p: torch.cdist(h, p[None])],
)
@pytest.mark.parametrize("init", ["zero", "replicate"])
def test_prototypes_grow_in_number_and_say_why_not_in_width(compare: Any, init: str) -> None:
    torch.manual_seed(0)
    model = Prototypes(compare).double()
    grown = assert_grows(model, (TOKENS,), 2, init)
    assert grown.prototypes.shape == (10, 8)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    (held,) = fxgrow.report(grown).plan.held
    assert set(held.where) == {"enter.weight[0]", "enter.bias[0]", "prototypes[1]"}
    assert "would read its new units, and its result has to stay" in held.reason


@pytest.mark.parametrize("name", ["weighted by their likeness", "weighted by distances"])
def test_what_is_compared_is_so_over_old_units_in_the_own_class(name: str) -> None:
    assert fxgrow.plan(Between(BETWEEN[name]).double(), 2, example_inputs=TOKENS).form == "module"


class TiedRow(nn.Module):
    """A square weight one row of which is its bias as well: the others grow around it."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.enter, self.square, self.leave = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 3)
        self.row = row

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).flatten(0, 1).tanh()
        return self.leave(torch.addmm(self.square[self.row], h, self.square.t()).tanh()).unflatten(0, x.shape[:2])


spectral_norm = parametrizations.spectral_norm
MODELS: dict[str, Callable[[], nn.Module]] = {
    "rnn cell": lambda: Recurrence(nn.RNNCell),
    "gru cell": lambda: Recurrence(nn.GRUCell),
    "lstm cell": lambda: Recurrence(nn.LSTMCell),
    "lstm with a first state": FirstState,
    "a first state behind both ways": BothWays,
    "a scan by hand": Scan,
    "learned queries": LearnedQueries,
    "a row, the first": lambda: TiedRow(0),
    "a row between": lambda: TiedRow(3),
    "the last row": lambda: TiedRow(7),
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), parametrizations.weight_norm(nn.Linear(8, 3))
    ),
    "spectral norm": lambda: nn.Sequential(
        *(spectral_norm(nn.Linear(6, 8)), nn.ReLU(), spectral_norm(nn.Linear(8, 8)), nn.ReLU()),
        spectral_norm(nn.Linear(8, 3)),
    ),
    "spectral norm of convolutions": lambda: nn.Sequential(
        nn.Unflatten(-1, (1, -1)),
        *(spectral_norm(nn.Conv2d(4, 8, (1, 3))), nn.LeakyReLU(), spectral_norm(nn.ConvTranspose2d(8, 4, 1))),
        *(nn.Tanh(), nn.Flatten(), nn.Linear(16, 2)),
    ),
}


LONG = ("rnn cell", "gru cell", "lstm with a first state")


@pytest.mark.parametrize(
    ("name", "init"), in_turn(MODELS, ("zero", "mirror"), [name for name in MODELS if name not in LONG])
)
def test_models(name: str, init: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    grown = assert_grows(model, (TOKENS,), 2, init, least_ratio=1.5)
    by_values = init == "mirror" and "spectral" in name  # that pairs cancel is read off values, which it divides
    assert str(fxgrow.certify(grown, model).verdict) == ("UNKNOWN" if by_values else "PROVED")


@pytest.mark.parametrize("name", [name for name in MODELS if "spectral" in name])
def test_no_copies_are_made_for_a_spectral_norm_to_read(name: str) -> None:
    """They would share out the old entries that the norm is taken of."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    grown = assert_grows(model, (TOKENS,), 2, "replicate", least_ratio=1.5)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    if name == "spectral norm":
        assert {group.how for group in fxgrow.report(grown).plan.groups} == {"zero-out, guarded statistics"}


def test_a_row_that_is_picked_stays_where_it_is() -> None:
    model = TiedRow(3).double()
    grown = fxgrow.grow(model, 2, example_inputs=TOKENS)
    assert isinstance(grown, TiedRow)
    assert torch.equal(grown.square[grown.row, : grown.row // 2], model.square[3, :3])
    held = fxgrow.plan(TiedRow(-1).double(), 2, example_inputs=TOKENS).held
    assert any("indexed by a number" in dimension.reason for dimension in held)


def test_rows_that_nothing_reads_are_not_grown() -> None:
    class Table(Between):
        def __init__(self) -> None:
            super().__init__(torch.tanh)
            self.table = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.between(self.enter(x) * self.table[1] + self.table[3]))

    grown = assert_grows(Table().double(), (TOKENS,), 2, "zero", least_ratio=1.9)
    assert grown.table.shape == (5, 16)


def test_a_parametrization_without_a_rule_is_named() -> None:
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    held = fxgrow.plan(model, 2, example_inputs=TOKENS.float()).held
    assert any("_Orthogonal computes every entry from the whole weight" in dimension.reason for dimension in held)
    assert any("remove_parametrizations" in dimension.reason for dimension in held)
    parametrize.remove_parametrizations(model[0], "weight")
    assert fxgrow.plan(model, 2, example_inputs=TOKENS.float()).groups[0].new == 16


ELSEWHERE = {
    "distances to it": lambda h, weight: h * torch.cdist(h, weight).min(-1).values.unsqueeze(-1),
    "its norm": lambda h, weight: h * weight.norm(),
    "its mean row": lambda h, weight: h * weight.mean(0),
    "its largest row": lambda h, weight: h * weight.max(0).values,
    "its sum": lambda h, weight: h + weight.sum(0),
}


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("init", ["mirror", "replicate"])
def test_a_weight_that_reads_units_is_given_to_something_else(name: str, init: str) -> None:
    torch.manual_seed(0)
    model = Between(lambda h: ELSEWHERE[name](h, model.leave.weight)).double()
    grown = fxgrow.grow(model, 1.5, init=init, example_inputs=TOKENS)
    assert grown.enter.weight.shape == (12, 6)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.leave = nn.Linear(6, 8), nn.Linear(6, 10), nn.Bilinear(8, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.first(x).relu(), self.second(x).tanh())


@pytest.mark.parametrize("init", ["mirror", "replicate"])
def test_bilinear_layers_read_units_of_both(init: str) -> None:
    torch.manual_seed(0)
    model = Pairs().double()
    grown = assert_grows(model, (TOKENS,), 1.5, init, least_ratio=1.5)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class WithTime(nn.Module):
    """A map beside which the time stands as one more, made as large as a cut of it (torchdiffeq)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.enter(x))
        return self.leave(torch.cat([torch.ones_like(h[:, :1]) * 0.5, h], 1))  # type: ignore[no-any-return]


def test_a_cut_of_which_the_size_alone_is_read_cuts_no_dimension() -> None:
    torch.manual_seed(0)
    grown = assert_grows(WithTime().double(), (torch.randn(4, 3, 5, 5, dtype=torch.float64),), 2, "zero")
    assert (grown.enter.out_channels, grown.leave.in_channels) == (16, 17)


class Sliding(nn.Module):
    """A kernel slides over units, whose neighbours it mixes: what comes out, or what it weights, is read."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.slide, self.leave = nn.Linear(6, 8), nn.Conv1d(1, 1, 3, padding=1), nn.Linear(8, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).flatten(0, 1)
        return self.leave(self.read(h, self.slide(h[:, None])[:, 0]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("init", ["mirror", "replicate"])
@pytest.mark.parametrize("read", [lambda h, slid: slid.relu(), lambda h, slid: h * slid.sigmoid()])
def test_units_that_a_kernel_makes_of_their_neighbours_are_no_pairs(
    read: Callable[[Tensor, Tensor], Tensor], init: str
) -> None:
    torch.manual_seed(0)
    model = Sliding(read).double()
    grown = assert_grows(model, (TOKENS,), 2, init, least_ratio=1.7)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class Blurred(nn.Module):
    """One kernel for all channels, made as many times as there are."""

    def __init__(self, times: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.kernel, self.times = nn.Parameter(torch.randn(1, 1, 3, 3)), times

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        kernel = self.times(self.kernel, h.shape[1])
        return self.leave(F.conv2d(h, kernel, padding=1, groups=h.shape[1]).relu())  # type: ignore[no-any-return]


TIMES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "repeat": lambda kernel, n: kernel.repeat(n, 1, 1, 1),
    "tile": lambda kernel, n: torch.tile(kernel, (n, 1, 1, 1)),
    "expand": lambda kernel, n: kernel.expand(n, -1, -1, -1),
    "a line for each": lambda kernel, n: kernel[0].repeat(n, 1, 1, 1),
    "each": lambda kernel, n: kernel.repeat_interleave(n, 0),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_weight_of_size_one_is_repeated_for_all_channels(name: str) -> None:
    torch.manual_seed(0)
    model = Blurred(TIMES[name]).double()
    grown = assert_grows(model, (torch.randn(4, 3, 5, 5, dtype=torch.float64),), 2, "zero", least_ratio=1.6)
    assert grown.kernel.shape == (1, 1, 3, 3)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class OfGroups(nn.Module):
    """A gain for each group of units."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.gain = nn.Linear(6, 8), nn.Linear(8, 3), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).tanh() * self.gain.repeat_interleave(2))  # type: ignore[no-any-return]


def test_what_has_one_axis_repeats_its_entries_along_that() -> None:
    torch.manual_seed(0)
    grown = assert_grows(OfGroups().double(), (TOKENS,), 2, "zero", least_ratio=1.9)
    assert grown.gain.shape == (8,)
