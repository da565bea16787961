"""New units learn: no way of staying invisible is taken that no gradient would ever leave again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.history import births
from fxgrow.proof.certificate import Verdict
from tests.checks import assert_grows, unmoved, worst_error

ROW = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class ScaledByNorm(nn.Module):
    """As conv4_3 of an SSD: a map after ReLU goes on, and over its norm along the channels into a head."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.deeper = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3)
        self.scale = nn.Parameter(20 * torch.ones(8))
        self.head, self.last = nn.Conv2d(8, 2, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.enter(x))
        return self.head(self.scale.view(1, -1, 1, 1) * F.normalize(x)), self.last(self.deeper(x).relu())


class OnlyOverNorm(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.normalize(self.activation(self.enter(x)), dim=-1))


class Cosine(nn.Module):
    """Features and class weights both over their norms."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.classes = nn.Linear(5, 8), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(torch.tanh(self.enter(x)), dim=-1), F.normalize(self.classes, dim=-1))


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def grown_and_alive(model: nn.Module, x: Tensor, width: Any = 2, **options: Any) -> nn.Module:
    """Grown exactly and proved, and trained a little: every new entry that is trained has moved, none that is not."""
    torch.manual_seed(0)
    model = model.double()
    grown = fxgrow.grow(model, width, example_inputs=x, **options)
    assert worst_error(model, grown, (x,), False) <= 1e-10
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert unmoved(grown, (x,)) == []
    before = {name: p.detach().clone() for name, p in grown.named_parameters()}
    born = {name: birth.mask(1) for name, birth in births(grown).items()}
    optimizer = torch.optim.Adam((p for p in grown.parameters() if p.requires_grad), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        output = grown(x)
        sum(y.square().sum() for y in (output if isinstance(output, tuple) else (output,))).backward()
        optimizer.step()
    for name, p in grown.named_parameters():
        moved = p.detach() != before[name]
        assert not moved.any() if not p.requires_grad else moved[born[name]].sum() >= 0.8 * born[name].sum(), name
    return grown


def how(grown: nn.Module) -> list[str]:
    return [group.how for group in fxgrow.report(grown).plan.groups]


def test_zeros_behind_a_relu_would_stay_and_are_not_put_there() -> None:
    assert how(grown_and_alive(OnlyOverNorm(torch.relu), ROW)) == ["zero-out, guarded statistics"]


def test_zeros_behind_a_slope_move_and_need_no_guard() -> None:
    assert how(grown_and_alive(OnlyOverNorm(torch.tanh), ROW)) == ["zero-in"]


def test_a_square_is_flat_at_zero_as_well() -> None:
    assert how(grown_and_alive(OnlyOverNorm(lambda x: x**2), ROW)) == ["zero-out, guarded statistics"]


def test_a_map_that_an_ssd_scales_by_its_norm() -> None:
    grown = grown_and_alive(ScaledByNorm(), IMAGE)
    assert isinstance(grown, ScaledByNorm)
    graph = grown_and_alive(ScaledByNorm(), IMAGE, form="graph")
    assert "guards_normalize" in graph.code
    for result in (grown, graph):
        assert fxgrow.report(result).plan.groups[0].how == "zero-out, guarded statistics"


def test_two_factors_are_not_both_zero() -> None:
    grown = grown_and_alive(Cosine(), ROW)
    assert "guarded statistics" in how(grown)[0]
    again = fxgrow.grow(grown, 2, example_inputs=ROW)
    assert worst_error(grown, again, (ROW,), False) <= 1e-10
    assert str(fxgrow.report(again).certificate.verdict) == "PROVED"


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
def test_a_guarded_norm_in_every_way(init: str) -> None:
    for model in (Cosine(), OnlyOverNorm(torch.relu)):
        grown = fxgrow.grow(model.double(), 1.5, example_inputs=ROW, init=init)
        assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


def test_what_a_frozen_layer_reads_comes_in_pairs() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), frozen(nn.Linear(8, 3)))
    assert how(grown_and_alive(model, ROW)) == ["mirror"]


def test_an_odd_number_of_units_before_a_frozen_layer_is_silent_where_it_can_learn() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.GELU(), frozen(nn.Linear(8, 3)))
    assert how(grown_and_alive(model, ROW, "+3")) == ["zero-in"]


def test_an_odd_number_of_units_that_could_not_learn_is_held() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), frozen(nn.Linear(8, 3)))
    plan = fxgrow.plan(model, "+3", example_inputs=ROW)
    assert not plan.groups
    assert "never learn" in plan.held[0].reason
    assert "requires_grad" in plan.held[0].reason


def test_features_of_a_frozen_layer_may_grow_where_their_reader_learns() -> None:
    model = nn.Sequential(frozen(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3))
    assert how(grown_and_alive(model, ROW)) == ["zero-out"]


def test_a_frozen_norm_that_would_keep_new_features_at_zero_is_guarded() -> None:
    model = nn.Sequential(frozen(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8))), nn.Linear(8, 3))
    assert how(grown_and_alive(model, ROW)) == ["zero-out, guarded statistics"]


def test_units_that_nothing_trains_stay() -> None:
    model = nn.Sequential(
        frozen(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))), nn.ReLU(), nn.Linear(6, 3)
    )
    plan = fxgrow.plan(model, 2, example_inputs=ROW)
    assert [(group.old, group.new) for group in plan.groups] == [(6, 12)]
    assert "is trained" in plan.held[0].reason


def test_a_model_frozen_as_a_whole_grows_as_if_it_were_not() -> None:
    """An average of weights is frozen, and grows by the plan of the model that is trained."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    plan = fxgrow.plan(model, 2, example_inputs=ROW)
    assert fxgrow.plan(frozen(model), 2, example_inputs=ROW) == plan


class Siblings(nn.Module):
    """As BYOL: what is compared with it has units that only the comparison would read."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.follow = nn.Linear(5, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cosine_similarity(self.follow(self.enter(x).tanh()), self.enter(y))


def test_units_that_a_comparison_leaves_out_are_not_put_there() -> None:
    plan = fxgrow.plan(Siblings().double(), 2, example_inputs=(ROW, ROW))
    assert any(held.size == 8 and "never learn" in held.reason for held in plan.held)


def test_liveness_tells_units_that_no_gradient_reaches() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    grown = fxgrow.grow(model, 2, example_inputs=ROW)
    assert unmoved(grown, (ROW,)) == []
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            grown.get_parameter(name)[8:] = 0.0
    assert [line.partition(":")[0] for line in unmoved(grown, (ROW,))] == ["0.weight", "0.bias", "2.weight"]


class PerUnit(nn.Module):
    """A number for each unit that the code does something with."""

    def __init__(self, held: Tensor, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.how = nn.Linear(5, 8), nn.Linear(8, 3), how
        if isinstance(held, nn.Parameter):
            self.held = held
        else:
            self.register_buffer("held", held)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.how(self.enter(x), self.held))


OF_A_UNIT = {
    "a mask": (torch.full((8,), 2.0), lambda h, held: h.tanh() * (held > 0)),
    "a choice": (torch.full((8,), 2.0), lambda h, held: torch.where(held > 0, h, h * 0)),
    "a ceiling": (torch.full((8,), 3.0), lambda h, held: torch.minimum(h, held)),
    "levels": (torch.full((8,), 5.0), lambda h, held: h.tanh() * ((held - 1) / 2)),
    "a gain at zero": (nn.Parameter(torch.zeros(8)), lambda h, held: h * held),
    "a gate at zero": (nn.Parameter(torch.zeros(8)), lambda h, held: h * held.tanh()),
}


@pytest.mark.parametrize("what", OF_A_UNIT)
def test_numbers_of_new_units_let_them_through(what: str) -> None:
    grown_and_alive(PerUnit(*OF_A_UNIT[what]), ROW)


class Tied(nn.Module):
    """Looks rows of a table up and compares them with all of it, and nothing between."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.compared = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
        self.compared.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.compared(self.table(words).mean(1))  # type: ignore[no-any-return]


class Stacked(nn.Module):
    """Layers whose weights are pieces of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 8, 8) / 3)
        self.enter, self.wide, self.narrow, self.leave = (nn.Linear(*s) for s in ((5, 8), (8, 16), (16, 8), (8, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.wide(self.enter(x)).tanh())
        for weight in self.weights:
            x = F.linear(x, weight).tanh()
        return self.leave(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [Tied(), Stacked()])
def test_a_table_or_a_stack_of_weights_that_would_multiply_zeros_is_held(model: nn.Module) -> None:
    x = torch.randint(0, 9, (6, 4)) if isinstance(model, Tied) else ROW
    held = fxgrow.plan(model.double(), 2, example_inputs=x).held
    assert any("no gradient passes the zeros" in staying.reason for staying in held)
    if isinstance(model, Stacked):
        grown_and_alive(model, ROW)


class TwoHalves(nn.Module):
    """A loss of all of a latent, of which one half alone is decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mean, self.spread = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(8, 6)
        self.decode = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(x).tanh()
        mean, spread = self.mean(x), self.spread(x)
        return self.decode(mean), (spread.exp() + mean**2 - spread).sum(-1)


def test_units_that_a_guarded_sum_alone_would_read_stay() -> None:
    grown: Any = grown_and_alive(TwoHalves(), ROW)
    assert (grown.enter.out_features, grown.spread.out_features) == (16, 6)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_rows_that_are_scaled_by_their_norms_keep_them(kind: type[nn.Embedding]) -> None:
    torch.manual_seed(0)
    words = torch.randint(0, 9, (6, 4))
    model = nn.Sequential(kind(9, 8, max_norm=1.0), nn.Linear(8, 3)).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grown = fxgrow.grow(model, 2, example_inputs=words)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not grown.get_parameter("0.weight")[:, 8:].any() and worst_error(model, grown, (words,), False) <= 1e-12


class Modulated(nn.Module):
    """A convolution whose weight each sample scales by a style, over its norm or not (StyleGAN2)."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.style, self.weight, self.normed = nn.Linear(4, 8), nn.Parameter(torch.randn(8, 8, 3, 3)), normed

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        weight = self.weight[None] * (self.style(code)[:, None, :, None, None] + 1)
        if self.normed:
            weight = weight * torch.rsqrt((weight**2).sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
        batch, _, height, width = x.shape
        weight = weight.reshape(-1, *weight.shape[2:])
        return F.conv2d(x.reshape(1, -1, height, width), weight, padding=1, groups=batch).reshape(
            batch, -1, height, width
        )


class Styled(nn.Module):
    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.first, self.second = Modulated(normed), Modulated(normed)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        h = self.first(self.enter(x), code).relu()
        return self.leave(self.second(h, code).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("normed", [True, False])
def test_of_two_factors_the_one_is_zero_that_lets_the_other_learn(normed: bool) -> None:
    torch.manual_seed(0)
    model = Styled(normed).double()
    x = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.randn(8, 4, dtype=torch.float64)
    grown = assert_grows(model, x, 2, "zero", least_ratio=3.7)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED


class Towers(nn.Module):
    """Two networks whose outputs are compared."""

    def __init__(self, compare: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.compare = nn.Linear(5, 8), nn.Linear(5, 8), compare

    def forward(self, x: Tensor) -> Tensor:
        return self.compare(self.first(x), self.second(x.flip(0)))


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def over_norm(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


COMPARED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "summed": (lambda a, b: (a * b * 0.5).sum(-1), "zero-in"),
    "every pair": (lambda a, b: torch.sum(a.unsqueeze(1) * b, dim=-1).sigmoid(), "zero-in"),
    "vecdot": (torch.linalg.vecdot, "zero-in"),
    "over their norms": (lambda a, b: (over_norm(a) * over_norm(b)).sum(-1), "zero-in, guarded statistics"),
    "normalised": (lambda a, b: (unit(a) * unit(b)).sum(-1), "zero-in, guarded statistics"),
    "normalised, every pair": (lambda a, b: unit(a) @ unit(b).T, "zero-in, guarded statistics"),
}


@pytest.mark.parametrize("name", COMPARED)
def test_a_product_that_is_summed_reads_both_factors(name: str) -> None:
    compare, way = COMPARED[name]
    grown = grown_and_alive(Towers(compare), ROW)
    assert how(grown) == [way]
    assert grown.first.out_features == grown.second.out_features == 16


@pytest.mark.parametrize("compare", [lambda a, b: ((a - b) ** 2).sum(-1), lambda a, b: (a * a).sum(-1) - b.sum(-1)])
def test_a_sum_of_squares_reads_nothing(compare: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(PlanError, match="nothing but sum would read its new units, and its result has to stay"):
        fxgrow.grow(Towers(compare), 2, example_inputs=ROW.float())


class Mixed(nn.Module):
    """A convolution by a mixture of kernels that each sample chooses from what it reads (CondConv)."""

    def __init__(self) -> None:
        super().__init__()
        self.choose, self.kernels = nn.Linear(8, 3), nn.Parameter(torch.randn(3, 8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        batch, units, height, width = x.shape
        kernels = torch.einsum("bk,koihw->boihw", self.choose(x.mean((2, 3))).softmax(1), self.kernels)
        kernels = kernels.reshape(-1, units, 3, 3)
        made = F.conv2d(x.reshape(1, -1, height, width), kernels, padding=1, groups=batch)
        return made.view(batch, -1, height, width)


def test_kernels_that_are_chosen_are_zero_where_what_they_read_could_not_learn() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Mixed(), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert fxgrow.report(grown_and_alive(model, IMAGE)).plan.ratio > 3.7


class Codebook(nn.Module):
    """A vector-quantised layer, whose straight-through estimator sends no gradient to the codes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.codes, self.leave = nn.Linear(8, 12), nn.Embedding(5, 12), nn.Linear(12, 16)
        self.last = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.enter(x)
        code = self.codes(torch.cdist(z, self.codes.weight).argmin(-1))
        loss = torch.mean((code - z.detach()) ** 2)
        return self.last(self.leave(z + (code - z).detach()).relu()), loss


def test_what_is_left_out_of_a_loss_and_detached_elsewhere_stays() -> None:
    grown: Any = grown_and_alive(Codebook(), torch.randn(64, 8, dtype=torch.float64))
    assert grown.codes.weight.shape == (5, 12) and grown.last.in_features == 32
    assert "no gradient passes the zeros at detach" in fxgrow.report(grown).plan.held[0].reason


def test_a_teacher_without_gradients_grows_as_its_student_does() -> None:
    class Taught(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
            self.teacher = copy.deepcopy(self.student)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                target = self.teacher(x)
            return self.student(x) - target  # type: ignore[no-any-return]

    grown: Any = fxgrow.grow(Taught(), 2, example_inputs=torch.randn(3, 8))
    assert grown.teacher[0].weight.shape == grown.student[0].weight.shape == (32, 8)


def test_what_is_read_from_a_body_without_gradients_learns() -> None:
    class Probed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.norm, self.leave = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.body(x)
            return self.leave(self.norm(h).relu())  # type: ignore[no-any-return]

    x = torch.randn(32, 8, dtype=torch.float64)
    grown: Any = fxgrow.grow(Probed().double(), 2, example_inputs=x)
    assert grown.leave.in_features == 32
    assert [line for line in unmoved(grown, (x,)) if not line.startswith("body.")] == []
