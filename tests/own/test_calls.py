"""Calls with other values of arguments than at capture: the model's own class makes them all, or does not come back."""

from __future__ import annotations

import copy
import enum
import itertools
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import nn

import fxgrow
from fxgrow.capture.arguments import other_values
from fxgrow.errors import SettledError
from fxgrow.own import calls
from fxgrow.proof.certificate import Verdict
from tests.pairing import slow


class Tasks(nn.Module):
    """A body that is read by a head for each task, one of them normalised and with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.heads = nn.ModuleDict({"depth": nn.Linear(16, 3), "normals": self._deep()})
        self.adapters = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    @staticmethod
    def _deep() -> nn.Module:
        return nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))

    def features(self, x: torch.Tensor, domain: int) -> torch.Tensor:
        return self.adapters[domain](self.body(x).relu()).tanh()

    def forward(self, x: torch.Tensor, task: str = "depth", domain: int = 0, embed: bool = False) -> Any:
        h = self.features(x, domain)
        return h if embed else self.heads[task](h)


class Pooled(nn.Module):
    """Classes, or a mean over units that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.sizes = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 2)
        self.project, self.log = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3)), list[Any]()

    def forward(self, x: torch.Tensor, how: str = "classes", mask: Any = None) -> Any:
        h = self.enter(x).relu()
        h = h + x.new_zeros(x.shape[0], 16) if mask is None else h * mask.mean()
        if how == "mean":
            return h.mean(-1)
        match how:
            case "sizes":
                return self.sizes(h)
        return self.leave(h)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        return self.enter(x).relu().std(-1)

    def projected(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.enter(x).relu())

    @torch.no_grad()
    def predicted(self, x: torch.Tensor) -> torch.Tensor:
        return self(x).argmax(-1)

    def logged(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(x)
        return self.enter(x).mean(-1)


def moved(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def apart(model: nn.Module, grown: nn.Module, *call: Any, **named: Any) -> float:
    with torch.no_grad():
        before, after = model(*call, **named), grown(*call, **named)
    return float((before - after).abs().max() / before.abs().max())


def carried(grown: nn.Module, model: nn.Module, x: torch.Tensor, folder: Any) -> list[Any]:
    """What a file, further growth, a plan from JSON, a copy and a pickle make of a grown model, in this order."""
    fxgrow.save(grown, folder / "grown.safetensors")
    loaded = fxgrow.load(folder / "grown.safetensors", type(model)().double())
    further = fxgrow.grow(grown, 1.5, example_inputs=x, verify=False)
    plan = fxgrow.Plan.from_json(fxgrow.report(grown).plan.to_json())
    return [loaded, further, plan.apply(model, verify=False), copy.deepcopy(grown), pickle.loads(pickle.dumps(grown))]


CALLS = [(task, domain) for task in ("depth", "normals") for domain in (0, 1)]


@pytest.mark.parametrize(
    "how", [{}, slow({"init": "mirror"}), slow({"init": "mirror", "parameterization": "variance-transfer"})], ids=str
)
def test_heads_that_other_calls_read_grow_along(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = moved(Tasks()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x, **how)
    assert type(grown) is Tasks and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert [course.calls for course in fxgrow.report(grown).plan.courses] == [("task='normals'",), ("domain=1",)]
    assert fxgrow.report(grown).plan.calls == ("embed=True",)
    for call in CALLS:
        assert apart(model, grown, x, *call) < 1e-12
    assert grown(x, embed=True).shape == (5, 32)
    hidden = grown.get_submodule("heads.normals.1")
    assert hidden.weight.shape == (24, 32) and fxgrow.births(grown)["heads.normals.1.weight"].axes[0].count(1) == 12


def test_they_are_kept_by_files_plans_and_further_growth(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = moved(Tasks()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    loaded, *others = carried(grown, model, x, tmp_path)
    for other in (loaded, *others, fxgrow.grow(loaded, 1.5, example_inputs=x)):
        assert type(other) is Tasks
        for call in CALLS:
            assert apart(model, other, x, *call) < 1e-12
    assert fxgrow.certify(loaded, model).verdict is Verdict.PROVED
    with torch.no_grad():
        loaded.get_submodule("heads.normals.3").weight[0, 0] += 1  # what only another call reads
    assert fxgrow.certify(loaded, model).verdict is Verdict.REFUTED


def test_a_call_that_needs_it_otherwise_is_refused_by_name(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = moved(Pooled()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    for other in (grown, *carried(grown, model, x, tmp_path)):
        assert isinstance(other, Pooled)
        assert apart(model, other, x) < 1e-12 and apart(model, other, x, "sizes") < 1e-12
        with pytest.raises(SettledError, match="how is 'mean', for which the model did not grow"):
            other(x, "mean")
        with pytest.raises(SettledError, match=r"calls of spread: .* enter.weight would grow otherwise"):
            other.spread(x)
    assert "refused: how other than 'classes' or 'sizes', calls of spread" in str(fxgrow.report(grown).certificate)
    assert "refuses how other than 'classes' or 'sizes'" in str(fxgrow.report(grown).plan)


def test_a_default_with_sizes_of_its_own_is_refused_where_it_was_called_with_something_else() -> None:
    torch.manual_seed(0)
    model, x = moved(Pooled()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs={"x": x, "mask": torch.ones(3)})
    assert apart(model, grown, x, mask=torch.ones(3).double()) < 1e-12
    with pytest.raises(SettledError, match="mask is None"):
        grown(x)


def test_methods_that_the_forward_does_not_call_grow_along() -> None:
    torch.manual_seed(0)
    model, x = moved(Pooled()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert ("projected(x)",) in [course.calls for course in fxgrow.report(grown).plan.courses]
    with torch.no_grad():
        assert (model.projected(x) - grown.projected(x)).abs().max() < 1e-12
        assert torch.equal(grown.predicted(x), model.predicted(x))
    assert grown.get_submodule("project.0").core == ((0, 16),)
    assert grown.log == [] and model.log == []  # a method that does more than compute was not run


def drawn(x: torch.Tensor) -> None:
    print("drawn", x.shape)


class Drawing(nn.Module):
    """Does more than compute where it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, draw: bool = False) -> torch.Tensor:
        h = self.enter(x).relu()
        if draw:
            drawn(h)
        return self.leave(h)


def test_code_that_does_more_than_compute_is_not_run_for_the_sake_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, x = moved(Drawing()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert "drawn" not in capsys.readouterr().out
    assert fxgrow.report(grown).plan.courses == () and apart(model, grown, x, draw=True) < 1e-12


class Losing(nn.Module):
    """Leaves a loss over units that grow, and a feature, in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.spread, self.feature = nn.Linear(8, 16), nn.Linear(16, 4), None, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.feature = self.enter(x).sigmoid()
        self.spread = self.feature.mean()
        return self.leave(self.feature)


def test_what_a_forward_leaves_in_attributes_stays() -> None:
    torch.manual_seed(0)
    model, x = moved(Losing()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert apart(model, grown, x) < 1e-12 and isinstance(grown, Losing)
    assert float((model.spread - grown.spread).abs()) < 1e-12 and grown.feature.shape == (5, 32)
    plan = fxgrow.report(grown).plan
    assert [course.calls for course in plan.courses] == [("what it leaves in spread",)]
    assert plan.calls == ("what it leaves in feature",)
    assert "proved as well: what it leaves in spread" in str(fxgrow.report(grown).certificate)


class Kind(enum.Enum):
    PLAIN = 1
    SOFT = 2


class Keywords(nn.Module):
    """Asks for what is not in its signature, for members of an Enum, for numbers and for what is in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, kind: Kind = Kind.PLAIN, power: float = 0.0, **options: Any) -> torch.Tensor:
        h = self.enter(x)
        if power > 0.5 or options.get("mean", False) or "spread" in options:
            return h.mean(-1) ** 2
        return self.leave(h.softmax(-1) if kind is Kind.SOFT else h.relu())


@pytest.mark.parametrize(
    "call",
    [slow({"kind": Kind.SOFT}), {"power": 0.7}, slow({"mean": True}), {"spread": True}],
    ids=lambda call: next(iter(call)),
)
def test_however_a_forward_asks(call: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = moved(Keywords()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert isinstance(grown, Keywords) and apart(model, grown, x) < 1e-12
    assert apart(model, grown, x, Kind.PLAIN, 0.0, mean=False) < 1e-12
    with pytest.raises(SettledError, match=f"^{next(iter(call))} is "):
        grown(x, **call)


def test_flags_of_the_calls_inside_are_no_course_of_their_own() -> None:
    model = timm.create_model("test_vit")
    assert ("is_causal", True) in list(other_values(model, ((torch.empty(1, 3, 160, 160),), {})))
    assert fxgrow.plan(model, 1.5).courses == ()


class Trained(Pooled):
    """Has a loss where it is given labels, takes a mask of positions, and reads classes to condition on."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.times = nn.Embedding(5, 16), nn.Linear(6, 16)

    def forward(
        self, x: torch.Tensor, labels: Any = None, mask: Any = None, seen: torch.Tensor | None = None, time: Any = None
    ) -> Any:
        h = self.enter(x).relu()
        if mask is not None:
            h = h * mask[..., None] / (1 + h.mean(-1, keepdim=True))
        if seen is not None:
            h = h + self.classes(seen)[:, None]
        if time is not None:
            h = h * self.times(time)[:, None]
        y = self.leave(h.mean(1))
        return y if labels is None else nn.functional.cross_entropy(y, labels) + 0.1 * h.pow(2).mean()


@pytest.mark.parametrize("init", ["zero", "mirror"])
def test_tensors_in_place_of_none_are_looked_at(init: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = moved(Trained()), torch.randn(3, 4, 8, dtype=torch.float64)
    calls = {
        "labels": torch.tensor([0, 3, 1]),
        "mask": torch.rand(3, 4) > 0.3,
        "seen": torch.tensor([4, 0, 1]),
        "time": torch.randn(3, 6, dtype=torch.float64),
    }
    grown = fxgrow.grow(model, 2, example_inputs=x, init=init)
    for other in (grown, *carried(grown, model, x, tmp_path)):
        assert isinstance(other, Trained) and apart(model, other, x) < 1e-12
        for name, value in calls.items():
            try:
                assert apart(model, other, x, **{name: value}) < 1e-12, name
            except SettledError as error:
                assert name == "mask" and "the class computes something else" in error.what, error
    assert grown.get_submodule("classes").weight.shape == (5, 32)


class Exits(nn.Module):
    """Leaves at the exit that it is told, or reads the prompt of a task."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)
        self.blocks, self.exits = (nn.ModuleList(nn.Linear(16, 16) for _ in range(2)) for _ in range(2))
        self.prompts = nn.ParameterDict({name: nn.Parameter(torch.randn(16)) for name in ("a", "b")})

    def forward(self, x, exit_at=None, task="a"):  # type: ignore[no-untyped-def]
        h = self.enter(x).relu() + self.prompts[task]
        for number, (block, leave) in enumerate(zip(self.blocks, self.exits, strict=True)):
            h = block(h).tanh()
            if exit_at == number:
                return self.leave(leave(h))
        return self.leave(h)


def test_exits_and_prompts_that_were_not_taken_grow_along() -> None:
    torch.manual_seed(0)
    model, x = moved(Exits()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    for call in ((), (0,), (1,), (None, "b")):
        assert apart(model, grown, x, *call) < 1e-12, call


class NormedExits(nn.Module):
    """A residual stream of normed blocks, with an exit behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.exits = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, 3) for _ in range(2))
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2))

    def forward(self, x, exit_at=None):  # type: ignore[no-untyped-def]
        x = self.enter(x)
        for number, (block, leave) in enumerate(zip(self.blocks, self.exits, strict=True)):
            x = x + block(x)
            if exit_at == number:
                return leave(x)
        return self.exits[-1](x)


@pytest.mark.parametrize("width", [1.5, 2])
def test_equal_pairs_may_be_means_where_another_exit_needs_means(width: float) -> None:
    torch.manual_seed(0)
    model, x = moved(NormedExits()), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, width, init="mirror", example_inputs=x)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert grown.exits[0].in_features == 8 * width
    for call in ((), (0,), (1,)):
        assert apart(model, grown, x, *call) < 1e-12, call


class Stream(nn.Module):
    """A residual stream of normed blocks that ends where it is told; its methods call it `this`."""

    def __init__(this) -> None:
        super().__init__()
        this.enter, this.leave = nn.Linear(8, 16), nn.Linear(16, 4)
        this.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(3)
        )
        this.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(2))

    def forward(this, x, stop=None, domain=0):  # type: ignore[no-untyped-def]
        x = this.norms[domain](this.enter(x))
        for number, block in enumerate(this.blocks):
            x = x + block(x)
            if number == stop:
                break
        return this.leave(x)


@pytest.mark.parametrize("stop", [None, 0])
def test_a_stream_that_ends_sooner_or_later_grows_as_the_longest_needs_it(stop: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = moved(Stream()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=(x, stop))
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    for other in (grown, *carried(grown, model, (x, stop), tmp_path)):
        before = copy.deepcopy(model)
        for call in ((None,), (0,), (1,), (2,), (0, 1)):
            for training in (False, True):
                assert apart(before.train(training), other.train(training), x, *call) < 1e-12, call


class Batches(nn.Module):
    """Takes its inputs in a dictionary, or as keywords; a mask makes it weigh units, a scale multiplies them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.scale = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(8, 16)

    def forward(self, batch: dict[str, torch.Tensor], **extra: Any) -> torch.Tensor:
        h = self.enter(batch["x"]).relu()
        if "mask" in batch:
            h = h.softmax(-1) * batch["mask"]
        if (beside := extra.get("beside")) is not None:
            h = h * self.scale(beside)
        return self.leave(h)  # type: ignore[no-any-return]


def test_keys_and_keywords_that_were_left_out_are_looked_at() -> None:
    torch.manual_seed(0)
    model, x = moved(Batches()), torch.randn(5, 4, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=({"x": x},))
    assert apart(model, grown, {"x": x}) < 1e-12 and apart(model, grown, {"x": x}, beside=x[:2, :1].mean() * x) < 1e-12
    with pytest.raises(SettledError, match="batch is a dictionary of 'mask', 'x', for which the model did not grow"):
        grown({"x": x, "mask": torch.ones(5, 4, 1)})


class Language(nn.Module):
    """Logits of the last token, or of all of them and the loss, by weights tied to the table (nanoGPT)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 9, bias=False)
        self.mix = nn.Linear(8, 8)
        self.table.weight = self.head.weight

    def forward(self, tokens: torch.Tensor, goals: torch.Tensor | None = None) -> Any:
        h = self.table(tokens)
        h = self.norm(h + self.mix(h).relu())
        if goals is None:
            return self.head(h[:, [-1], :]), None
        logits = self.head(h)
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), goals.flatten())


@pytest.mark.parametrize("inputs", [1, 2])
def test_tied_tensors_are_the_same_on_every_course(inputs: int) -> None:
    torch.manual_seed(0)
    model, tokens = Language().double(), torch.randint(0, 9, (2, 5))
    grown = fxgrow.grow(model, 2, example_inputs=(tokens,) * inputs)
    assert grown.head.weight is grown.table.weight and grown.head.weight.shape == (9, 16)
    for given in ((tokens,), (tokens, tokens)):
        for out, before in zip(grown(*given), model(*given), strict=True):
            assert (out is None and before is None) or torch.allclose(out, before, rtol=1e-12, atol=1e-12)


class Steps(nn.Module):
    """A recurrence in a loop over time, with a norm that is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.leave = nn.LSTMCell(3, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[1], 6)
        outs = []
        for step in x:
            h, c = self.cell(step, (h, c))
            outs.append(self.leave(nn.functional.layer_norm(h, h.shape[-1:])))
        return torch.stack(outs)


def test_calls_in_a_loop_are_changed_however_many_there_are() -> None:
    torch.manual_seed(0)
    model = Steps().double()
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(4, 2, 3, dtype=torch.float64))
    assert isinstance(grown, Steps)
    for steps, batch in ((4, 2), (1, 3), (9, 1)):
        x = torch.randn(steps, batch, 3, dtype=torch.float64)
        torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=1e-12)


class Together(nn.Module):
    """Two options, each of which lets units be their mean where they are alone; and two that one `if` asks for."""

    sharp = False

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Any, gate: Any = None, centred: bool = False, cut: bool = False, deep: bool = False) -> Any:
        h = self.enter(x)
        h = h if gate is None else h * self.enter(gate).sigmoid()
        h = h.exp() if self.sharp else h
        h = h - h.mean(-1, keepdim=True) if centred else h
        h = h.softmax(-1) if cut and deep else h
        return self.leave(h)


def test_values_of_two_arguments_are_right_together_or_refused_together(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = moved(Together()), torch.randn(5, 8, dtype=torch.float64)
    first = fxgrow.grow(model, 2, example_inputs=x)
    assert fxgrow.report(first).certificate.verdict is Verdict.PROVED
    for grown in (first, *carried(first, model, x, tmp_path)):
        for right in ({}, {"gate": x}, {"centred": True}, {"cut": True}, {"deep": True}, {"gate": x, "cut": True}):
            assert apart(model, grown, x, **right) < 1e-12, right
        with pytest.raises(SettledError, match="gate is a tensor beside centred=True, for which the model did not"):
            grown(x, gate=x, centred=True)
        with pytest.raises(SettledError, match="deep is True beside cut=True"):
            grown(x, cut=True, deep=True)
        sharp, model.sharp = copy.deepcopy(grown), True  # type: ignore[assignment]
        sharp.sharp = True  # type: ignore[assignment]
        assert apart(model, sharp, x) < 1e-12
        with pytest.raises(SettledError, match=r"Together.sharp is True beside centred=True"):
            sharp(x, centred=True)
        model.sharp = False  # type: ignore[assignment]
    assert "gate other than None beside centred=True" in str(fxgrow.report(first).certificate)


class Looked(Together):
    """Options that are looked for among the keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Any, **options: Any) -> Any:
        h = self.enter(x)
        h = self.norm(h) if options.get("normed", False) else h
        return self.leave(h.relu()), h.mean(-1) if options.get("features") else None


def test_values_of_two_keywords_are_refused_together() -> None:
    torch.manual_seed(0)
    model, x = moved(Looked()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    for right in ({}, {"normed": True}, {"features": True}, {"normed": False, "features": True}):
        torch.testing.assert_close(grown(x, **right), model(x, **right), rtol=1e-12, atol=1e-12)
    with pytest.raises(SettledError, match="features is True beside normed=True"):
        grown(x, normed=True, features=True)


class Four(nn.Module):
    """Options that do the same whichever others are on."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Any, a: bool = False, b: bool = False, c: bool = False, d: bool = False) -> Any:
        h = self.enter(x)
        h = h.sin() if a else h
        h = h.relu() if b else h
        h = 2 * h if c else h
        return self.leave(h.tanh() if d else h)


class Three(Four):
    """Options of which three do something else at once."""

    def forward(self, x: Any, a: bool = False, b: bool = False, c: bool = False, d: bool = False) -> Any:
        h = self.enter(x)
        h = h.softmax(-1) if a and b and c else h.sin() if a else h.relu() if b else 2 * h if c else h
        return self.leave(h.tanh() if d else h)


class Idle(Four):
    """Options no two of which do anything."""

    def forward(self, x: Any, a: bool = False, b: bool = False, c: bool = False, d: bool = False) -> Any:
        h = self.enter(x)
        return self.leave(h.softmax(-1) if a and b and c else h.tanh() if d else h)


@pytest.mark.parametrize("kind", [Three, Idle])
def test_values_of_three_arguments_are_refused_together_where_no_two_of_them_are(kind: type[Four]) -> None:
    torch.manual_seed(0)
    model, x = moved(kind()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    for right in ({"a": True, "b": True}, {"a": True, "c": True, "d": True}, {"a": True, "b": True, "d": True}):
        assert apart(model, grown, x, **right) < 1e-12, right
    with pytest.raises(SettledError, match=r"c is True beside b=True.*with a=True, b=True, c=True"):
        grown(x, a=True, b=True, c=True)


def test_values_that_make_the_calls_together_that_each_makes_alone_are_not_tried_by_threes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []
    plainly = calls._OtherCalls._tried
    monkeypatch.setattr(calls._OtherCalls, "_tried", lambda self, c: (tried.append(c.text), plainly(self, c))[1])
    model, x = moved(Four()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert {text for text in tried if text.count("=") > 2} == {"a=True, b=True, c=True, d=True"}
    for values in itertools.product((False, True), repeat=4):
        assert apart(model, grown, x, *values) < 1e-12


class Conditioned(nn.Module):
    """A condition that is given, or learned, or made of ones."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Sequential(nn.Linear(9, 12), nn.Tanh()), nn.Linear(12, 6)
        self.null = nn.Parameter(torch.randn(3)) if learned else None

    def forward(self, x: torch.Tensor, y: Any = None) -> Any:
        if y is None:
            y = x.new_ones(x.shape[0], 3) if self.null is None else self.null.expand(x.shape[0], -1)
        return self.leave(self.enter(torch.cat([x, y], -1)))


@pytest.mark.parametrize("learned", [True, False])
def test_a_condition_that_the_forward_makes_where_none_is_given_stays_or_is_refused(learned: bool) -> None:
    torch.manual_seed(0)
    model, x, y = moved(Conditioned(learned)), *torch.randn(2, 4, 6, dtype=torch.float64)
    y = y[:, :3]
    given = fxgrow.grow(model, 2, example_inputs=(x, y))
    assert type(given) is Conditioned and given.leave.weight.shape == (6, 24)
    assert apart(model, given, x) < 1e-12 and apart(model, given, x, y) < 1e-12
    left_out = fxgrow.grow(model, 2, example_inputs=x)
    assert apart(model, left_out, x) < 1e-12
    with pytest.raises(SettledError, match="y is a tensor, for which the model did not grow"):
        left_out(x, y)


def test_other_values_of_arguments_that_have_no_keyword() -> None:
    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor | None = None, centred: bool = False, /) -> Any:
            h = self.a(x).relu()
            h = h if y is None else h * self.a(y)
            return self.b(h - h.mean(-1, keepdim=True) if centred else h)

    model = Positional().double()
    x = torch.randn(2, 3, 8).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=x[0])
    assert grown.a.out_features == 32 and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    for call in ((x[0],), (x[0], x[1]), (x[0], None, True)):
        torch.testing.assert_close(grown(*call), model(*call), rtol=1e-12, atol=1e-12)
