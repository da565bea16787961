"""What people call on timm models, called on grown ones: one of each family."""

from __future__ import annotations

import pytest
from fxgrow.zoo.choice import chosen

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
