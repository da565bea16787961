"""Tables that a forward keeps where nobody looks, such as in a `threading.local`: they get their values.

A record makes them without data, and the user's own model would find them so at its next call. With values they are
what a run of the model would have left there. What is made of weights is taken out again.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from fxgrow.capture.answers import of_values
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.shared_state import CACHED
from fxgrow.rules.calls import writes

if TYPE_CHECKING:
    from fxgrow.capture.recorder import Recorder


class Leftovers:
    """What the last runs recorded, and the classes of models that leave tables where nobody looks.

    To look takes a pass over every object of the process, so it is done where a record has failed, and from then on
    after each record of that class.
    """

    def __init__(self) -> None:
        self.last: list[Recorder] = []
        self._leaving: weakref.WeakSet[type] = weakref.WeakSet()

    def of_the_next_run(self) -> list[Recorder]:
        """Begin with the next run; what recorded the runs before."""
        before, self.last = self.last, []
        return before

    def are_in(self, kind: type, before: list[Recorder]) -> bool:
        """Whether a run of a class, which has failed, or a run before it, has left tables; they have values now."""
        left = _give_values([*before, *self.last])
        if left:
            self._leaving.add(kind)
        return left

    def mend(self, kind: type) -> None:
        """Give what the last runs have left its values where their model is of a class that does so."""
        if not self._leaving.isdisjoint(kind.__mro__):
            _give_values(self.last)


LEFTOVERS = Leftovers()
"""Of this process; records are made one at a time."""


def _give_values(recorders: Sequence[Recorder]) -> bool:
    """Give values to what records made of sizes alone, wherever else than in these it is held; whether there was any.

    recorders: of the records, one for each run.
    """
    news: dict[int, Any] = {}
    for recorder in recorders:
        for tensor, node in _held_elsewhere(recorder):
            made = of_values(node, recorder.constants)
            news.setdefault(id(tensor), made if made is None else made.to(recorder.device))
    if not news:
        return False
    own = {id(holder) for each in recorders for holder in (each.alive, each.bare, *map(vars, each.parts.values()))}
    own.update(identity for each in recorders for node in each.graph.nodes for identity in _holders(node))
    return _replace([tensor for each in recorders for tensor in each.alive if id(tensor) in news], news, own)


def _held_elsewhere(recorder: Recorder) -> Iterator[tuple[Tensor, fx.Node]]:
    """The tensors that are made, no input goes into, and to which something else seems to refer."""
    fed: set[fx.Node] = set()
    for node in recorder.graph.nodes:
        sources = (source for source in node.all_input_nodes if holds_tensor(source.meta["value"]))
        if node.op in ("placeholder", "call_module") or any(source in fed for source in sources):
            fed.add(node)
    attributes = (value for part in recorder.parts.values() for value in vars(part).values())
    times = Counter(map(id, (*recorder.alive, *recorder.bare.values(), *attributes)))
    for tensor in recorder.alive:
        bare = isinstance(tensor, Tensor) and tensor.is_meta  # what has data is a user's own
        made = recorder.nodes.get(id(tensor)) if bare else None
        if made is None or made in fed or made._erased or made.op == "get_attr" or writes(made):
            continue
        viewed = getattr(tensor, "_use_count", int)() > 1  # by torch, which counts once
        if sys.getrefcount(tensor) > times[id(tensor)] + viewed + _OURS:
            yield tensor, made


_OURS = 3
"""References to a tensor of a record by its node, the name `tensor` and what counts."""


def _holders(node: fx.Node) -> Iterator[int]:
    """The identities of what holds the value of a node in its graph."""
    yield id(node.meta)
    waiting = [node.meta.get("value")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (tuple, list, dict)):
            yield id(value)
            waiting += value.values() if isinstance(value, dict) else value


def _replace(olds: list[Any], news: dict[int, Any], own: set[int]) -> bool:
    """Put others in the place of some objects, or nothing, wherever these are held but for some holders.

    news: by the identities of the old ones. own: the identities of these holders.
    """
    replaced, tuples = False, []
    for holder in gc.get_referrers(*olds):
        if holder is olds or id(holder) in own or isinstance(holder, (FrameType, Tensor)):
            continue
        if isinstance(holder, tuple):
            tuples += [holder] if any(news.get(id(item)) is not None for item in holder) else []
            continue
        if isinstance(holder, CACHED):
            holder.cache_clear()
        elif isinstance(holder, list):
            holder[:] = [news.get(id(item), item) for item in holder]
        else:
            held = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
            found = {key: news[id(item)] for key, item in held.items() if id(item) in news}
            if not found:
                continue
            held.update(found)
            for key in [key for key, new in found.items() if new is None]:
                del held[key]
        replaced = True
    made = {id(each): tuple(news.get(id(item), item) for item in each) for each in tuples}
    return (bool(tuples) and _replace(tuples, made, {*own, id(tuples), id(olds)})) or replaced
