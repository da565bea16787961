"""The tree of a certificate: verdicts, printing, JSON."""

from __future__ import annotations

import pytest

from fxgrow.errors import FxgrowError
from fxgrow.proof.certificate import Certificate, Verdict

PROVED = Certificate("a is old", "values", ("all entries are the original's",))
UNKNOWN = Certificate("b is old", "linear", (), Verdict.UNKNOWN, "no rule")
REFUTED = Certificate("c is old", "linear", (), Verdict.REFUTED, "w[0] is 1")


def test_a_tree_is_as_good_as_its_weakest_child() -> None:
    assert Certificate.of("all", [PROVED, PROVED]).verdict is Verdict.PROVED
    assert Certificate.of("all", [PROVED, UNKNOWN]).verdict is Verdict.UNKNOWN
    assert Certificate.of("all", [Certificate.of("some", [REFUTED]), UNKNOWN]).verdict is Verdict.REFUTED
    assert Certificate.of("all", [PROVED, Certificate.of("some", [UNKNOWN])]).weakest == UNKNOWN


def test_verdicts_are_words_in_order() -> None:
    assert [str(v) for v in sorted(Verdict)] == ["REFUTED", "UNKNOWN", "TESTED", "PROVED"]


def test_a_run_of_the_whole_stands_for_what_is_not_proved() -> None:
    tested = Certificate.of("all", [PROVED, UNKNOWN]).tested("error 1e-16")
    assert tested.verdict is Verdict.TESTED
    assert tested.children[1].detail == "error 1e-16; no proof: no rule"
    assert Certificate.of("all", [REFUTED]).tested("error 1e-16").verdict is Verdict.REFUTED


def test_printing_folds_what_is_proved_and_opens_what_is_not() -> None:
    proved = Certificate.of("part", [PROVED, PROVED])
    assert str(Certificate.of("all", [proved])) == "PROVED  all\n└── PROVED  part … 2 steps"
    assert str(Certificate.of("all", [proved, Certificate.of("rest", [PROVED, UNKNOWN])])) == (
        "UNKNOWN  all\n└── UNKNOWN  rest\n    └── UNKNOWN  b is old [linear]\n        └── no rule"
    )
    assert "all entries are the original's" in Certificate.of("all", [proved]).expanded()


def test_json_and_back() -> None:
    tree = Certificate.of("all", [PROVED, Certificate.of("some", [UNKNOWN])], "record")
    assert Certificate.from_json(tree.to_json()) == tree
    with pytest.raises(FxgrowError) as error:
        Certificate.from_json("[]")
    assert str(error.value) == (
        "the text is not a certificate: list indices must be integers or slices, not str: "
        "pass what Certificate.to_json() wrote"
    )


def test_a_notebook_shows_what_is_not_proved_opened() -> None:
    html = Certificate.of("a < b", [UNKNOWN])._repr_html_()
    assert html.startswith("<details open") and "a &lt; b" in html
