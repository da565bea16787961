"""Amounts to grow by: reading them, applying them, and choosing the one that covers a module."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxgrow
from fxgrow.amounts import Amount, Amounts, covers, parse_command_line, specificity
from fxgrow.errors import AmountError

unhurried = settings(deadline=None)

SHRINK_REMEDY = 'pass a factor of at least 1 such as 1.5, or a string such as "+32" (32 more) or "=96" (exactly 96)'
PART_REMEDY = 'name a part, as in {"layer3": 2.0}'
PATHS = ["stem", "layer3", "layer3.0", "layer3.0.conv1", "layer4", "layer4.0", "layer4.0.conv2", "fc"]

names = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)
module_paths = st.lists(names, min_size=1, max_size=5).map(".".join)
sizes = st.integers(1, 100_000)
counts = st.integers(0, 100_000)
factors = st.floats(1, 1000)
amount_texts = st.one_of(factors.map(repr), counts.map("+{}".format), counts.map("={}".format))


def amounts(**by_key: float | str) -> Amounts:
    return Amounts.parse(by_key)


# -- one amount --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_amount", "kind", "value"),
    [
        (1, "factor", 1.0),
        (2, "factor", 2.0),
        (1.5, "factor", 1.5),
        ("2", "factor", 2.0),
        (" 1.5 ", "factor", 1.5),
        ("1e2", "factor", 100.0),
        ("+32", "add", 32),
        ("+0", "add", 0),
        (" + 32 ", "add", 32),
        ("=96", "exact", 96),
        ("= 96", "exact", 96),
    ],
)
def test_parse_reads_factors_additions_and_exact_sizes(given_amount: float | str, kind: str, value: float) -> None:
    amount = Amount.parse(given_amount)
    assert (amount.kind, amount.value) == (kind, value)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "=",
        "+",
        "wide",
        "+-3",
        "=1.5",
        "==96",
        "32+",
        "x2",
        "nan",
        "inf",
        "1e400",
        None,
        True,
        False,
        [],
        [2],
        (1.5,),
    ],
    ids=repr,
)
def test_parse_refuses_what_is_not_an_amount(wrong: Any) -> None:
    with pytest.raises(AmountError) as caught:
        Amount.parse(wrong, "layer3")
    assert str(caught.value) == f"{wrong!r} is not an amount to grow by (at layer3): {SHRINK_REMEDY}"


@pytest.mark.parametrize("wrong", [{2}, b"2", 1j, float("nan"), float("inf"), float("-inf")], ids=repr)
def test_parse_refuses_what_is_not_a_finite_number(wrong: Any) -> None:
    with pytest.raises(AmountError) as caught:
        Amount.parse(wrong)
    assert str(caught.value) == f"{wrong!r} is not an amount to grow by: {SHRINK_REMEDY}"


@pytest.mark.parametrize("wrong", ["+1.5", "+32.0", "+1e2"])
def test_parse_refuses_to_add_what_is_not_a_whole_number(wrong: str) -> None:
    with pytest.raises(AmountError) as caught:
        Amount.parse(wrong)
    assert str(caught.value) == f"{wrong!r} is not an amount to grow by: {SHRINK_REMEDY}"


@pytest.mark.parametrize(
    ("wrong", "shown"), [(0, "0"), (0.5, "0.5"), (-1, "-1"), ("0.99", "0.99"), ("-3", "-3"), ("0", "0")]
)
def test_parse_refuses_factors_that_would_shrink(wrong: float | str, shown: str) -> None:
    with pytest.raises(AmountError) as caught:
        Amount.parse(wrong)
    assert str(caught.value) == f"a factor of {shown} would shrink the model: {SHRINK_REMEDY}"


@pytest.mark.parametrize(
    ("given_amount", "size", "target"),
    [(1, 64, 64), (1.5, 64, 96), (1.25, 3, 3.75), ("+32", 64, 96), ("+0", 64, 64), ("=96", 64, 96), ("=64", 64, 64)],
)
def test_apply_gives_the_size_before_rounding(given_amount: float | str, size: int, target: float) -> None:
    assert Amount.parse(given_amount).apply(size) == target


def test_apply_refuses_an_exact_size_below_the_present_one() -> None:
    with pytest.raises(AmountError) as caught:
        Amount.parse("=63").apply(64)
    assert str(caught.value) == (
        f"exactly 63 units were asked for, which is fewer than the 64 there are: {SHRINK_REMEDY}"
    )


@unhurried
@given(amount_texts, sizes)
def test_apply_never_shrinks(text: str, size: int) -> None:
    amount = Amount.parse(text)
    if amount.kind == "exact" and amount.value < size:
        with pytest.raises(AmountError, match="which is fewer than"):
            amount.apply(size)
    else:
        assert amount.apply(size) >= size


@unhurried
@given(amount_texts, sizes, sizes)
def test_apply_keeps_the_order_of_sizes(text: str, first: int, second: int) -> None:
    amount = Amount.parse(text)
    if amount.kind != "exact":
        smaller, larger = sorted((first, second))
        assert amount.apply(smaller) <= amount.apply(larger)


@unhurried
@given(factors)
def test_a_factor_means_the_same_as_a_number_and_as_text(factor: float) -> None:
    assert Amount.parse(factor) == Amount.parse(repr(factor)) == Amount("factor", factor)


@unhurried
@given(st.floats(max_value=1, exclude_max=True, allow_nan=False, allow_infinity=False))
def test_no_factor_below_one_is_taken(factor: float) -> None:
    with pytest.raises(AmountError, match="would shrink the model"):
        Amount.parse(factor)


@unhurried
@given(st.one_of(st.text(), st.text("+=0123456789. e-"), st.none(), st.booleans(), st.integers(), st.floats()))
def test_parse_gives_an_amount_or_an_amount_error(anything: Any) -> None:
    try:
        amount = Amount.parse(anything)
    except AmountError as error:
        assert error.remedy == SHRINK_REMEDY
    else:
        assert amount.value >= (1 if amount.kind == "factor" else 0)


# -- amounts by part ---------------------------------------------------------------------------------------


def test_one_amount_covers_every_module_and_the_root() -> None:
    everywhere = Amounts.parse(1.5)
    assert all(everywhere.match(path) == ("", Amount("factor", 1.5)) for path in ["", *PATHS])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({}, f"the mapping of amounts is empty: {PART_REMEDY}"),
        ({3: 2}, f"3 is not a module path: {PART_REMEDY}"),
        ({"": 2}, f"'' is not a module path: {PART_REMEDY}"),
        ({None: 2}, f"None is not a module path: {PART_REMEDY}"),
        ({"fc": 2, ("a",): 2}, f"('a',) is not a module path: {PART_REMEDY}"),
        ({"fc": "wide"}, f"'wide' is not an amount to grow by (at fc): {SHRINK_REMEDY}"),
        ({"stem": 2, "fc": 0.5}, f"a factor of 0.5 would shrink the model (at fc): {SHRINK_REMEDY}"),
        ({"fc": {"weight": 2}}, f"{{'weight': 2}} is not an amount to grow by (at fc): {SHRINK_REMEDY}"),
    ],
)
def test_mappings_that_mean_nothing_are_refused(wrong: dict[Any, Any], text: str) -> None:
    with pytest.raises(AmountError) as caught:
        Amounts.parse(wrong)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("key", "path", "covered"),
    [
        ("layer4", "layer4", True),
        ("layer4", "layer4.0.conv2", True),
        ("layer4.0", "layer4.0.conv2", True),
        ("layer", "layer4", False),
        ("layer4", "layer40", False),
        ("layer4.0", "layer4", False),
        ("layer4.*.conv2", "layer4.0.conv2", True),
        ("layer4.*.conv2", "layer4.0.block.conv2", True),
        ("layer4.*.conv2", "layer4.0.conv1", False),
        ("layer?", "layer4.0.conv1", True),
        ("layer?", "layer40", False),
        ("layer[34]", "layer3.0", True),
        ("layer[34]", "layer2.0", False),
        ("*.conv2", "layer4.0.conv2", True),
        ("*.conv2", "conv2", False),
        ("*", "fc", True),
        ("Layer4", "layer4", False),
    ],
)
def test_covers(key: str, path: str, covered: bool) -> None:
    assert covers(key, path) is covered


@pytest.mark.parametrize(
    ("path", "winner"),
    [
        ("stem", "*"),
        ("layer3", "layer?"),
        ("layer4", "layer4"),
        ("layer4.0", "layer4"),
        ("layer4.0.conv1", "layer4"),
        ("layer4.0.conv2", "layer4.*.conv2"),
        ("layer4.1.conv2", "layer4.1.conv2"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_most_specific_key_wins_in_any_order(path: str, winner: str, reverse: bool) -> None:
    keys = ["*", "layer?", "layer4", "layer4.*.conv2", "layer4.1.conv2"]
    given_keys = {key: 1.0 + k for k, key in enumerate(keys)}
    ordered = dict(sorted(given_keys.items(), reverse=reverse))
    assert Amounts.parse(ordered).match(path) == (winner, Amount("factor", given_keys[winner]))


def test_a_plain_path_wins_over_a_glob_that_spells_out_as_much() -> None:
    assert amounts(**{"layer3*": 2.0, "layer3": 3.0}).match("layer3") == ("layer3", Amount("factor", 3.0))


def test_what_no_key_covers_has_no_amount() -> None:
    chosen = amounts(layer3=2.0, layer4="+32")
    assert [path for path in PATHS if chosen.match(path) is None] == ["stem", "fc"]
    assert chosen.match("") is None


def test_a_tie_that_agrees_is_no_conflict() -> None:
    assert specificity("layer*") == specificity("*ayer3") > specificity("la*")
    chosen = amounts(**{"layer*": 2, "*ayer3": "2.0", "la*": 3})
    assert chosen.match("layer3") == ("layer*", Amount("factor", 2.0))


def test_a_tie_that_disagrees_is_an_error() -> None:
    with pytest.raises(AmountError) as caught:
        amounts(**{"layer*": 2, "*ayer3": 3}).match("layer3")
    assert str(caught.value) == (
        "'layer*' and '*ayer3' cover it with different amounts (at layer3): make one of the keys more specific"
    )


def test_a_tie_of_three_names_two_that_disagree() -> None:
    with pytest.raises(AmountError) as caught:
        amounts(**{"f*": 2, "f?": 2, "?c": 3}).match("fc")
    assert str(caught.value) == (
        "'f*' and '?c' cover it with different amounts (at fc): make one of the keys more specific"
    )


def test_a_tie_between_less_specific_keys_does_not_matter() -> None:
    chosen = amounts(**{"layer*": 2, "*ayer3": 3, "layer3": 4})
    assert chosen.match("layer3") == ("layer3", Amount("factor", 4.0))


@unhurried
@given(module_paths, st.randoms(use_true_random=False))
def test_the_longest_prefix_wins(path: str, random: Any) -> None:
    parts = path.split(".")
    prefixes = [".".join(parts[:k]) for k in range(1, len(parts) + 1)]
    shuffled = random.sample(prefixes, len(prefixes))
    chosen = Amounts.parse({key: 1.0 + len(key) for key in shuffled})
    assert chosen.match(path) == (path, Amount("factor", 1.0 + len(path)))
    assert all(specificity(short) < specificity(long) for short, long in itertools.pairwise(prefixes))


@unhurried
@given(module_paths, st.data())
def test_a_glob_covers_what_it_was_made_from_and_is_less_specific(path: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(path) - 1))
    for wildcard in ("?", "*", "[!.]" if path[position] != "." else "[.]"):
        glob = path[:position] + wildcard + path[position + 1 :]
        assert covers(glob, path)
        assert covers(glob, path + ".inner")
        assert specificity(glob) < specificity(path)
    assert specificity(path + "*") < specificity(path)


@unhurried
@given(module_paths, names)
def test_a_path_covers_itself_and_all_below_it_only(path: str, name: str) -> None:
    assert covers(path, path)
    assert covers(path, f"{path}.{name}")
    assert not covers(path, path + name)
    assert not covers(f"{path}.{name}", path)


@unhurried
@given(st.dictionaries(st.one_of(module_paths, st.text("ab.*?", min_size=1)), factors, min_size=1), st.text("ab."))
def test_the_match_covers_and_nothing_that_covers_is_more_specific(by_key: dict[str, float], path: str) -> None:
    covering = [key for key in by_key if covers(key, path)]
    highest = max(map(specificity, covering), default=None)
    winners = [key for key in covering if specificity(key) == highest]
    try:
        match = Amounts.parse(by_key).match(path)
    except AmountError:
        assert len({by_key[key] for key in winners}) > 1
        return
    if match is None:
        assert not covering
    else:
        assert match[0] in winners
        assert match[1] == Amount("factor", by_key[match[0]])


# -- keys that cover nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["stem", "layer3", "layer3.0", "layer*", "*.conv2", "layer[34].0", "layer4.*.conv2", "*"]
)
def test_keys_that_cover_a_module_are_used(key: str) -> None:
    amounts(**{key: 2}).check_all_used(iter(PATHS))


def test_one_amount_for_all_is_used_even_without_modules() -> None:
    Amounts.parse(2).check_all_used([])


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("layer5", "did you mean layer4, layer3, layer4.0?"),
        ("layer4.0.conv", "did you mean layer4.0.conv2, layer3.0.conv1, layer4.0?"),
        ("fcc", "did you mean fc?"),
        ("fc.", "did you mean fc?"),
        ("transformer", "name a module of the model, or a glob over them"),
        ("blocks.*", "name a module of the model, or a glob over them"),
        ("[", "name a module of the model, or a glob over them"),
    ],
)
def test_a_key_that_covers_nothing_is_an_error(key: str, remedy: str) -> None:
    with pytest.raises(AmountError) as caught:
        amounts(**{"layer3": 2, key: 2}).check_all_used(PATHS)
    assert str(caught.value) == f"the key matches no module of the model (at {key}): {remedy}"


# -- the command line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_texts", "read"),
    [
        (["1.5"], "1.5"),
        (["+32"], "+32"),
        (["=96"], "=96"),
        (["layer3=2"], {"layer3": "2"}),
        (["layer4=+32"], {"layer4": "+32"}),
        (["fc==96"], {"fc": "=96"}),
        (["layer4.*.conv2=1.5"], {"layer4.*.conv2": "1.5"}),
        (["layer3=2", "layer4=+32", "fc==96"], {"layer3": "2", "layer4": "+32", "fc": "=96"}),
    ],
)
def test_command_line_amounts(given_texts: list[str], read: Any) -> None:
    assert parse_command_line(given_texts) == read
    Amounts.parse(read)


@pytest.mark.parametrize(
    ("given_texts", "text"),
    [
        (["fc=2", "fc=3"], "two amounts for one part (at fc): pass one PATH=AMOUNT for each part"),
        (["fc=2", "stem=2", "fc=2"], "two amounts for one part (at fc): pass one PATH=AMOUNT for each part"),
        (["fc==96", "fc=+3"], "two amounts for one part (at fc): pass one PATH=AMOUNT for each part"),
        (
            ["2", "fc=3"],
            "one amount for the whole model is mixed with others (at 2 fc=3): "
            "pass one amount, or PATH=AMOUNT for each part",
        ),
        (
            ["fc=3", "=96"],
            "one amount for the whole model is mixed with others (at fc=3 =96): "
            "pass one amount, or PATH=AMOUNT for each part",
        ),
        (
            ["2", "3"],
            "one amount for the whole model is mixed with others (at 2 3): "
            "pass one amount, or PATH=AMOUNT for each part",
        ),
    ],
)
def test_command_line_amounts_that_contradict_each_other(given_texts: list[str], text: str) -> None:
    with pytest.raises(AmountError) as caught:
        parse_command_line(given_texts)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("given_texts", "text"),
    [
        (["fc="], f"'' is not an amount to grow by (at fc): {SHRINK_REMEDY}"),
        (["==96"], f"'' is not a module path: {PART_REMEDY}"),
        (["fc=x=2"], f"'x=2' is not an amount to grow by (at fc): {SHRINK_REMEDY}"),
        (["wide"], f"'wide' is not an amount to grow by: {SHRINK_REMEDY}"),
        ([""], f"'' is not an amount to grow by: {SHRINK_REMEDY}"),
        ([], f"the mapping of amounts is empty: {PART_REMEDY}"),
    ],
)
def test_command_line_amounts_that_mean_nothing_are_refused_when_read(given_texts: list[str], text: str) -> None:
    with pytest.raises(AmountError) as caught:
        Amounts.parse(parse_command_line(given_texts))
    assert str(caught.value) == text


@unhurried
@given(st.dictionaries(module_paths, amount_texts, min_size=1))
def test_command_line_parts_come_back_as_they_were_written(by_key: dict[str, str]) -> None:
    texts = [f"{key}={amount}" for key, amount in by_key.items()]
    assert parse_command_line(texts) == by_key
    with pytest.raises(AmountError, match=re.escape(f"two amounts for one part (at {next(iter(by_key))})")):
        parse_command_line([*texts, texts[0]])


@unhurried
@given(amount_texts)
def test_a_command_line_amount_for_the_whole_model_stays_as_it_was_written(text: str) -> None:
    assert parse_command_line([text]) == text


def test_whole_numbers_of_numpy_are_ints() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3)
    numbers = {"round_to": 8, "classes": 3, "in_chans": 4, "seed": 7}
    said, of_numpy = (
        fxgrow.grow(model, 1.5, example_inputs=x, verify=False, **{name: kind(n) for name, n in numbers.items()})
        for kind in (int, np.int64)
    )
    assert fxgrow.report(of_numpy).plan.to_json() == fxgrow.report(said).plan.to_json()
    assert type(fxgrow.report(of_numpy).seed) is int
    assert all(torch.equal(one, other) for one, other in zip(said.parameters(), of_numpy.parameters(), strict=True))
