"""What people call on timm models, called on grown ones: one of each family."""

from __future__ import annotations

import pytest
import torch
from fxgrow.zoo.choice import chosen
from torch import Tensor, nn

import fxgrow
from benchmarks.methods import findings
from fxgrow.errors import FxgrowError

QUICK = ("test_resnet",)
FAMILIES = [entry.name for entry in chosen("timm", at_most=12)]
PARAMETERS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in QUICK)]


@pytest.mark.parametrize("name", PARAMETERS)
def test_methods_of_its_class_do_what_they_did(name: str) -> None:
    try:
        answers = findings(name)
    except FxgrowError as error:
        if name in QUICK or "as a graph" not in error.what:
            raise
        pytest.skip(error.what)
    assert list(answers.values()).count("ok") > len(answers) // 2, answers
    wrong = {check: said for check, said in answers.items() if said not in ("ok", "-")}
    if "as a graph" in wrong.get("features", ""):  # the class of a whole may hold what that of its features cannot
        del wrong["features"]
    assert wrong == {}


class Autoencoder(nn.Module):
    """A variational autoencoder, whose `sample` reads how wide the latent is, and how wide the layers before it."""

    def __init__(self, latent: int = 24) -> None:
        super().__init__()
        self.latent, self.widths, self.classes = latent, [12, 10], 10
        self.encode = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 2 * latent))
        self.decode = nn.Sequential(nn.Linear(latent, 20), nn.ReLU(), nn.Linear(20, 12))

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.encode(x).chunk(2, -1)
        return self.decode(mean + torch.randn_like(mean) * deviation.exp())  # type: ignore[no-any-return]

    def sample(self, count: int) -> Tensor:
        return self.decode(torch.randn(count, self.latent))[:, : self.classes]  # type: ignore[no-any-return]

    def text(self) -> str:
        return f"{self.widths}"


def test_numbers_that_other_methods_read_follow() -> None:
    grown = fxgrow.grow(Autoencoder(), 1.5, example_inputs=torch.randn(3, 12))
    assert (grown.latent, grown.classes, grown.text()) == (36, 10, "[12, 10]")
    assert grown.sample(4).shape == (4, 10)
