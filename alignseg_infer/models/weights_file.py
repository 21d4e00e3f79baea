"""Reading files of weights, as ``torch.save`` and safetensors write them.

Weights are a dict of tensors, either bare or under ``model``, ``state_dict`` or
``model_state_dict``. Only tensors and plain containers are ever unpickled.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from alignseg_infer.errors import INSTALL_EXPORT, CheckpointError, MissingDependencyError
from alignseg_infer.models.identify import detect_file

State: TypeAlias = dict[str, Tensor]

SPEC_ENTRY = "alignseg"  # where our checkpoints carry their ModelSpec
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # from DataParallel and from torch.compile
KEYS_SHOWN = 6


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


def read_weights(path: Path) -> tuple[State, str | None]:
    """Read the tensors by key, without wrappers and prefixes, and the embedded spec, if any.

    Args:
        path: A file that exists.

    Raises:
        CheckpointError: The file is not a checkpoint, is damaged, or would run code.
        MissingDependencyError: The file needs safetensors, which is not installed.
    """
    if (detected := detect_file(path)) is not None:
        raise CheckpointError(
            f"{path} is not a checkpoint: it looks like {detected.what}",
            "a file written by torch.save, or safetensors",
            detected.fix,
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _read_pickle(path)
    if not isinstance(content, Mapping):
        raise _state_dict_error(path, f"it contains a {type(content).__name__}")
    embedded = content.get(SPEC_ENTRY)
    tensors = _unwrap(content)
    if not tensors:
        raise _state_dict_error(path, f"it has the keys {first_few([str(key) for key in content])}")
    for name, tensor in tensors.items():
        _require_own_values(path, name, tensor)
    return tensors, embedded if isinstance(embedded, str) else None


def _require_own_values(path: Path, name: str, tensor: Tensor) -> None:
    """Check that the file holds as many values as the tensor's shape says.

    Repeated values (a stride of 0) would let a small file take all memory.
    """
    if tensor.layout is not torch.strided:
        return  # refused later, as not dense
    size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > stored:
        raise CheckpointError(
            f"{path} holds {stored} bytes for {name}, whose shape {tuple(tensor.shape)} needs "
            f"{size}",
            "all values of every tensor",
            "torch.save({key: value.contiguous() for key, value in state.items()}, PATH)",
        )


def _read_safetensors(path: Path) -> tuple[State, str | None]:
    loader = safetensors_torch()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state: State = loader.load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damage_error(path, str(error)) from error
    return _strip_prefixes(state), metadata.get(SPEC_ENTRY)


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error).lower() and "weights only" not in str(error).lower():
            raise _damage_error(path, str(error)) from error
        raise CheckpointError(
            f"{path} is a pickle that would run code while loading: {_summarize(error)}",
            "tensors in plain dicts; nothing else is loaded",
            "on a machine where you trust the file, save only its weights: "
            "torch.save(model.state_dict(), PATH)",
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError) as error:
        raise _damage_error(path, _summarize(error)) from error


def _summarize(error: Exception) -> str:
    """Return the loader's message without its advice to load the file unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    return (lines or [str(error).split("\n")[0]])[0].split(". ")[0]


def _damage_error(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or damaged: {reason}",
        "a complete checkpoint",
        "download or copy it again, and compare its size or SHA-256 with the original",
    )


def _state_dict_error(path: Path, seen: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a state dict: {seen}",
        f"tensors by name, bare or under one of {', '.join(WRAPPERS)}",
        "torch.save(model.state_dict(), PATH)",
    )


def _unwrap(content: Mapping[Any, Any]) -> State:
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            return _unwrap(inner)
    tensors = {str(k): value for k, value in content.items() if isinstance(value, Tensor)}
    return _strip_prefixes(tensors)


def _strip_prefixes(state: State) -> State:
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return _strip_prefixes({k.removeprefix(prefix): v for k, v in state.items()})
    return state


def first_few(names: list[str]) -> str:
    """Join the first few names, and say how many more there are."""
    more = len(names) - KEYS_SHOWN
    return ", ".join(names[:KEYS_SHOWN]) + (f", and {more} more" if more > 0 else "")
