"""The identities behind the proof rules that tests/rules/test_identities.py does not have, proved with sympy."""

from __future__ import annotations

import sympy as sp

n, D, E = sp.symbols("n D E", positive=True, integer=True)


def test_collapsing_columns_of_a_linear_map() -> None:
    """Zero, copies, free pairs and means among the inputs: the collapsed columns are all that counts."""
    x = sp.symbols("x:2", real=True)
    free = sp.Symbol("u", real=True)
    old, copy, pair, mean, zero = (sp.symbols(f"{name}:2", real=True) for name in "acpmz")
    inputs = [*x, x[0], free, free, (x[0] + x[1]) / 2, sp.Integer(0)]
    weights = [*old, copy[0], pair[0], pair[1], mean[0], zero[0]]
    total = sum(w * v for w, v in zip(weights, inputs, strict=True))
    collapsed = (old[0] + copy[0] + mean[0] / 2) * x[0] + (old[1] + mean[0] / 2) * x[1] + (pair[0] + pair[1]) * free
    assert sp.simplify(total - collapsed) == 0


def test_gain_and_eps_make_up_for_any_ratio() -> None:
    """g sqrt(r) d / sqrt(r v + r eps) = g d / sqrt(v + eps), for symbolic old and new sizes r = n D / E."""
    g, d = sp.symbols("g d", real=True)
    v, eps = sp.symbols("v epsilon", positive=True)
    r = n * D / E
    assert sp.simplify(g * sp.sqrt(r) * d / sp.sqrt(r * v + r * eps) - g * d / sp.sqrt(v + eps)) == 0


def test_every_unit_equally_often_and_means_keep_the_mean_and_scale_the_variance() -> None:
    """n copies of D units and E - n D means: the mean stays, the variance becomes n D / E of what it was."""
    first, second = sp.symbols("S Q", real=True)  # sums of x and of squares over the D units
    mean = first / D
    variance = second / D - mean**2
    new_mean = (n * first + (E - n * D) * mean) / E
    new_variance = (n * second + (E - n * D) * mean**2) / E - new_mean**2
    assert sp.simplify(new_mean - mean) == 0
    assert sp.simplify(new_variance - variance * n * D / E) == 0


def test_zeros_scale_the_mean_square() -> None:
    second = sp.Symbol("Q", positive=True)
    assert sp.simplify((n * second) / E - (second / D) * n * D / E) == 0


def test_weight_standardisation_over_the_old_entries_keeps_a_filter() -> None:
    old, new = sp.symbols("w:3", real=True), sp.symbols("z:2", real=True)
    eps = sp.Symbol("epsilon", positive=True)
    mean = sum(old) / 3
    deviation = sp.sqrt(sum((w - mean) ** 2 for w in old) / 3 + eps)
    before = [(w - mean) / deviation for w in old]
    after = [*((w - mean) / deviation for w in old), *(z / deviation for z in new)]
    assert after[:3] == before
    assert [value.subs({new[0]: 0, new[1]: 0}) for value in after[3:]] == [0, 0]


def test_an_identity_block_after_a_rectifier() -> None:
    """relu(x + 0) = x where x >= 0."""
    x = sp.Symbol("x", nonnegative=True)
    assert sp.Max(0, x + 0) == x


def test_convolution_as_a_contraction() -> None:
    """A kernel is summed over like inputs: new channels with zero kernels add nothing at any position."""
    x = [[sp.Symbol(f"x{c}{k}") for k in range(3)] for c in range(2)]
    w = [[sp.Symbol(f"w{c}{k}") for k in range(2)] for c in range(2)]
    before = [sum(x[0][t + k] * w[0][k] for k in range(2)) for t in range(2)]
    after = [sum(x[c][t + k] * (w[c][k] if c == 0 else 0) for c in range(2) for k in range(2)) for t in range(2)]
    assert after == before


def test_the_mean_of_rows_makes_the_mean_of_outputs_whatever_is_read() -> None:
    """Any number of inputs, old and new: sum_i mean_o(W[o,i]) x[i] = mean_o(sum_i W[o,i] x[i])."""
    x = sp.symbols("x:4", real=True)
    rows = [sp.symbols(f"w{o}_:4", real=True) for o in range(3)]
    made = sum(sum(row[i] for row in rows) / 3 * x[i] for i in range(4))
    assert sp.simplify(made - sum(sum(w * v for w, v in zip(row, x, strict=True)) for row in rows) / 3) == 0


def test_a_branch_whose_last_gate_is_zero_adds_nothing() -> None:
    """x + (0 f + 0) = x, for gains, for weights, and for the gate of a product."""
    x, f, g, b = sp.symbols("x f g b", real=True)
    branch = g * f + b
    assert (x + branch.subs({g: 0, b: 0})) == x
    weights, inputs = sp.symbols("w:3", real=True), sp.symbols("u:3", real=True)
    silent = sum(w * u for w, u in zip(weights, inputs, strict=True)) + b
    assert x + silent.subs({**dict.fromkeys(weights, 0), b: 0}) == x


def test_a_layer_whose_weight_is_an_identity_map_passes_its_input_on() -> None:
    """One at a unit's own place in the middle of the kernel, in groups of two inputs; padding meets zeros."""
    size, groups = 3, 2
    x = [[0, *(sp.Symbol(f"x{c}{k}") for k in range(size)), 0] for c in range(4)]
    inside = 4 // groups
    weight = [[[int(i == o % inside and k == 1) for k in range(3)] for i in range(inside)] for o in range(4)]
    for o in range(4):
        first = o // inside * inside
        made = [
            sum(weight[o][i][k] * x[first + i][t + k] for i in range(inside) for k in range(3)) for t in range(size)
        ]
        assert made == x[o][1 : size + 1]


def test_functions_that_leave_a_range_alone() -> None:
    """relu6, leaky relu, elu and clamps are the identity on it; an elu where x > 0 by its definition."""
    x, slope = sp.Symbol("x", nonnegative=True), sp.Symbol("a", positive=True)
    assert sp.Max(0, x) + slope * sp.Min(0, x) == x
    low, high, part = sp.symbols("l h t", nonnegative=True)
    between = low + part  # l <= y, and y <= h for h = y + ...
    assert sp.Max(low, between) == between
    assert sp.Min(between + high, between) == between


def test_a_rescaled_weight_after_the_inverse_multiplier() -> None:
    c = sp.Symbol("c", positive=True)
    x, w, b = sp.symbols("x:3", real=True), sp.symbols("w:3", real=True), sp.Symbol("b", real=True)
    before = sum(v * u for v, u in zip(w, x, strict=True)) + b
    after = sum(c * v * (u / c) for v, u in zip(w, x, strict=True)) + b
    assert sp.simplify(after - before) == 0


def test_a_batch_norm_takes_a_factor_out_again() -> None:
    """With given statistics, and with those of the batch, which follow the factor by themselves."""
    c, v, eps = sp.symbols("c v epsilon", positive=True)
    x, m, g, b = sp.symbols("x m g b", real=True)
    before = g * (x - m) / sp.sqrt(v + eps) + b
    after = g * (c * x - c * m) / sp.sqrt(c**2 * v + c**2 * eps) + b
    assert sp.simplify(after - before) == 0
    batch = sp.symbols("y:3", real=True)
    mean = sum(batch) / 3
    assert sp.simplify(sum(c * y for y in batch) / 3 - c * mean) == 0
    variance = sum((y - mean) ** 2 for y in batch) / 3
    assert sp.simplify(sum((c * y - c * mean) ** 2 for y in batch) / 3 - c**2 * variance) == 0


def test_zeros_after_the_last_unit_under_a_kernel_are_its_padding() -> None:
    """Old outputs of a kernel that slides over [x, 0, 0, ...] padded with zeros are those over [x] padded."""
    kernel, x, silent = sp.symbols("k:5"), sp.symbols("x:6"), [sp.Integer(0)] * 4

    def slid(units: list[sp.Expr]) -> list[sp.Expr]:
        padded = [sp.Integer(0)] * 2 + units + [sp.Integer(0)] * 2
        return [sum(k * padded[place + j] for j, k in enumerate(kernel)) for place in range(len(units))]

    assert slid([*x, *silent])[: len(x)] == slid(list(x))
