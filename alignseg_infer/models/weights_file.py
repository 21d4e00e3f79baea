"""Reading files of weights, as ``torch.save`` and safetensors write them."""

import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignseg_infer.errors import INSTALL_EXPORT, CheckpointError, MissingDependencyError
from alignseg_infer.models.checkpoint_options import Weights
from alignseg_infer.models.fitting import complete_average
from alignseg_infer.models.identify import FileKind, advice_for, identify
from alignseg_infer.models.pickled import damage_error, read_pickle
from alignseg_infer.models.state_search import (
    WRAPPERS,
    Found,
    State,
    entries_of,
    find_networks,
    largest_state,
    name_of,
    unread_averages,
)
from alignseg_infer.text import first_few

SPEC_ENTRY = "alignseg"  # where our checkpoints carry their ModelSpec
_UNPACKED = 1 << 28  # bytes that any archive may unpack to
_COMPRESSION = 8  # most that weights shrink by, and more than any real ones do


class FileOfWeights(NamedTuple):
    """The weights that a file holds for one network.

    Attributes:
        state: Tensors by key, without wrappers and prefixes.
        spec: The embedded spec as JSON; None if there is none.
        choice: Which copy was taken, and from where, if the file also holds another kind.
        notes: What was left out.
    """

    state: State
    spec: str | None
    choice: tuple[Weights, str] | None
    notes: tuple[str, ...]


def safetensors_torch() -> Any:
    """Return the module ``safetensors.torch``.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingDependencyError(
            "the package safetensors is not installed",
            "safetensors, to read or write .safetensors files",
            INSTALL_EXPORT,
        ) from error
    return safetensors.torch


def read_weights(path: Path, weights: Weights | None = None) -> FileOfWeights:
    """Read the weights of one network.

    Args:
        path: A file that exists. Its content says how it is read, whatever its name.
        weights: Which copy to take; None for an averaged one if there is any.

    Raises:
        CheckpointError: The file is not a checkpoint, is damaged, would run code, or does not hold
            `weights`.
        MissingDependencyError: The file needs safetensors, which is not installed.
    """
    found = identify(path)
    notes: tuple[str, ...] = ()
    if found.kind is FileKind.SAFETENSORS:
        content, embedded = _read_safetensors(path)
    elif found.kind is FileKind.PYTORCH:
        _require_true_size(path)
        content, replaced = read_pickle(path)
        notes = _describe_replaced(replaced)
        embedded = entries_of(content).get(SPEC_ENTRY)
    else:
        raise CheckpointError(
            f"{path} is not a checkpoint: it looks like {found.what}",
            "a file written by torch.save, or safetensors",
            advice_for(found, path),
        )
    state, choice, more = _choose(path, content, weights)
    _require_own_values(path, state)
    return FileOfWeights(
        state, embedded if isinstance(embedded, str) else None, choice, (*notes, *more)
    )


def _read_safetensors(path: Path) -> tuple[object, str | None]:
    loader = safetensors_torch()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return loader.load_file(path), metadata.get(SPEC_ENTRY)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise damage_error(path, str(error)) from error


def _require_true_size(path: Path) -> None:
    """Check that an archive does not unpack to far more than its own size.

    Raises:
        CheckpointError: It does.
    """
    with (
        suppress(zipfile.BadZipFile, NotImplementedError, ValueError),
        zipfile.ZipFile(path) as archive,
    ):
        claimed, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
        if claimed > max(_UNPACKED, _COMPRESSION * size):
            raise CheckpointError(
                f"{path} has {size} bytes and would unpack to {claimed}",
                "weights, which hardly shrink when they are packed",
                "do not use it; ask its author for a .safetensors file",
            )


def _describe_replaced(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"objects were left out, and their code was not run: {first_few(list(names))}",)


def _choose(
    path: Path, content: object, weights: Weights | None
) -> tuple[State, tuple[Weights, str] | None, tuple[str, ...]]:
    """Return the state of one network, what was chosen if anything was, and notes.

    Raises:
        CheckpointError: There are no tensors, or not the copy that was asked for.
    """
    networks = find_networks(content)
    if not networks:
        return _require_tensors(path, content), None, ()
    by_kind = {kind: [one for one in networks if one.kind is kind] for kind in Weights}
    kind = weights or (Weights.EMA if by_kind[Weights.EMA] else Weights.RAW)
    if not by_kind[kind]:
        raise _lacks_kind(path, kind, networks)
    taken, *others = by_kind[kind]
    state, notes = taken.state, list(taken.notes)
    if kind is Weights.EMA and by_kind[Weights.RAW]:
        state, note = complete_average(taken, by_kind[Weights.RAW][0])
        notes += note
    elif kind is Weights.RAW and weights is None:
        notes += [
            f"not used, since it is not like the network: {p}" for p in unread_averages(content)
        ]
    if others:
        places = ", ".join(one.place for one in others)
        notes.append(f"the file has several networks: {taken.place} was taken, not {places}")
    both = all(by_kind.values())
    return state, (kind, taken.place) if both else None, tuple(notes)


def _lacks_kind(path: Path, kind: Weights, networks: list[Found]) -> CheckpointError:
    other = Weights.RAW if kind is Weights.EMA else Weights.EMA
    words = {Weights.EMA: "averaged weights", Weights.RAW: "raw weights"}
    places = [one.place for one in networks]
    there = "" if places == ["the file"] else f", in {', '.join(places)}"
    return CheckpointError(
        f"{path} has no {words[kind]}, which weights={kind.value!r} asks for: it has "
        f"{words[other]} only{there}",
        f"weights={other.value!r}, the only kind in this file",
        "leave weights= out",
    )


def _require_tensors(path: Path, content: object) -> State:
    """Return the largest group of tensors; they are no AlignSeg, but tell what they are.

    Raises:
        CheckpointError: There is none.
    """
    state = largest_state(content)
    if state:
        return state
    if isinstance(content, dict):
        keys = [name_of(key) for key in entries_of(content)]
        seen = f"it has the keys {first_few(keys)}" if keys else "it is an empty dictionary"
    else:
        seen = f"it contains a {type(content).__name__}"
    raise CheckpointError(
        f"{path} is not a state dict: {seen}",
        f"tensors by name, bare or under one of {', '.join(WRAPPERS)}",
        "torch.save(model.state_dict(), PATH)",
    )


def _require_own_values(path: Path, state: State) -> None:
    """Check that the file holds as many values as the shapes say, each tensor its own.

    Repeated values (a stride of 0, or one storage for all) would let a small file take all memory.

    Raises:
        CheckpointError: It does not.
    """
    dense = {key: value for key, value in state.items() if _is_dense(value)}
    for name, tensor in dense.items():
        if tensor.is_meta:
            raise CheckpointError(
                f"{path} holds no values for {name}, which was saved from the device meta",
                "tensors with values",
                "load the weights into the network before saving it: "
                "torch.save(model.state_dict(), PATH)",
            )
        _require_stored(path, name, tensor.shape, _bytes_of([tensor]), [tensor])
    claimed = _bytes_of(dense.values())
    _require_stored(path, "all tensors", None, claimed, list(dense.values()))


def _require_stored(
    path: Path, name: str, shape: torch.Size | None, claimed: int, tensors: list[Tensor]
) -> None:
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in tensors}
    stored = sum(storage.nbytes() for storage in storages.values())
    if claimed > stored * (1 if shape is not None else 2):  # tied weights count twice
        whose = (
            f", whose shape {tuple(shape)} needs {claimed}"
            if shape is not None
            else (f", whose shapes need {claimed}")
        )
        raise CheckpointError(
            f"{path} holds {stored} bytes for {name}{whose}",
            "all values of every tensor",
            "torch.save({key: value.contiguous() for key, value in state.items()}, PATH)",
        )


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the tensor has one storage; others are refused later."""
    return tensor.layout is torch.strided and not tensor.is_nested
