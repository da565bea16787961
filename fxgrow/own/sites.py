"""The calls that a growth changes, as the user's own module makes them: in which method, and which call there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from fxgrow.capture import Captured
from fxgrow.capture.builder import ASIDE
from fxgrow.capture.contexts import STATE
from fxgrow.capture.methods import CALLER, INSIDE, RUNNING, MethodRun, runs_of
from fxgrow.grouping import grouped
from fxgrow.own.call_edits import FORWARD
from fxgrow.planning.plan import NodeEdit, Plan
from fxgrow.rules.shape import follow
from fxgrow.transforms.folding import weight_of


@dataclass(frozen=True)
class Site:
    """A call that growth changes, as the module finds it that makes it.

    module: its path. called: whether the call is of the module as a whole. target: else the function, or the name
    of the method. index: which call of the target it is while `method` of the module runs; None: each of them.
    onward: whether it is each later one, too. calls: how many there are. aside: whether it may come out by itself.
    within: the methods that run then inside `method`, and make other calls at another run. in_forward: the site of
    the same call within the whole forward, where `method` is another. caller: the function whose calls alone are
    counted, where another may make fewer of them at the next run. mode: the mode that alone changes it, where the
    other makes such calls too and does not change this one alike. inside: the classes of the modules that the
    module calls and that have no place of their own, if one of these makes the call; calls of other modules are not
    counted. weight: the name of that which a multiplied call applies. given: what the grown copy hands the call in
    place of the number that comes there; `...`: it is not known.
    """

    module: str
    called: bool
    target: Any
    index: int | None
    edit: NodeEdit
    aside: bool = False
    method: str = FORWARD
    within: tuple[str, ...] = ()
    in_forward: Site | None = None
    caller: str = ""
    calls: int = 1
    mode: str = ""
    inside: str = ""
    weight: str = ""
    given: Any = ...
    onward: bool = False

    @property
    def change(self) -> Any:
        """Which change it is, of whichever call of the target."""
        edit = self.edit
        place = edit.value.get("operand") if edit.kind == "core_input" else edit.path
        run = self.module, self.mode, self.method, self.caller, self.inside
        return *run, self.called, self.target, self.weight, edit.kind, place

    @property
    def key(self) -> Any:
        """Which change of which call it is."""
        return self.change, self.index, self.onward

    def includes(self, other: Site) -> bool:
        """Whether it is a change of all calls of which another site is the same change."""
        if self.index is None or other.index is None:
            return self.index is None
        return self.index == other.index if not self.onward else self.index <= other.index


_CHANGES = ("guard", "core_input", "multiply")
_NUMBERS = ("literal", "ratio")


def sites(captured: Captured, plan: Plan, apart: Iterable[NodeEdit] = ()) -> tuple[Site, ...]:
    """The calls that a plan changes in captured graphs, into which new blocks have been put but nothing else.

    Each is found in the innermost method that makes the same changes whenever it runs, so that these are made where
    people call the method itself, too. apart: numbers that are changed although they come from attributes.
    """
    nodes = {(mode, node.name): node for mode, graph in captured.graphs.items() for node in graph.nodes}
    changed = []
    for edit in plan.nodes:
        node = nodes[edit.mode, edit.node]
        if edit.kind == "literal" and _is_read(node, edit):
            continue
        if edit.kind in (*_CHANGES, *_NUMBERS) and not _is_so(node, edit):
            changed.append((node, edit, edit.kind in _NUMBERS))
    changed += [(nodes[edit.mode, edit.node], edit, False) for edit in apart]
    varying: set[tuple[str, str]] = set()
    cached = captured.recording is not None and captured.recording.cached
    by_caller = cached or any(note.feature == STATE for note in captured.settled)
    while True:
        sites_made = [_site(node, edit, aside, varying, by_caller) for node, edit, aside in changed]
        more = set(_varying(captured.graphs, sites_made))
        if not more:
            by_mode = grouped((site.edit.mode, site) for site, _ in sites_made).values()
            each = list(_by_mode(captured.graphs, [site for one_mode in by_mode for site in _together(one_mode)]))
            return tuple({site.key: site for site in reversed(each)}.values())[::-1]
        varying |= more


def _by_mode(graphs: Mapping[str, fx.Graph], sites_made: Sequence[Site]) -> Iterator[Site]:
    """The sites, those of one mode for it alone where the other makes such calls and does not change them alike."""
    changes = {(site.edit.mode, site.key, str(site.edit.value)) for site in sites_made}
    targets = {(mode, node.op, node.target) for mode, graph in graphs.items() for node in graph.nodes}
    ops = ("call_function", "call_method")
    for site in sites_made:
        mode = site.edit.mode
        unlike = (m for m in graphs if m != mode and (m, site.key, str(site.edit.value)) not in changes)
        if not site.called and any((other, op, site.target) in targets for other in unlike for op in ops):
            whole = replace(site.in_forward, mode=mode) if site.in_forward is not None else None
            site = replace(site, mode=mode, in_forward=whole)
        yield site


def _together(sites_made: Iterable[Site]) -> Iterator[Site]:
    """The sites of a mode, but one where all calls of a target from one on are changed alike.

    A loop makes more of them where it turns more often. Literals may be others at each turn: their calls stay apart.
    """
    for alike in grouped(((site.change, str(site.edit.value), site.aside), site) for site in sites_made).values():
        by_index = {site.index: site for site in alike}
        first = alike[0]
        start = first.calls
        while start - 1 in by_index:
            start -= 1
        if first.calls - start > 1 and (start == 0 or first.edit.kind != "literal"):
            yield from (site for site in alike if site.index in range(start))
            yield replace(by_index[start], index=start or None, onward=bool(start), in_forward=None)
        else:
            yield from alike


def further_sites(there: Iterable[Site], known: Iterable[Site]) -> list[Site]:
    """The sites that none of those that are known includes."""
    by_change = grouped((site.change, site) for site in known)
    return [site for site in there if not any(each.includes(site) for each in by_change.get(site.change, ()))]


def sites_of_course(captured: Captured, course: Plan) -> Iterator[Site]:
    """The calls that growth changes on another course, in the method that is called there."""
    for site in sites(captured, course):
        if site.aside:
            continue
        if not site.module and site.method == FORWARD:
            site = replace(site, method=course.method)
        yield site


def _is_read(node: fx.Node, edit: NodeEdit) -> bool:
    """Whether a literal comes from an attribute of a module; ranges of units do number by number."""
    sources = node.meta.get("sources", {})
    ranges = edit.value if isinstance(edit.value, tuple) else ()
    each = [(*edit.path, k, end) for k, borders in enumerate(ranges) for end in range(len(borders))]
    return edit.path in sources or (bool(each) and all(path in sources for path in each))


def _is_so(node: fx.Node, edit: NodeEdit) -> bool:
    """Whether a literal is already what it is to become."""
    try:
        return edit.kind == "literal" and bool(follow(node, edit.path) == edit.value)
    except (IndexError, KeyError):  # an argument that is to be added
        return False


def _is_left_out(node: fx.Node, edit: NodeEdit) -> bool:
    """Whether the call is given nothing there, as captured."""
    try:
        return edit.kind == "literal" and follow(node, edit.path) is None
    except (IndexError, KeyError):
        return True


def _site(
    node: fx.Node, edit: NodeEdit, aside: bool, varying: set[tuple[str, str]], by_caller: bool
) -> tuple[Site, tuple[str, MethodRun] | None]:
    """Where a change is made, and the run of a method in which the graph makes it."""
    if node.op == "call_module":
        return Site(str(node.target), True, None, 0, edit, aside), None
    module = node.meta.get("module_path", "")
    inside = node.meta.get(INSIDE, "")
    alike = list(_alike(node, by_caller))
    runs = runs_of(node, module)
    methods = tuple(run.method for run in runs)
    whole = Site(module, False, node.target, alike.index(node), edit, aside, within=methods, calls=len(alike))
    weight = weight_of(node) if edit.kind == "multiply" else ""
    whole = replace(whole, inside=inside, weight=weight, given=None if _is_left_out(node, edit) else ...)
    if by_caller:
        whole = replace(whole, caller=node.meta.get(CALLER, ""))
    depth = next((depth for depth, run in enumerate(runs) if (module, run.method) not in varying), None)
    if depth is None:
        return whole, None
    run, within = runs[depth], whole.within[:depth]
    calls = [other for other in alike if run in runs_of(other, module)]
    site = replace(whole, index=calls.index(node), calls=len(calls), method=run.method, within=within, in_forward=whole)
    return site, (edit.mode, run)


def _alike(node: fx.Node, by_caller: bool) -> Iterator[fx.Node]:
    """The calls of the same target in the same place, in order: not of numbers, which no call of torch's computes."""
    keys = ("module_path", INSIDE, *((CALLER,) if by_caller else ()))
    for other in (call for later in node.graph.nodes for call in (*later.meta.get(ASIDE, ()), later)):
        same = (other.op, other.target) == (node.op, node.target)
        same = same and all(other.meta.get(key) == node.meta.get(key) for key in keys)
        if same and not isinstance(other.meta.get("value"), (int, float)):
            yield other


def _varying(
    graphs: dict[str, fx.Graph], sites_made: Iterable[tuple[Site, tuple[str, MethodRun] | None]]
) -> Iterator[tuple[str, str]]:
    """The methods that would make other changes at one run than at another, by the path of their module."""
    changes: dict[tuple[str, MethodRun], dict[Any, Any]] = {}
    for site, made_in in sites_made:
        if made_in is not None:
            changes.setdefault(made_in, {})[site.key] = site.edit.value
    methods = {(run.path, run.method) for _, run in changes}
    runs = {(mode, run) for mode, graph in graphs.items() for node in graph.nodes for run in node.meta.get(RUNNING, ())}
    for path, method in methods:
        each = [changes.get(made_in, {}) for made_in in runs if made_in[1][:2] == (path, method)]
        if any(change != each[0] for change in each):
            yield path, method
