"""Forwards as people write them: what a run settles is found, kept, or refused by name."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxgrow
from fxgrow.capture import capture
from fxgrow.capture.numbers import Attribute, Expression
from fxgrow.capture.recording import Recording
from fxgrow.capture.skeleton import skeleton, twin_of
from fxgrow.errors import CaptureError, FxgrowError, SettledError, UntraceableError
from fxgrow.proof.certificate import Verdict
from tests.capture.assembled import EXACT, assembled, assert_same_in_both_modes, normal
from tests.models import Branched
from tests.pairing import slow

X = normal(2, 5, 6)


class Between(nn.Module):
    """6 -> 8 -> 3, with something between."""

    def __init__(self, between: Callable[..., Any] = lambda self, h: h) -> None:
        super().__init__()
        self.enter, self.leave, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between
        self.heads = 2

    def forward(self, x: Tensor) -> Any:
        return self.leave(self.between(self, self.enter(x)))


def model_of(between: Callable[..., Any]) -> nn.Module:
    return Between(between).double()


def by_rank(self: Any, h: Tensor) -> Tensor:
    return h.relu() if h.dim() == len(h.shape) == 3 else h


def by_type(self: Any, h: Tensor) -> Tensor:
    assert isinstance(h, Tensor) and torch.is_tensor(h) and isinstance(h.shape[-1], int)
    return h.tanh()


def by_device(self: Any, h: Tensor) -> Tensor:
    return h.to(next(self.parameters()).device) * (1.0 if h.device.type == "cpu" and not h.is_cuda else 3.0)


def by_dtype(self: Any, h: Tensor) -> Tensor:
    return h.masked_fill(h < torch.finfo(h.dtype).min, 0.0).to(self.enter.weight.dtype)


def by_table(self: Any, h: Tensor) -> Tensor:
    return h * {5: 2.0, 7: 3.0}[h.shape[1]]


def by_numpy(self: Any, h: Tensor) -> Tensor:
    return h.reshape(int(np.prod(h.shape[:-1])), h.shape[-1]).relu().reshape(h.shape)


def starred(self: Any, h: Tensor) -> Tensor:
    samples, length, _, heads = *h.shape, self.heads
    return h.view(samples, length, heads, -1).relu().flatten(2)


def half_of_it(self: Any, h: Tensor) -> Tensor:
    return h[:, : math.ceil(h.shape[1] / 2)]


def made_inside(self: Any, h: Tensor) -> Tensor:
    return nn.Softsign()(nn.Dropout(0.5).eval()(h))


def without_cast(self: Any, h: Tensor) -> Tensor:
    with torch.autocast(device_type=h.device.type, enabled=False):
        return F.silu(h)


IDIOMS = [by_rank, by_type, by_device, by_dtype, by_table, by_numpy, starred, half_of_it, made_inside, without_cast]


@pytest.mark.parametrize("between", IDIOMS)
def test_idioms_grow_and_are_proved(between: Callable[..., Any]) -> None:
    model = model_of(between)
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert grown.get_submodule("enter").out_features == 16
    assert_same_in_both_modes(model, assembled(model, X), X)


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_a_number_computed_from_sizes_follows_the_input(form: str) -> None:
    model = model_of(half_of_it)
    grown = fxgrow.grow(model, 2, example_inputs=X, form=form)
    longer = normal(3, 9, 6, seed=1)
    torch.testing.assert_close(grown(longer), model(longer), rtol=EXACT, atol=EXACT)


# -- where numbers come from -----------------------------------------------------------------------------------


def test_literals_know_the_attribute_that_they_come_from() -> None:
    def split(self: Any, h: Tensor) -> Tensor:
        return h.unflatten(-1, (self.heads, 8 // self.heads)).flatten(-2)

    (graph,) = capture(model_of(split), X).graphs.values()
    (node,) = [node for node in graph.nodes if node.target == "unflatten"]
    heads = Attribute("", ("heads",))
    first, second = node.meta["sources"].values()
    assert first == heads
    assert isinstance(second, Expression)


def test_a_literal_dtype_stays_one_beside_one_that_was_asked_for() -> None:
    def rounded(self: Any, h: Tensor) -> Tensor:
        wanted = h.dtype
        return h.to(torch.float32).to(wanted)

    model = Between(rounded)
    captured = capture(model, X.float())
    (graph,) = captured.graphs.values()
    first, second = [node for node in graph.nodes if node.target == "to"]
    assert first.args[1] is torch.float32
    assert second.args[1].target is getattr


# -- arguments ---------------------------------------------------------------------------------------------------


class Options(Between):
    def forward(self, x: Tensor, act: bool = True, *, scale: float = 1.0, mask: Tensor | None = None) -> Any:
        h = self.enter(x)
        h = h.relu() if act else h
        return self.leave(h if mask is None else h * mask) * scale


def test_a_graph_refuses_another_flag_and_says_which() -> None:
    grown = fxgrow.grow(Options().double(), 2, example_inputs=X, form="graph")
    grown(X, act=True, mask=None)
    with pytest.raises(SettledError, match=r"^act was True when the model was captured, and is False now: grow"):
        grown(X, act=False)
    with pytest.raises(SettledError, match=r"^mask was None when the model was captured, and is Tensor now"):
        grown(X, mask=torch.ones(16, dtype=torch.float64))


def test_a_number_that_is_only_computed_with_may_be_another() -> None:
    model = Options().double()
    grown = fxgrow.grow(model, 2, example_inputs=X, form="graph")
    torch.testing.assert_close(grown(X, scale=3.0), model(X, scale=3.0), rtol=EXACT, atol=EXACT)


def test_a_number_that_is_compared_is_settled() -> None:
    class Compared(Between):
        def forward(self, x: Tensor, steps: int = 2) -> Any:
            return self.leave(self.enter(x)) * (2.0 if steps > 1 else 1.0)

    grown = fxgrow.grow(Compared().double(), 2, example_inputs=X, form="graph")
    with pytest.raises(SettledError, match="steps was 2"):
        grown(X, steps=1)


def test_the_model_itself_takes_every_flag() -> None:
    model = Options().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    for options in ({"act": False}, {"scale": 0.5}):
        torch.testing.assert_close(grown(X, **options), model(X, **options), rtol=EXACT, atol=EXACT)


# -- outputs -----------------------------------------------------------------------------------------------------


class Named(OrderedDict[str, Any]):
    @property
    def logits(self) -> Tensor:
        return self["logits"]  # type: ignore[no-any-return]


@dataclasses.dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


@pytest.mark.parametrize("kind", [Named, Output])
@pytest.mark.parametrize("form", ["module", "graph"])
def test_outputs_keep_their_class(kind: type, form: str) -> None:
    class Model(Between):
        def forward(self, x: Tensor) -> Any:
            return kind(logits=self.leave(self.enter(x).relu()))

    model = Model().double()
    grown = fxgrow.grow(model, 2, example_inputs=X, form=form)
    assert type(grown(X)) is kind
    torch.testing.assert_close(grown(X).logits, model(X).logits, rtol=EXACT, atol=EXACT)


# -- what is not computing -----------------------------------------------------------------------------------------


class Frozen(Between):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            h = self.enter(x)
        return self.leave(h.relu())


@pytest.mark.parametrize("form", ["module", "graph"])
def test_parts_without_gradients_stay_without(form: str) -> None:
    grown = fxgrow.grow(Frozen(), 2, example_inputs=X.float(), form=form)
    grown(X.float()).sum().backward()
    assert grown.get_parameter("enter.weight").grad is None
    assert grown.get_parameter("leave.weight").grad is not None


def test_a_graph_leaves_what_it_entered_if_it_fails() -> None:
    grown = fxgrow.grow(Frozen(), 2, example_inputs=X.float(), form="graph")
    with pytest.raises(RuntimeError):
        grown(torch.ones(2, 5, 7))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("form", ["module", "graph"])
def test_regions_of_another_precision_stay_so(form: str) -> None:
    class Cast(Between):
        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                h = self.enter(x)
            return self.leave(h.float())

    model = Cast()
    grown = fxgrow.grow(model, 2, example_inputs=X.float(), form=form)
    with torch.no_grad():
        torch.testing.assert_close(grown(X.float()), model(X.float()), rtol=1e-5, atol=1e-5)
        assert not torch.equal(grown(X.float()), model.leave(model.enter(X.float())))


class Saving(Between):
    def forward(self, x: Tensor) -> Any:
        return self.leave(checkpoint(nn.Sequential(self.enter, nn.ReLU()), x, use_reentrant=False))


class Remembering(Between):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.detach().mean((0, 1))
        return self.leave(self.enter(x - self.mean).relu())


class Packing(Between):
    """Keeps what the backward pass needs on the CPU."""

    def forward(self, x: Tensor) -> Any:
        with torch.autograd.graph.save_on_cpu():
            h = self.enter(x).relu()
        return self.leave(h)


class Seeding(Between):
    """Adds the same noise at every call."""

    def forward(self, x: Tensor) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            noise = torch.randn_like(x)
        return self.leave(self.enter(x + noise).tanh())


class Damping(Between):
    def forward(self, x: Tensor) -> Any:
        h = self.enter(x)
        if torch.is_grad_enabled():
            h.register_hook(lambda gradient: 0.1 * gradient)
        return self.leave(h)


class Sampling(Between):
    """Draws from a normal distribution, whose deviation torch looks at before."""

    def forward(self, x: Tensor) -> Any:
        mean, deviation = self.leave(self.enter(x).tanh()).split([1, 2], -1)
        around = torch.distributions.Normal(mean, deviation.exp())
        return around.rsample() if self.training else around.stddev


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Saving, "gradient checkpointing"),
        (Sampling, "what a distribution checks of its parameters"),
        (Remembering, "what the forward assigns to the buffer mean"),
        (Damping, "a hook on a tensor"),
        (Packing, "hooks on saved tensors"),
        (Seeding, "that the forward seeds its random numbers"),
    ],
)
def test_what_a_graph_cannot_keep_is_kept_by_the_model_and_refused_as_a_graph(kind: type, text: str) -> None:
    assert type(fxgrow.grow(kind(), 2, example_inputs=X.float())) is kind
    with pytest.raises(FxgrowError, match=f"^a graph cannot keep {text}"):
        fxgrow.grow(kind(), 2, example_inputs=X.float(), form="graph")


def drawn_by(model: nn.Module, grown: nn.Module, training: bool) -> list[Tensor]:
    """What both give of the same random numbers."""
    outputs = []
    for each in (model, grown):
        torch.manual_seed(1)
        outputs.append(each.train(training)(X))
    return outputs


def test_distributions_check_their_parameters_after_growth_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # torch.compile switches it off
    torch.manual_seed(0)
    model = Sampling().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    for training in (False, True):
        torch.testing.assert_close(*drawn_by(model, grown, training), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="found invalid values"):
        grown(X * float("nan"))


def test_buffers_that_a_forward_assigns_go_on_as_before() -> None:
    model = Remembering().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    model.train()(X)
    grown.train()(X)
    torch.testing.assert_close(grown.get_buffer("mean"), model.get_buffer("mean"))


def test_a_buffer_that_keeps_positions_is_no_loss() -> None:
    class Positions(Between):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(0))

        def forward(self, x: Tensor) -> Any:
            if self.steps.shape[0] != x.shape[1]:
                self.steps = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
            return self.leave(self.enter(x) * self.steps)

    model = Positions().double()
    grown = fxgrow.grow(model, 2, example_inputs=X, form="graph")
    torch.testing.assert_close(grown(X), model(X), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("draw", [random.random, slow(np.random.rand), slow(lambda: random.choice([0.0, 1.0]))])
def test_chance_is_refused_by_the_line_that_draws(draw: Callable[[], float]) -> None:
    class Dropping(Between):
        def forward(self, x: Tensor) -> Any:
            h, lucky = self.enter(x), self.training and draw() < 0.1
            return self.leave(h.relu() if lucky else h)

    for seed in range(3):
        random.seed(seed)
        before = random.getstate()
        with pytest.raises(UntraceableError, match=r"draws random numbers by .*test_recording.py, line \d+"):
            capture(Dropping(), X.float())
        assert random.getstate() == before


def test_chance_on_a_tensor_that_is_made_of_nothing_is_recorded() -> None:
    def noisy(self: Any, h: Tensor) -> Tensor:
        return h + torch.rand(8, dtype=h.dtype) if self.training else h

    (graph,) = [graph for mode, graph in capture(model_of(noisy), X).graphs.items() if mode == "train"]
    assert any(node.target is torch.rand for node in graph.nodes)


def test_a_share_that_is_drawn_is_recorded() -> None:
    def mixed(self: Any, h: Tensor) -> Tensor:
        share = torch.distributions.Beta(0.4, 0.4).sample()
        return torch.lerp(h, h.flip(0), share.to(h)) if self.training else h

    model = model_of(mixed)
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    torch.testing.assert_close(*drawn_by(model, grown, True), rtol=1e-12, atol=1e-12)


def test_a_course_that_hangs_on_the_size_is_guarded_in_a_graph() -> None:
    def padded(self: Any, h: Tensor) -> Tensor:
        return h.relu() if h.shape[1] == 5 else h.tanh()

    grown = fxgrow.grow(model_of(padded), 2, example_inputs=X, form="graph")
    with pytest.raises(SettledError, match="takes another course for each"):
        grown(normal(2, 6, 6))


class Kept(Between):
    """Keeps the first half of at most five steps, each of which has a place of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(normal(5, 8))

    def forward(self, x: Tensor, share: float = 0.5) -> Any:
        h = self.enter(x) + self.places[: x.shape[1]]
        return self.leave(h[:, : int(x.shape[1] * share)])


def test_a_course_that_hangs_on_the_size_is_found_where_larger_inputs_are_not_taken() -> None:
    model = Kept().double()
    with pytest.raises(SettledError, match=r"x had the sizes \[5\] along the axes \[1\]"):
        fxgrow.grow(model, 2, example_inputs=X, form="graph")(X[:, :3])
    torch.testing.assert_close(fxgrow.grow(model, 2, example_inputs=X)(X[:, :3]), model(X[:, :3]))


def test_parts_that_share_a_list_share_it_in_the_record() -> None:
    class Layer(nn.Module):
        def __init__(self, seen: list[Tensor]) -> None:
            super().__init__()
            self.map, self.seen = nn.Linear(8, 8), seen

        def forward(self, x: Tensor) -> Tensor:
            self.seen[0] = self.map(x).relu()
            return self.seen[0]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = [torch.zeros(1)]
            self.layer, self.head = Layer(self.seen), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)) + self.head(self.seen[0])

    model = Model().double()
    x = normal(3, 8)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


# -- what is not a model as it was written ---------------------------------------------------------------------------


def test_averages_exported_modules_and_programs_are_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = X.float()
    exported = torch.export.export(model, (x,))
    for wrapped, text in (
        (torch.optim.swa_utils.AveragedModel(model), "wrapped in AveragedModel: pass its .module"),
        (exported, "ExportedProgram is not a model: pass the model from before torch.export"),
        (exported.module(), "exported module, .*: pass the model from before torch.export"),
    ):
        with pytest.raises(CaptureError, match=text):
            fxgrow.plan(wrapped, 2, example_inputs=x)


class Jittered(nn.Module):
    """Scales what it is given at random in train mode, by a number drawn into an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        if self.training:
            h = h * torch.empty(1, device=x.device).uniform_(-0.1, 0.1).exp()
        return self.leave(h)


def test_what_is_drawn_into_an_empty_tensor_is_no_constant() -> None:
    model = Jittered().double().train()
    assert capture(model, normal(2, 6)).settled == ()
    for form in ("auto", "graph"):
        grown = fxgrow.grow(model, 2, example_inputs=normal(2, 6), form=form)
        assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
        torch.manual_seed(0)
        first, second = grown(normal(2, 6)), grown(normal(2, 6))
        assert not torch.equal(first, second), "it draws anew at each call"


class Batch(dict[str, Any]):
    """Its items are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_mapping_of_the_user_s_own_class_is_what_the_forward_gets(form: str) -> None:
    class Reading(Between):
        def forward(self, batch: Batch) -> Tensor:
            return self.leave(self.enter(batch.image).relu())

    model: Any = Reading().double()
    size = model.enter.in_features
    image = torch.randn(2, size, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=(Batch(image=image),), form=form)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    torch.testing.assert_close(grown(Batch(image=image)), model(Batch(image=image)), rtol=1e-10, atol=1e-10)


class Moved(nn.Module):
    """Moves a layer to where its input is, and perhaps to another type."""

    def __init__(self, to: Any) -> None:
        super().__init__()
        self.first, self.last, self.to_what = nn.Linear(6, 8), nn.Linear(8, 3), to

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last.to(x.device if self.to_what == "input" else self.to_what)
        return self.last(self.first(x).relu())


@pytest.mark.parametrize("to", ["input", "cpu", torch.float64])
def test_a_layer_that_is_moved_to_where_it_is_stays(to: Any) -> None:
    model, x = Moved(to).double(), torch.randn(2, 6).double()
    grown = fxgrow.grow(model, width=2, example_inputs=x)
    assert type(grown) is Moved and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    torch.testing.assert_close(grown(x), model(x), rtol=0, atol=1e-14)


def test_a_layer_that_is_moved_elsewhere_is_refused() -> None:
    with pytest.raises(FxgrowError, match="the forward moves a layer to another device, type or layout"):
        fxgrow.plan(Moved(torch.float16).double(), width=2, example_inputs=torch.randn(2, 6).double())


class Chained(nn.Sequential):
    """Goes through its own parts, and passes its mode on as a flag."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for layer in self:
            out = layer(out)
        return torch.cat([x, F.dropout(out, p=0.5, training=self.training)], dim=1)


def test_a_forward_that_goes_through_its_parts_meets_its_own_alone() -> None:
    layers = nn.Sequential(nn.Linear(4, 8), Chained(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(16, 4))
    grown = fxgrow.grow(layers.double(), width=1.5, example_inputs=torch.randn(2, 4).double())
    assert type(grown[1]) is Chained and fxgrow.report(grown).certificate.verdict is Verdict.PROVED


class Typed(nn.Module):
    """Makes a mask of Python's own type, and puts in what is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        keep = torch.ones((h.shape[1], h.shape[1]), device=h.device, dtype=bool).tril()
        h = self.last(h.masked_fill(~keep.any(1)[:, None], 0))
        return torch.where(torch.isfinite(h), h, torch.tensor(float("nan"), dtype=x.dtype, device=x.device))


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_types_of_python_and_numbers_that_are_none_are_kept(form: str) -> None:
    model, x = Typed().double(), torch.randn(2, 5, 4).double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=x, form=form)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    torch.testing.assert_close(grown(x), model(x), rtol=0, atol=1e-14)


class Early(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Branched(8, 12) for _ in range(2)))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, share: float = 0.0) -> torch.Tensor:
        return self.head(x if share == 1 else self.blocks(x))


def test_a_number_that_an_argument_has_at_first_is_that_number_where_a_graph_runs_again() -> None:
    grown = fxgrow.grow(Early().double(), depth=2, form="graph", example_inputs=torch.randn(2, 8).double())
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    fxgrow.grow(grown, width=1.5, example_inputs=torch.randn(2, 8).double())


class Signed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0]


class Applying(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(Signed.apply(self.first(x)))


@pytest.mark.parametrize("training", [True, False])
def test_what_capture_puts_in_is_in_the_mode_of_the_model(training: bool) -> None:
    model, x = Applying().double().train(training), torch.randn(2, 4).double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=x)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_shapes_that_change_in_place(form: str) -> None:
    def between(self: Any, h: Tensor) -> Tensor:
        first = h.view(h.shape)
        h.unsqueeze_(1).transpose_(1, -1)
        h.squeeze_(-1)
        return first.relu() + h.mT.sigmoid() * h.mean(1).unsqueeze_(-1)

    model = model_of(between)
    grown: Any = fxgrow.grow(model, 2, example_inputs=X, form=form)
    assert grown.enter.out_features == 16 and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    torch.testing.assert_close(grown(X), model(X), rtol=EXACT, atol=EXACT)


def test_an_input_whose_shape_changes_in_place() -> None:
    class Batched(Between):
        def forward(self, x: Tensor) -> Any:
            x.unsqueeze_(0)
            return super().forward(x)

    model = Batched().double()
    grown = fxgrow.grow(model, 2, example_inputs=normal(5, 6))
    x = normal(5, 6)
    torch.testing.assert_close(grown(x), model(normal(5, 6)), rtol=EXACT, atol=EXACT)
    assert x.shape == (1, 5, 6)
    with pytest.raises(FxgrowError, match="a graph cannot keep that an input or a weight gets another shape in place"):
        fxgrow.grow(model, 2, example_inputs=normal(5, 6), form="graph")


@pytest.mark.parametrize(
    ("was_here", "leaves"),
    [
        (lambda m: "count" in vars(m), lambda m: setattr(m, "count", 1)),
        (lambda m: len(m.box["seen"]) > 0, lambda m: m.box["seen"].append(1)),
        (lambda m: len(m._modules) > 2, lambda m: m.add_module("further", nn.Identity())),
        (lambda m: len(m.enter._forward_hooks) > 0, lambda m: m.enter.register_forward_hook(lambda *_: None)),
        (lambda m: not hasattr(m, "once"), lambda m: delattr(m, "once")),
        (lambda m: m.leave.in_features < 0, lambda m: setattr(m.leave, "in_features", -1)),
    ],
    ids=["attribute", "list", "part", "hook", "deleted", "number"],
)
def test_each_record_is_of_the_model_as_it_was_before(
    was_here: Callable[[Any], bool], leaves: Callable[[Any], Any]
) -> None:
    def between(self: Any, h: Tensor) -> Tensor:
        if was_here(self):
            return h.relu()
        leaves(self)
        return h

    model: Any = model_of(between)
    model.box, model.once = {"seen": []}, True
    recording = Recording(skeleton(model), torch.device("cpu"))
    for _ in range(3):
        assert "relu" not in str(recording.record("eval", ((X,), {})).graph)


def test_a_model_that_a_run_leaves_as_it_was_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Any] = []
    monkeypatch.setattr("fxgrow.capture.recording.twin_of", lambda *a, **k: copied.append(0) or twin_of(*a, **k))
    recording = Recording(skeleton(model_of(by_rank)), torch.device("cpu"))
    graphs = [recording.record(mode, ((X,), {})).graph for mode in ("eval", "train", "eval")]
    assert str(graphs[0]) == str(graphs[1]) == str(graphs[2]) and len(copied) == 1
