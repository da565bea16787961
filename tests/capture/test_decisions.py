"""Code that decides by what it computes from a name is told from code that asks for the name as it is."""

from __future__ import annotations

import ast

import pytest

from fxgrow.capture.decisions import decides_within


@pytest.mark.parametrize(
    ("code", "of_texts", "of_numbers"),
    [
        ("if n == 1: x", False, False),
        ("if n and not n.startswith('b'): x", False, False),
        ("if isinstance(n, str) and 'b' in n: x", False, False),
        ("if self.acts[n](x): x", False, False),
        ("if self.is_one(n): x", False, False),
        ("if str(n) == 'b' or n.lower() in ('b', 'c'): x", False, False),
        ("if any(each == 'b' for each in n): x", False, False),
        ("if 2 * n - 1 == 5: x", True, False),
        ("if n[0] > 3: x", True, False),
        ("m = 2 * n\nif m > 5: x", True, False),
        ("if abs(n) > 3: x", True, False),
        ("if len(n) > 3: x", True, True),
        ("if n.count('b') > 1: x", True, True),
        ("if f'{n}_1' == 'b_1': x", True, True),
        ("if {'m': n}['m'] == 'b': x", True, True),
        ("if {'b'} & set(n): x", True, False),
        ("y = x if n[1:] else z", True, True),
        ("m = {'mode': n}\nwhile m['mode'] == 'b': x", True, True),
        ("lambda n: bin(n)[2:]", True, True),
        ("y = x * len(n)", False, False),
    ],
)
def test_what_is_computed_is_seen(code: str, of_texts: bool, of_numbers: bool) -> None:
    nodes = list(ast.walk(ast.parse(code)))
    assert decides_within(nodes, {"n"}) is of_texts
    assert decides_within(nodes, {"n"}, counts=True) is of_numbers
