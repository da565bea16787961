"""The passes, composed by hand, and what their checks find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fxgrow.transforms.passes as passes
import pytest
import timm
import torch
from fxgrow.transforms import deepen, named_tensors, tag, widen
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.capture import GrownGraphModule
from fxgrow.errors import PlanError
from fxgrow.growth.fingerprint import fingerprint
from fxgrow.planning.plan import Plan
from tests.models import lively

ROWS = torch.randn(2, 8)


class Residual(nn.Module):
    """A stream that is the output, so that it is read out when it grows; other noise in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.enter(x))
        return x + 0.1 * torch.randn_like(x) if self.training else x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(self.norm(x))))


class Functional(Block):
    """A block whose norm is a function in its forward, which a graph module makes a module."""

    def forward(self, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(x, (x.shape[-1],), self.norm.weight, self.norm.bias)
        return x + self.b(torch.relu(self.a(normed)))


def composed(model: nn.Module, plan: Plan, seed: int = 0) -> GrownGraphModule:
    return tag(widen(deepen(model, plan), plan, named_tensors(model), seed), plan, seed)


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two grown modules have the same graphs, modules, entries and births, and grew by the same plans."""
    births = fxgrow.births(first) == fxgrow.births(second)
    plans = fxgrow.report(first).plan == fxgrow.report(second).plan
    return births and plans and fingerprint(first) == fingerprint(second)


MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "readout": (Residual, {"width": 1.5}),
    "deeper": (Residual, {"width": {"blocks.*": 2}, "depth": "+1", "init": "mirror"}),
    "norms": (lambda: nn.Sequential(nn.Linear(8, 8), Functional(), Functional(), nn.Linear(8, 2)), {"width": 1.5}),
    "multipliers": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), {"width": 2}),
    "dense": (lambda: timm.create_model("densenet121"), {"width": 1.5, "depth": {"features.denseblock1": "+1"}}),
}


@pytest.mark.parametrize("name", [*list(MODELS)[:4], pytest.param("dense", marks=pytest.mark.slow)])
def test_the_passes_give_what_grow_gives(name: str) -> None:
    make, how = MODELS[name]
    torch.manual_seed(0)
    model = lively(make()).eval()
    inputs = torch.randn(1, 3, 64, 64) if name == "dense" else ROWS
    if name == "multipliers":
        how = {**how, "parameterization": "variance-transfer"}
    for _ in range(2):
        before = fingerprint(model)
        plan = fxgrow.plan(model, example_inputs=inputs, form="graph", **how)
        grown = composed(model, plan, seed=3)
        assert same(grown, fxgrow.grow(model, example_inputs=inputs, form="graph", seed=3, verify=False, **how))
        assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
        assert fingerprint(model) == before
        model, how = grown, {"width": "+2", "parameterization": how.get("parameterization")}


def test_a_fingerprint_is_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no addresses of functions, also where norms are guarded."""
    grown = fxgrow.grow(lively(timm.create_model("test_vit")), 1.5, init="replicate", verify=False)
    monkeypatch.setattr("fxgrow.growth.fingerprint._hash", str)
    text = fingerprint(grown)["modules"]
    assert "CallEdit" in text
    assert " at 0x" not in text


def test_a_plan_for_the_models_own_class_gives_the_graph_of_that_growth() -> None:
    model = lively(Residual()).eval()
    plan = fxgrow.plan(model, 1.5, example_inputs=ROWS)
    assert plan.form == "module"
    grown, own = composed(model, plan), plan.apply(model)
    assert isinstance(grown, GrownGraphModule)
    assert fxgrow.report(grown).plan.form == "graph"
    assert {name: tensor.tolist() for name, tensor in grown.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in own.state_dict().items()
    }


def test_no_pass_but_the_last_touches_what_it_is_given() -> None:
    model = lively(Residual())
    plan = fxgrow.plan(model, 1.5, 1.5, example_inputs=ROWS, form="graph")
    deep = deepen(model, plan)
    assert all(parameter.is_meta for parameter in deep.parameters())
    before = [str(graph) for graph in deep.graphs().values()], [p.shape for p in deep.parameters()]
    wide = [widen(deep, plan, named_tensors(model), seed=seed) for seed in (1, 1, 2)]
    assert before == ([str(graph) for graph in deep.graphs().values()], [p.shape for p in deep.parameters()])
    prints = [fingerprint(module) for module in wide]
    assert prints[0] == prints[1] != prints[2]
    assert deepen(deep, replace(plan, depth=None, readouts=(), nodes=(), tensors=())).code == deep.code


def broken(gm: Any, *rest: Any, **options: Any) -> Any:
    """The graph of a pass, one call of which is given too few arguments."""
    node = next(node for node in gm.graph.nodes if node.target == "enter")
    node.args = ()
    return gm


def out_of_order(gm: Any, *rest: Any, **options: Any) -> Any:
    """The same, with a node behind one that reads it."""
    nodes = list(gm.graph.nodes)
    nodes[-2].append(next(node for node in nodes if node.target == "enter"))
    return gm


def shorter(gm: Any, *rest: Any, **options: Any) -> Any:
    """The same, with fewer outputs."""
    (output,) = (node for node in gm.graph.nodes if node.op == "output")
    with gm.graph.inserting_before(output):
        output.args = (gm.graph.call_method("narrow", (output.args[0], 1, 0, 3)),)
    return gm


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (broken, "{}: it left a graph that does not run: Linear fails on inputs of shapes []"),
        (out_of_order, "{}: it left a graph that does not run: "),
        (shorter, "{}: outputs are [[2, 3]], they were [[2, 8]] (at output)"),
    ],
)
def test_a_pass_that_leaves_a_broken_graph_is_named(fault: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(Residual()).eval()
    plan = fxgrow.plan(model, 1.5, example_inputs=ROWS, form="graph")
    deep = deepen(model, plan)
    with monkeypatch.context() as patch:
        assembled, widened = passes.assemble, passes.widened
        patch.setattr(passes, "assemble", lambda *args, **options: fault(assembled(*args, **options)))
        patch.setattr(passes, "widened", lambda *args, **options: fault(widened(*args, **options)))
        with pytest.raises(PlanError) as caught:
            widen(deep, plan, named_tensors(model))
        assert str(caught.value).startswith(text.format("widen"))
        with pytest.raises(PlanError) as caught:
            deepen(model, plan)
        assert str(caught.value).startswith(text.format("deepen"))
    if fault is broken:
        assert caught.value.where == "enter"
    assert same(composed(model, plan), fxgrow.grow(model, 1.5, example_inputs=ROWS, form="graph"))


def test_what_a_pass_cannot_do_is_refused() -> None:
    model = lively(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    plan = fxgrow.plan(model, 2, example_inputs=ROWS)
    deep = deepen(model, plan)
    stranger = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    told = {}
    for name, wrong in {
        "another model": lambda: deepen(stranger, plan),
        "no tensors": lambda: widen(deep, plan, {}),
        "widened twice": lambda: widen(widen(deep, plan, named_tensors(model)), plan, named_tensors(model)),
        "not deepened": lambda: widen(fxgrow.grow(stranger, 4 / 3, example_inputs=ROWS, form="graph"), plan, {}),
        "not widened": lambda: tag(deep, plan),
    }.items():
        with pytest.raises(PlanError) as caught:
            wrong()
        told[name] = str(caught.value)
    assert told == {
        "another model": "deepen: the plan grows a tensor of shape [8, 8], here it has [6, 8] (at 0.weight): apply a "
        "plan to the model it was made for",
        "no tensors": "widen: the plan grows a tensor that the model does not have (at 0.bias): apply a plan to the "
        "model it was made for",
        "widened twice": "widen: the plan grows a tensor of shape [8, 8], here it has [16, 8] (at 0.weight): apply a "
        "plan to the model it was made for",
        "not deepened": "widen: it is not known what its nodes give (at Sequential): deepen it first",
        "not widened": "tag: the plan promises a tensor of shape [16, 8], here it has [8, 8] (at 0.weight): "
        "pass what the pass before gave for this plan",
    }


def test_what_is_no_plan_and_no_graph_is_refused() -> None:
    plan = fxgrow.plan(lively(Residual()), 1.5, example_inputs=ROWS)
    with pytest.raises(PlanError, match=r"^deepen: dict is no plan: pass what fxgrow\.plan returned$"):
        deepen(Residual(), {})  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"^widen: it is no graph of fxgrow's \(at Residual\): deepen it first$"):
        widen(Residual(), plan, {})  # type: ignore[arg-type]


def test_no_pass_chooses_units_by_a_loss() -> None:
    plan = fxgrow.plan(lively(Residual()), 1.5, init="gradmax", example_inputs=ROWS)
    with pytest.raises(PlanError, match=r"^deepen: a loss chooses the new units of the plan, and no pass does: "):
        deepen(Residual(), plan)


def test_a_model_that_grows_in_parts_has_no_graph_to_pass_on() -> None:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 1e9:
                raise ValueError
            out: Tensor = self.part(x)
            return out

    model = lively(Guarded())
    plan = fxgrow.plan(model, 2, example_inputs=ROWS)
    with pytest.raises(PlanError, match=r"^deepen: the plan grows a model in parts, and a pass takes one graph: pass"):
        deepen(model, plan)
    ((path, part),) = plan.parts
    assert isinstance(composed(model.get_submodule(path), part), fx.GraphModule)
