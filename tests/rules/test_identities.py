"""The algebra that the rules rest on, proved with sympy for symbolic entries: why old outputs stay."""

from __future__ import annotations

import sympy as sp

OLD, NEW = 3, 2
"""Old units, and units added, of the dimension in question."""

epsilon = sp.Symbol("epsilon", positive=True)


def symbols(name: str, count: int) -> list[sp.Symbol]:
    return list(sp.symbols(f"{name}:{count}", real=True))


def is_zero(expression: sp.Expr) -> bool:
    return bool(sp.simplify(expression) == 0)


def layer_norm(x: list[sp.Expr], gain: list[sp.Expr], eps: sp.Expr) -> list[sp.Expr]:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return [g * (value - mean) / sp.sqrt(variance + eps) for value, g in zip(x, gain, strict=True)]


def rms_norm(x: list[sp.Expr], gain: list[sp.Expr], eps: sp.Expr) -> list[sp.Expr]:
    square = sum(value**2 for value in x) / len(x)
    return [g * value / sp.sqrt(square + eps) for value, g in zip(x, gain, strict=True)]


def test_layer_norm_of_units_that_are_the_mean_with_gain_and_eps_rescaled() -> None:
    """The mean stays, the variance shrinks by n/m, and so do eps and the square of the gain."""
    x, gain, added = symbols("x", OLD), symbols("g", OLD), symbols("h", NEW)
    ratio = sp.Rational(OLD, OLD + NEW)
    before = layer_norm(x, gain, epsilon)
    after = layer_norm([*x, *[sum(x) / OLD] * NEW], [*(g * sp.sqrt(ratio) for g in gain), *added], epsilon * ratio)
    assert all(is_zero(a - b) for a, b in zip(after, before, strict=False))
    assert all(is_zero(value) for value in after[OLD:])


def test_rms_norm_of_units_that_are_zero_with_gain_and_eps_rescaled() -> None:
    x, gain, added = symbols("x", OLD), symbols("g", OLD), symbols("h", NEW)
    ratio = sp.Rational(OLD, OLD + NEW)
    before = rms_norm(x, gain, epsilon)
    after = rms_norm([*x, *[sp.Integer(0)] * NEW], [*(g * sp.sqrt(ratio) for g in gain), *added], epsilon * ratio)
    assert all(is_zero(a - b) for a, b in zip(after, before, strict=False))
    assert all(value == 0 for value in after[OLD:])


def test_norms_over_every_unit_copied_equally_often_need_no_change() -> None:
    x, gain = symbols("x", 2), symbols("g", 2)
    for norm in (layer_norm, rms_norm):
        before = norm(x, gain, epsilon)
        after = norm([*x, *x], [*gain, *gain], epsilon)
        assert all(is_zero(a - b) for a, b in zip(after, [*before, *before], strict=True))


def test_a_mean_over_units_that_are_the_mean() -> None:
    x = symbols("x", OLD)
    mean = sum(x) / OLD
    assert is_zero((sum(x) + NEW * mean) / (OLD + NEW) - mean)


def test_a_linear_map_with_the_same_bias_carries_the_mean_over() -> None:
    """Mean-filled rows of weight and bias make the mean of the old outputs."""
    x = symbols("x", 2)
    weight = [symbols(f"w{row}_", 2) for row in range(OLD)]
    bias = symbols("b", OLD)
    outputs = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    row = [sum(w[k] for w in weight) / OLD for k in range(2)]
    made = sum(w * v for w, v in zip(row, x, strict=True)) + sum(bias) / OLD
    assert is_zero(made - sum(outputs) / OLD)


def test_a_product_of_means_is_not_the_mean_of_products() -> None:
    """Why a depthwise weight cannot carry means over: two operands make each unit."""
    x, weight = symbols("x", OLD), symbols("w", OLD)
    assert not is_zero(sum(x) * sum(weight) / OLD**2 - sum(a * b for a, b in zip(x, weight, strict=True)) / OLD)


def test_zero_out_ignores_whatever_new_units_send() -> None:
    x, weight, sent = symbols("x", OLD), symbols("w", OLD), symbols("s", NEW)
    kept = sum(w * v for w, v in zip(weight, x, strict=True))
    assert is_zero(sum(w * v for w, v in zip([*weight, *[0] * NEW], [*x, *sent], strict=True)) - kept)


def test_mirrored_pairs_cancel_for_any_function_of_the_unit() -> None:
    """Equal units read with opposite weights: w f(u) - w f(u) = 0, as in the paper."""
    function = sp.Function("f")
    x, weight, unit, outgoing = symbols("x", OLD), symbols("w", OLD), *sp.symbols("u v", real=True)
    before = sum(w * function(v) for w, v in zip(weight, x, strict=True))
    after = sum(w * function(v) for w, v in zip([*weight, outgoing, -outgoing], [*x, unit, unit], strict=True))
    assert is_zero(after - before)


def test_mirrored_pairs_on_two_axes_cancel_over_their_product() -> None:
    """A consumer of (heads x width) with pairs on both factors: signs multiply, every sum over a pair is zero."""
    weight, unit = sp.symbols("w u", real=True)
    signs = [1, -1]
    assert is_zero(sum(a * b * weight * unit for a in signs for b in signs))


def test_copies_that_share_an_outgoing_weight_send_what_the_original_sent() -> None:
    """Net2Net: k copies, each read with w/k."""
    unit, weight = sp.symbols("u w", real=True)
    copies = sp.Symbol("k", positive=True, integer=True)
    index = sp.Symbol("i", integer=True)
    assert is_zero(sp.summation(weight / copies * unit, (index, 1, copies)) - weight * unit)


def test_attention_scores_with_new_queries_or_keys_zero_and_the_scale_pinned() -> None:
    queries, keys, sent = symbols("q", OLD), symbols("k", OLD), symbols("s", NEW)
    scale = 1 / sp.sqrt(sp.Integer(OLD))
    before = scale * sum(q * k for q, k in zip(queries, keys, strict=True))
    after = scale * sum(q * k for q, k in zip([*queries, *[0] * NEW], [*keys, *sent], strict=True))
    assert is_zero(after - before)


def test_group_norm_with_more_groups_leaves_the_old_groups_alone() -> None:
    old, new = symbols("x", 2), symbols("y", 2)

    def normal(group: list[sp.Expr]) -> list[sp.Expr]:
        return layer_norm(group, [sp.Integer(1)] * len(group), epsilon)

    before, after = [*normal(old)], [*normal(old), *normal(new)]
    assert after[:2] == before
    assert not {symbol for value in after[:2] for symbol in value.free_symbols} & set(new)


def test_an_l2_norm_of_zeros_added() -> None:
    x = symbols("x", OLD)
    assert is_zero(sp.sqrt(sum(v**2 for v in [*x, 0, 0])) - sp.sqrt(sum(v**2 for v in x)))


def test_variance_transfer_keeps_the_variance_of_a_pre_activation() -> None:
    """n units of weight variance s: rescaled to s n/m for m units, the sum has the variance it had."""
    n, m = sp.symbols("n m", positive=True, integer=True)
    s, second_moment = sp.symbols("s v", positive=True)
    assert is_zero(m * (s * n / m) * second_moment - n * s * second_moment)
