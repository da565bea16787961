"""Growth from files to files, tensor by tensor, for models that do not fit into memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.capture import skeleton
from fxgrow.errors import AmountError, FileError, PlanError
from fxgrow.files.origins import checked_arguments, original_of
from fxgrow.files.saving import KEY, check_same_tensors, header_for, header_in, parts_by_hand, structure_of
from fxgrow.files.tensor_files import TensorFiles, aligned, write_shards
from fxgrow.growth.growing import grow
from fxgrow.growth.wish import Width
from fxgrow.history import drawn_by, history_of, known_history, tensors_of
from fxgrow.modules.tensors import place, tied_names
from fxgrow.transforms.width import grown_tensors, like
from fxgrow.writing import writable

_REMEDY = "pass the model that the checkpoint is of, perhaps on the meta device"


def grow_files(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: nn.Module | None = None,
    width: Width | None = None,
    depth: Width | None = None,
    *,
    seed: int = 0,
    shard_size: int = 2**30,
    base: str | None = None,
    base_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Grow a checkpoint into a folder of shards, one tensor at a time: the model may be larger than memory.

    The tensors are those that `grow` and `save` give for the same seed, bit for bit, and `load` reads the folder. It
    has Hugging Face's layout. Planning needs shapes alone. Nothing is proved or tested: where both models fit into
    memory, load them and call `fxgrow.certify`.

    Parameters
    ----------
    source: a safetensors file, the index of shards, or a folder with either.
    target: a new folder. It gets its name once all of it is written; before that it is called TARGET.partial-N.
    model: the model of the checkpoint, perhaps on the meta device. For a file that fxgrow wrote: the original, which
        may be left out where the file names a model of timm or torchvision. Only its structure is used, and the values
        of buffers that checkpoints leave out (`persistent=False`): these must have data.
    width, depth, seed: as in `grow`.
    shard_size: bytes. Memory holds about two shards, and a few times the largest tensor.
    base, base_kwargs: as in `save`.
    options: others of `grow`, but for `verify`, `calibrate` and `loss`.

    Returns
    -------
    The grown model on the meta device: `fxgrow.report` has its plan.

    Raises
    ------
    FileError: the checkpoint is not of this model, is damaged, or the target is there already.
    FxgrowError: as in `grow`.

    >>> import fxgrow
    >>> fxgrow.grow_files("llama", "wider", nn.Linear(2, 2), 2, verify="full")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fxgrow.errors.AmountError: verify needs all of the model in memory: leave verify out, or use fxgrow.grow
    """
    for name in sorted({"verify", "calibrate", "loss"} & options.keys()):
        raise AmountError(f"{name} needs all of the model in memory", remedy=f"leave {name} out, or use fxgrow.grow")
    if isinstance(shard_size, bool) or not isinstance(shard_size, int) or shard_size < 1:
        raise AmountError(f"shard_size={shard_size!r} is not a number of bytes", remedy="pass one, such as 2**30")
    folder = Path(target)
    if folder.exists():
        raise FileError("there is something of that name", where=str(target), remedy="name a new folder")
    writable(folder.parent)
    files = TensorFiles(source)
    if KEY in files.metadata:
        header = header_in(files)
        original = model if model is not None else original_of(header, source, weights=False)
        model = structure_of(header, source, original)
        base, base_kwargs = base or header.get("base"), base_kwargs or header.get("base_kwargs")
    elif model is None:
        raise FileError("the checkpoint does not say what it is of", where=str(source), remedy=_REMEDY)
    arguments = checked_arguments(base, base_kwargs)
    read = _Reader(model, files)
    grown = grow(read.structure, width, depth, seed=seed, verify=False, **options)
    history = known_history(grown)
    planned = history.steps[-1].plan
    if planned.parts:
        raise PlanError(
            "the model grows in parts, and which of them it runs is seen where it has values",
            where=type(model).__name__,
            remedy="use fxgrow.grow",
        )
    header = header_for(grown, history, parts_by_hand(grown, history), base, arguments)
    tensors, seeded = tensors_of(read.structure, history), drawn_by(seed, history.stage)
    stream = grown_tensors(grown, planned, tensors, seeded, read)
    write_shards(folder, _once(grown, header["tied"], stream), {KEY: json.dumps(header)}, shard_size)
    return grown


def _once(
    grown: nn.Module, tied: Mapping[str, str], stream: Iterator[tuple[list[str], Tensor, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a grown model once, by the name that a file has it under."""
    left = {name: tensor for name, tensor in tensors_of(grown, history_of(grown)).items() if name not in tied}
    for names, _, data in stream:
        name = tied.get(names[0], names[0])
        if left.pop(name, None) is not None:
            yield name, data
    for name, tensor in left.items():  # constants that a graph was recorded with
        if tensor.is_meta:
            raise FileError("growth made a tensor without values", where=name, remedy="use fxgrow.grow, and report it")
        yield name, tensor


class _Reader:
    """Reads the entries of a model's tensors from a checkpoint.

    Attributes
    ----------
    structure: the model without data, in the precision of the checkpoint.

    Raises
    ------
    FileError: the checkpoint is not of the model, or a buffer has no values.
    """

    def __init__(self, model: nn.Module, files: TensorFiles) -> None:
        self.files = files
        self.structure = skeleton(model)
        history, in_checkpoints = history_of(model), model.state_dict(keep_vars=True).keys()
        values, ties = tensors_of(model, history), tied_names(model)
        there = {name: next((n for n in ties.get(name, [name]) if n in files), None) for name in values}
        for name, tensor in values.items():
            if there[name] is None and name not in in_checkpoints and tensor.is_meta:
                raise FileError(
                    "checkpoints leave this buffer out, and in the model it has no values",
                    where=name,
                    remedy="build the model with its parameters alone on meta (accelerate.init_empty_weights)",
                )
        wanted = {name: tensor for name, tensor in values.items() if there[name] is not None or name in in_checkpoints}
        check_same_tensors(wanted, files, {name: n for name, n in there.items() if n not in (None, name)}, _REMEDY)
        placed: dict[int, Tensor] = {}
        self.sources: dict[int, str | Tensor] = {}
        for name, bare in tensors_of(self.structure, history).items():
            source = there[name]
            if id(bare) not in placed:
                dtype = bare.dtype if source is None else files[source].dtype
                placed[id(bare)] = bare if dtype == bare.dtype else like(bare, bare.detach().to(dtype))
                self.sources[id(placed[id(bare)])] = values[name] if source is None else source
            place(self.structure, name, placed[id(bare)])

    def __call__(self, tensor: Tensor) -> Tensor:
        source = self.sources.get(id(tensor))
        if source is None:  # a plain tensor, or a readout that begins
            return torch.zeros_like(tensor, device="cpu") if isinstance(tensor, nn.Parameter) else tensor
        return aligned(self.files[source]) if isinstance(source, str) else source.detach().cpu()
