"""Switches random draws off, so that two models can be compared."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class WithoutNoise(TorchFunctionMode):
    """Dropout, stochastic depth, random slopes and noise off, whatever mode the model is in."""

    _DROPOUTS = (
        *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
        *(torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout),
        *(torch.dropout_, torch.alpha_dropout_, torch.feature_dropout_, torch.feature_alpha_dropout_),
    )
    _LIKE = (torch.rand_like, torch.randn_like, Tensor.normal_, Tensor.uniform_, Tensor.exponential_)
    _MADE = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.multinomial)
    _RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        if function in self._DROPOUTS:
            return args[0] if args else keywords["input"]
        if function in (Tensor.bernoulli_, Tensor.bernoulli, torch.bernoulli):  # the rate, not a draw
            into = args[0] if function is Tensor.bernoulli_ else torch.empty_like(args[0])
            rate = args[1] if args[1:] else keywords.get("p", 0.5 if into is args[0] else args[0])
            return into.copy_(rate) if isinstance(rate, Tensor) else into.fill_(rate)
        if function in self._LIKE:  # entry by entry, of a size that may have grown
            into = args[0] if function.__name__.endswith("_") else torch.empty_like(*args, **keywords)
            return into.fill_(0.5)
        if function is torch.normal:
            mean, std = (*args, *(keywords[name] for name in ("mean", "std") if name in keywords), 1.0)[:2]
            if isinstance(mean, Tensor) or isinstance(std, Tensor):
                return mean + 0.5 * std  # entry by entry as well
        if function in self._MADE and keywords.get("generator") is None:  # new blocks do not shift what others draw
            devices = [each.device for each in (*args, *keywords.values()) if isinstance(each, Tensor)]
            device = torch.device(keywords.get("device") or next(iter(devices), torch.get_default_device()))
            if device.type != "meta":
                keywords["generator"] = torch.Generator(device).manual_seed(torch.initial_seed())
        if function in (F.rrelu, torch.rrelu, torch.rrelu_):  # a slope drawn at random
            keywords.pop("training", None)
            return function(*args[:3], *((False, *args[4:]) if len(args) > 3 else ()), **keywords)
        if function is F.scaled_dot_product_attention:
            keywords.pop("dropout_p", None)
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
        if function is F.gumbel_softmax:
            return _unshaken(*args, **keywords)
        if function is F.multi_head_attention_forward:  # what it calls does not come by here
            bound = inspect.signature(function).bind(*args, **keywords)
            bound.arguments["dropout_p"] = 0.0
            return function(*bound.args, **bound.kwargs)
        if function in self._RECURRENT:
            place = 6 if isinstance(args[3], (tuple, list)) else 5  # packed sequences come with their batch sizes
            args = (*args[:place], 0.0, *args[place + 1 :])
        return function(*args, **keywords)


def gives_back(part: nn.Module) -> bool:
    """Whether a part without tensors gives what it is given, in both modes, with its random draws off.

    >>> gives_back(nn.Dropout()), gives_back(nn.ReLU())
    (True, False)
    """
    twin, given = copy.deepcopy(part), torch.linspace(-2, 2, 210).view(2, 3, 5, 7)
    with torch.no_grad(), WithoutNoise(), torch.random.fork_rng(devices=[]):
        try:
            return all(torch.equal(twin.train(mode)(given), given) for mode in (False, True))
        except Exception:  # it takes something else, or gives something else
            return False


def _unshaken(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """What `F.gumbel_softmax` gives where its noise is the same for all entries, which a softmax does not see."""
    soft = (logits / tau).softmax(dim)
    return torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0) if hard else soft
