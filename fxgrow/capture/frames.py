"""What stands in for functions of torch.fx whose frames hold themselves."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from typing import Any

from torch.fx import _symbolic_trace


def items(proxy: Any) -> Iterator[Any]:
    """What a proxy gives when it is unpacked, or gone through.

    As `fx.Proxy.__iter__`, whose frame holds itself, and with all that called it the model that is captured, until
    garbage is collected.
    """
    caller = sys._getframe(1)
    operation, count = caller.f_code.co_code[caller.f_lasti : caller.f_lasti + 2]
    if operation == dis.opmap["UNPACK_SEQUENCE"]:
        return iter([proxy[k] for k in range(count)])
    found: Iterator[Any] = proxy.tracer.iter(proxy)
    return found


def wrap(name: str) -> str:
    """What generated code calls for functions that stay one node when it is traced again.

    As `fx.wrap`, whose frame holds itself, and with all that called it the model that grew.
    """
    names = sys._getframe(1).f_globals
    _symbolic_trace._wrapped_fns_to_patch[id(names), name] = names
    return name
