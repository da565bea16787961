"""Modules of torch.nn whose own forward cannot be recorded, spelled out: attention, and the stacks of transformers.

Each function computes what the module's forward computes, from the same parameters. The forward cannot be recorded
since attention has fast paths that are one op, and a stack looks at a mask's values to see whether it is causal. Nor
can attention under an object in place of a mask.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxgrow import guards
from fxgrow.capture.composites import COMPOSITES


def call_spelled_out(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
    """What spells a call out; None for most.

    Spelled out are functions that are others put together, and attention under an object that stands for a causal mask
    and has no values.
    """
    if in_others := COMPOSITES.get(function):
        return in_others
    bias = sys.modules.get("torch.nn.attention.bias")
    if function is not F.scaled_dot_product_attention or bias is None:
        return None
    return _attention_under if any(isinstance(mask, bias.CausalBias) for mask in (*args, *kwargs.values())) else None


def _attention_under(
    query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: float = 0.0, is_causal: bool = False, **kwargs: Any
) -> Any:
    sizes = attn_mask.seq_len_q, attn_mask.seq_len_kv
    if attn_mask.variant.name == "UPPER_LEFT" or sizes[0] == sizes[1]:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p, is_causal=True, **kwargs)
    mask = torch.ones(*sizes, dtype=torch.bool, device=query.device).tril(sizes[1] - sizes[0])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p, **kwargs)


def attention(
    module: nn.MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """`nn.MultiheadAttention`."""
    if _rank_of(query) == 2:  # one sample without a batch
        batch_axis = 0 if module.batch_first else 1
        batched_query, batched_key, batched_value = _unsqueezed((query, key, value), batch_axis)
        attended, weights = attention(
            module,
            batched_query,
            batched_key,
            batched_value,
            None if key_padding_mask is None else key_padding_mask.unsqueeze(0),
            need_weights,
            attn_mask,
            average_attn_weights,
            is_causal,
        )
        return attended.squeeze(batch_axis), None if weights is None else weights.squeeze(0)
    q, k, v = _project(module, query, key, value)
    if not module.batch_first:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    heads, width = module.num_heads, module.head_dim
    batch, length, seen = q.shape[0], q.shape[1], k.shape[1]
    if module.bias_k is not None:  # a key and a value of the layer's own, behind those given
        own: Any = zip((k, v), (module.bias_k, module.bias_v), strict=True)
        k, v = (torch.cat([t, bias.expand(batch, -1, -1)], 1) for t, bias in own)
    if module.add_zero_attn:
        k, v = (torch.cat([t, torch.zeros_like(t[:, :1])], 1) for t in (k, v))
    q = q.reshape(batch, length, heads, width).transpose(1, 2)
    k, v = (t.reshape(batch, t.shape[1], heads, width).transpose(1, 2) for t in (k, v))
    mask = _mask(attn_mask, key_padding_mask, q, batch, heads, seen)
    added = (module.bias_k is not None) + bool(module.add_zero_attn)
    if mask is not None and added:
        mask = F.pad(mask, (0, added))
    causal = bool(is_causal) and mask is None
    rate = module.dropout if module.training else 0.0
    scale = getattr(module, "scale", float(width) ** -0.5)  # growth may have given it the scale of fewer units
    weights = None
    if need_weights:
        scores = (q * scale) @ k.transpose(-2, -1)
        weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
        weights = F.dropout(weights, module.dropout, module.training)
        attended = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=rate, is_causal=causal, scale=scale
        )
    joined = attended.transpose(1, 2).reshape(batch, length, heads * width)
    if not module.batch_first:
        joined = joined.transpose(0, 1)
    return F.linear(_multiplied(module, joined, "out_proj"), module.out_proj.weight, module.out_proj.bias), weights


def _unsqueezed(tensors: tuple[Any, ...], axis: int) -> list[Any]:
    """Inputs with a batch axis; those that are one tensor stay one."""
    batched = {id(x): x.unsqueeze(axis) for x in tensors}
    return [batched[id(x)] for x in tensors]


def _multiplied(module: nn.MultiheadAttention, x: Any, weight: str) -> Any:
    """What a weight reads: growth may have given it a number that makes up for a rescaled weight."""
    factor = getattr(module, f"{weight}_factor", None)
    return x if factor is None else guards.multiplied(x, factor)


def _project(module: nn.MultiheadAttention, query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    bias = module.in_proj_bias
    weights: tuple[Any, ...]
    if not module._qkv_same_embed_dim:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    elif query is key and key is value:
        read = _multiplied(module, query, "in_proj")
        q, k, v = F.linear(read, module.in_proj_weight, bias).chunk(3, dim=-1)
        return q, k, v
    else:
        weights = module.in_proj_weight.chunk(3, dim=0)
    biases = bias.chunk(3, dim=0) if bias is not None else (None, None, None)
    return tuple(  # type: ignore[return-value]
        F.linear(_multiplied(module, x, f"{'qkv'[k]}_proj"), weights[k], biases[k])
        for k, x in enumerate((query, key, value))
    )


def _additive(mask: Any, like: Any) -> Any:
    """A mask as numbers to add: -inf where a boolean mask is True."""
    value = _dtype_of(mask)
    if value is torch.bool:
        return torch.zeros_like(mask, dtype=_dtype_of(like)).masked_fill(mask, float("-inf"))
    return mask


def _value_of(proxy: Any) -> torch.Tensor | None:
    value = getattr(getattr(proxy, "node", None), "meta", {}).get("value", proxy)
    return value if isinstance(value, torch.Tensor) else None


def _dtype_of(proxy: Any) -> torch.dtype | None:
    value = _value_of(proxy)
    return None if value is None else value.dtype


def _rank_of(proxy: Any) -> int | None:
    value = _value_of(proxy)
    return None if value is None else value.ndim


def _mask(attn_mask: Any, padding: Any, like: Any, batch: Any, heads: int, length: Any) -> Any:
    mask = None if attn_mask is None else _additive(attn_mask, like)
    if mask is not None and _rank_of(attn_mask) == 3:  # a mask for each sample and head
        mask = mask.reshape(batch, heads, attn_mask.shape[1], length)
    if padding is None:
        return mask
    hidden = _additive(padding, like).reshape(batch, 1, 1, length)
    return hidden if mask is None else mask + hidden


def encoder(
    module: nn.TransformerEncoder,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Any:
    """`nn.TransformerEncoder`, whose layers are told that a mask is causal only where the caller says so."""
    for layer in module.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(is_causal))
    return src if module.norm is None else module.norm(src)


def decoder(
    module: nn.TransformerDecoder,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Any:
    """`nn.TransformerDecoder`, the same."""
    for layer in module.layers:
        tgt = layer(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=bool(tgt_is_causal),
            memory_is_causal=memory_is_causal,
        )
    return tgt if module.norm is None else module.norm(tgt)


EXPANSIONS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.MultiheadAttention: attention,
    nn.TransformerEncoder: encoder,
    nn.TransformerDecoder: decoder,
}
