"""Plans as pictures: SVG that any reader of XML takes, and that says what it shows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow import Plan
from fxgrow.catalogue import without_weights
from fxgrow.planning.picture import MOST
from fxgrow.planning.plan import Held
from tests.planning.test_outline import Block

SVG = "{http://www.w3.org/2000/svg}"


def small() -> Plan:
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    return fxgrow.plan(model, {"0": "=16"}, example_inputs=torch.randn(1, 4))


def drawn(plan: Plan) -> ElementTree.Element:
    return ElementTree.fromstring(plan.picture())


def titles(root: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in root.iter(f"{SVG}title")]


def words(root: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_bars_are_as_long_as_the_roots_of_sizes_and_what_is_new_is_lighter() -> None:
    bars = [
        [(float(rect.attrib["width"]), "fill-opacity" in rect.attrib) for rect in group.iter(f"{SVG}rect")]
        for group in drawn(small()).iter(f"{SVG}g")
        if (group.findtext(f"{SVG}title") or "").startswith("d0:")
    ]
    ((before, lighter),), ((same, _), (new, new_lighter)) = bars
    assert before == same and not lighter and new_lighter
    assert (before + new) / before == pytest.approx((16 / 9) ** 0.5, rel=1e-3)


def test_it_says_what_grows_and_what_stays_and_why() -> None:
    model = without_weights("timm/test_vit")
    root = drawn(fxgrow.plan(model, 2))
    assert {"64 → 128", "192 → 384"} <= set(words(root))
    assert "1,000 stays" in words(root)
    assert any("another factor of its axis grows" in title for title in titles(root))


def test_a_plan_from_json_gives_the_same_picture() -> None:
    plan = fxgrow.plan(without_weights("timm/test_resnet"), 1.5, 2)
    assert Plan.from_json(plan.to_json()).picture() == plan.picture()
    assert "× 1 → 2" in words(drawn(plan))
    assert sum("a new block" in title for title in titles(drawn(plan))) == 1


def test_of_a_long_run_some_blocks_are_left_out() -> None:
    model = nn.Sequential(*(Block(4, 8) for _ in range(MOST + 6)))
    root = drawn(fxgrow.plan(model, 2, example_inputs=torch.randn(2, 4)))
    assert words(root).count("⋮ 7 more") == 2
    assert f"× {MOST + 6}" in words(root)


def test_a_run_that_gets_no_more_blocks_says_why() -> None:
    model = nn.Sequential(OrderedDict(blocks=nn.Sequential(Block(4, 8), Block(4, 8)), head=nn.Linear(4, 2)))
    plan = fxgrow.plan(model, 2, example_inputs=torch.randn(2, 4))
    staying = Held(1, ("blocks",), "its blocks stay as many as they are: they are shared")
    root = drawn(replace(plan, held=(*plan.held, staying)))
    assert "× 2" in words(root)
    assert [pin.findtext(f"{SVG}title") for pin in root.iter(f"{SVG}circle")].count(staying.reason) == 1


def test_names_cannot_break_it() -> None:
    plan = replace(small(), model='<script>&"\x07')
    assert words(drawn(plan))[0] == '<script>&"'
    assert "<script" not in plan.picture()


def test_a_plan_that_grows_nothing_is_drawn() -> None:
    nothing = replace(small(), groups=(), held=(), tensors=())
    assert "nothing grows" in words(drawn(nothing))


def test_a_notebook_shows_the_picture_and_the_tables() -> None:
    html = small()._repr_html_()
    assert html.startswith("<svg") and html.count("<table>") == 1
    assert '<td style="text-align:right;white-space:nowrap">9 → 16</td>' in html
