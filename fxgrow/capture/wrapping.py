"""What stands in for functions of torch.fx whose frames hold themselves."""

from __future__ import annotations

import sys

from torch.fx import _symbolic_trace


def wrap(name: str) -> str:
    """What generated code calls for functions that stay one node when it is traced again.

    As `fx.wrap`, whose frame holds itself, and with all that called it the model that grew.
    """
    names = sys._getframe(1).f_globals
    _symbolic_trace._wrapped_fns_to_patch[id(names), name] = names
    return name
