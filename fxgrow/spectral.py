"""Spectral norm over old entries, in place of torch's parametrization where its weight has grown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrizations

from fxgrow import guards


class GuardedSpectralNorm(parametrizations._SpectralNorm):
    """A weight over the largest singular value of its entries in `core`, ranges along each axis of the weight.

    The vectors of the power iteration, `_u` and `_v`, are those of these entries.
    """

    plain_kind = parametrizations._SpectralNorm
    core: Sequence[guards.Ranges]

    def forward(self, weight: Tensor) -> Tensor:
        old = weight
        for axis, ranges in enumerate(self.core):
            old = guards.core(old, axis, ranges)
        matrix = self._reshape_weight_to_matrix(old)
        if self.training:
            self._power_method(matrix, self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()  # as torch does: the next call writes into the buffers
        return weight / torch.vdot(u, torch.mv(matrix, v))

    def extra_repr(self) -> str:
        return f"core={self.core}"


def is_spectral_norm(module: Any) -> bool:
    """Whether a parametrization is spectral norm alone, of a weight that is a matrix at least."""
    kinds = parametrizations._SpectralNorm, GuardedSpectralNorm
    return len(module) == 1 and type(module[0]) in kinds and module.original.ndim > 1


def over_core(module: Any) -> None:
    """Let a spectral norm take its norm over a core, which it is then given."""
    if type(module) is parametrizations._SpectralNorm:
        module.__class__ = GuardedSpectralNorm


def over_all(module: GuardedSpectralNorm, shape: Sequence[int]) -> None:
    """Put torch's own spectral norm back. Until the next step in train mode it gives what it gave.

    shape: of the weight.
    """
    places = [guards.core(torch.arange(size), 0, ranges) for size, ranges in zip(shape, module.core, strict=True)]
    rows, columns = places.pop(module.dim), places
    rest = [size for axis, size in enumerate(shape) if axis != module.dim]
    u = module._u.new_zeros(shape[module.dim])
    u[rows] = module._u
    v = module._v.new_zeros(rest)
    v[torch.meshgrid(*columns, indexing="ij")] = module._v.reshape([len(part) for part in columns])
    module._u, module._v = u, v.flatten()
    module.__class__ = parametrizations._SpectralNorm  # type: ignore[assignment]
    del module.__dict__["core"]
