"""Which modules a certificate rests on, and how many lines of code they have: python -m benchmarks.kernel

Read off the imports of the source: everything that the kernel (`fxgrow.proof`) imports, and what that imports. Lines of
code are those that are neither blank nor a comment nor a docstring.
"""

from __future__ import annotations

import ast
import functools
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
KERNEL = "fxgrow.proof"
ENTRY = ("fxgrow.growth.certifying", "fxgrow.growth.intermediate", "fxgrow.growth.fingerprint", "fxgrow.growth.record")
"""What brings two models before the kernel: it says which graphs and tensors are compared."""


@dataclass(frozen=True)
class Source:
    """A module of the library and the modules of the library that it imports, wherever in its text it does."""

    path: Path
    imports: frozenset[str]


@functools.cache
def modules() -> dict[str, Source]:
    """Every module of the library, by name."""
    paths = {}
    for folder, name in (("fxgrow", "fxgrow"), ("transforms", "fxgrow.transforms"), ("zoo", "fxgrow.zoo")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = (name, *path.relative_to(ROOT / folder).with_suffix("").parts)
            paths[".".join(parts).removesuffix(".__init__")] = path
    return {name: Source(path, frozenset(_imports(path, paths))) for name, path in paths.items()}


def _imports(path: Path, module_names: Iterable[str]) -> Iterable[str]:
    names = set(module_names)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("fxgrow"):
            imported = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in names else str(node.module) for name in imported)


def package_of(name: str) -> str:
    """The package of a module; a module beside the packages stands for itself."""
    first = ".".join(name.split(".")[:2])
    return first if first in modules() else name


def packages() -> dict[str, set[str]]:
    """Which packages each package imports."""
    imports: dict[str, set[str]] = defaultdict(set)
    for name, source in modules().items():
        package = package_of(name)
        imports[package] |= {package_of(target) for target in source.imports} - {package}
    return imports


@functools.cache
def believed() -> tuple[str, ...]:
    """The modules of the kernel, and all that they import."""
    waiting = [name for name in modules() if package_of(name) in (KERNEL, "fxgrow.rules")]  # rows are found by name
    seen = set(waiting)
    while waiting:
        new = modules()[waiting.pop()].imports - seen
        seen |= new
        waiting.extend(new)
    return tuple(sorted(seen))


@functools.cache
def lines_of(name: str) -> int:
    """The lines of code of a module."""
    text = modules()[name].path.read_text()
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def main() -> int:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in (*believed(), *ENTRY):
        home = package_of(name)
        kind = home if home in (KERNEL, "fxgrow.rules", "fxgrow.axes") else "entry" if name in ENTRY else "beside them"
        groups[kind].append(name)
    for kind, names in groups.items():
        print(f"{kind}: {sum(map(lines_of, names)):,} lines of code in {len(names)} modules")
        print("   ", ", ".join(f"{name.removeprefix('fxgrow.')} {lines_of(name)}" for name in names))
    names = [*believed(), *ENTRY]
    print(f"together: {sum(map(lines_of, names)):,} lines of code in {len(names)} modules")
    return 0


if __name__ == "__main__":
    sys.exit(main())
