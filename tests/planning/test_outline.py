"""The parts of a model, read off a plan alone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

import fxgrow
from fxgrow import Plan
from fxgrow.catalogue import without_weights
from fxgrow.planning.outline import Section, outline


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter, self.leave = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(torch.relu(self.enter(self.norm(x))))


def staged() -> nn.Module:
    """Stages of blocks, numbered as the blocks in them are."""
    stages = nn.Sequential(
        nn.Sequential(OrderedDict(blocks=nn.Sequential(Block(8, 16), Block(8, 16)))),
        nn.Sequential(OrderedDict(wider=nn.Linear(8, 12), blocks=nn.Sequential(*(Block(12, 24) for _ in range(3))))),
    )
    return nn.Sequential(OrderedDict(stem=nn.Linear(4, 8), stages=stages, head=nn.Linear(12, 5)))


def planned(model: nn.Module, width: Any = None, depth: Any = None, inputs: Any = None) -> tuple[Section, ...]:
    plan = fxgrow.plan(model, width, depth, example_inputs=inputs)
    return outline(Plan.from_json(plan.to_json()))


def paths(sections: tuple[Section, ...]) -> list[str]:
    return [section.path for section in sections]


def sizes(section: Section, box: int = 0) -> list[tuple[int, int]]:
    return [(dimension.old, dimension.new) for dimension in section.boxes[box].dimensions]


def test_layers_of_a_chain_are_sections_and_a_norm_belongs_to_the_layer_before_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
    sections = planned(model, 2, inputs=torch.randn(1, 3, 8, 8))
    assert paths(sections) == ["0, 1", "3"]
    assert [sizes(section) for section in sections] == [[(8, 16)], [(6, 6)]]
    assert sections[1].boxes[0].dimensions[0].group == ""


def test_a_layer_that_adds_to_what_another_makes_is_a_section_of_its_own() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.more, self.leave = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            stream = self.enter(x)
            return self.leave(stream + self.more(torch.relu(stream)))

    sections = planned(Residual(), 2, inputs=torch.randn(2, 4))
    assert paths(sections) == ["enter", "more", "leave"]
    assert sections[0].boxes[0].dimensions == sections[1].boxes[0].dimensions


def test_runs_of_blocks_are_found_inside_stages() -> None:
    sections = planned(staged(), 1.5, inputs=torch.randn(2, 4))
    assert paths(sections) == ["stem", "stages.0.blocks", "stages.1.wider", "stages.1.blocks", "head"]
    assert [(section.is_run, len(section.boxes)) for section in sections] == [
        *((False, 1), (True, 2), (False, 1), (True, 3), (False, 1))
    ]
    assert sizes(sections[3]) == [(24, 36), (12, 18)]


def test_stages_that_are_alike_are_stages_where_depth_says_which_runs_grow() -> None:
    def stage() -> nn.Module:
        return nn.Sequential(OrderedDict(down=nn.Linear(8, 8), blocks=nn.Sequential(Block(8, 16), Block(8, 16))))

    sections = planned(nn.Sequential(stage(), stage()), depth=1.5, inputs=torch.randn(2, 8))
    assert paths(sections) == ["0.blocks", "1.blocks"]
    assert [(len(section.old), len(section.boxes)) for section in sections] == [(2, 3)] * 2
    assert not any(box.dimensions for section in sections for box in section.boxes)


def test_new_blocks_are_known_as_such_and_stand_in_their_places() -> None:
    sections = planned(staged(), 1.5, 1.5, inputs=torch.randn(2, 4))
    runs = [section for section in sections if section.is_run]
    assert [(len(section.old), len(section.boxes)) for section in runs] == [(2, 3), (3, 5)]
    assert [box.path for box in runs[0].boxes] == ["stages.0.blocks.0", "stages.0.blocks.1", "stages.0.blocks.2"]
    assert [box.new for box in runs[0].boxes] == [False, False, True]
    assert sizes(runs[0], 2) == [(16, 24), (8, 12)]


def test_a_part_that_does_not_grow_is_there_with_the_reason() -> None:
    sections = planned(staged(), {"stages.1": 1.5}, inputs=torch.randn(2, 4))
    assert paths(sections)[:2] == ["stem", "stages.0.blocks"]
    assert [dimension.said for dimension in sections[0].boxes[0].dimensions] == ["8 stays: no amount was asked for it"]
    assert sorted(sizes(sections[1])) == [(8, 8), (16, 16)]


def test_heads_are_drawn_as_wide_as_their_layer_and_what_stays_of_its_axis_is_noted() -> None:
    (blocks,) = (section for section in planned(without_weights("timm/test_vit"), 2) if section.is_run)
    box = blocks.boxes[0]
    assert sizes(blocks) == [(192, 384), (64, 128), (192, 384)]
    assert box.stays[-1] == "32 stays: another factor of its axis grows"


def test_parts_of_a_model_that_grows_in_parts_have_their_paths() -> None:
    class InParts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) if float(x.sum()) < 1e9 else x

    sections = planned(InParts(), 2, inputs=torch.randn(2, 4))
    assert paths(sections) == ["body"]
    assert [box.path for box in sections[0].boxes] == ["body.0", "body.2", "body.4"]
