"""Files of weights: what ``torch.save`` and safetensors write.

Weights are a dict of tensors, bare or under ``model``, ``state_dict`` or ``model_state_dict``.
Nothing but tensors and plain containers is ever unpickled.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from alignseg_infer.errors import INSTALL_EXPORT, CheckpointError, MissingDependencyError
from alignseg_infer.models.identify import detected_file

State: TypeAlias = dict[str, Tensor]

SPEC_ENTRY = "alignseg"  # where our checkpoints carry their ModelSpec
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
KEYS_SHOWN = 6


def safetensors_torch() -> Any:
    """The module ``safetensors.torch``.

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
    """The tensors by key, without wrappers and prefixes, and the embedded spec if there is one.

    Args:
        path: A file that exists.

    Raises:
        CheckpointError: It is no checkpoint, damaged, or wants to run code.
        MissingDependencyError: It is safetensors and that package is not installed.
    """
    if (detected := detected_file(path)) is not None:
        raise CheckpointError(
            f"{path} is no checkpoint: it looks like {detected.what}",
            "a file written by torch.save, or safetensors",
            detected.fix,
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _torch_load(path)
    if not isinstance(content, Mapping):
        raise _not_a_state_dict(path, f"it holds a {type(content).__name__}")
    embedded = content.get(SPEC_ENTRY)
    tensors = _unwrapped(content)
    if not tensors:
        raise _not_a_state_dict(
            path, f"it holds the keys {first_few([str(key) for key in content])}"
        )
    return tensors, embedded if isinstance(embedded, str) else None


def _read_safetensors(path: Path) -> tuple[State, str | None]:
    loader = safetensors_torch()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state: State = loader.load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return _without_prefixes(state), metadata.get(SPEC_ENTRY)


def _torch_load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error).lower() and "weights only" not in str(error).lower():
            raise _damaged(path, str(error)) from error
        raise CheckpointError(
            f"{path} is a pickle that wants to run code while loading: {_first_line(error)}",
            "tensors in plain dicts; nothing else is ever loaded",
            "where you trust it, save the weights alone: torch.save(model.state_dict(), PATH)",
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError) as error:
        raise _damaged(path, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    """What the loader says, without its advice to load unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    return (lines or [str(error).split("\n")[0]])[0].split(". ")[0]


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or damaged: {reason}",
        "a complete checkpoint",
        "download or copy it again, and compare its size or SHA-256 with the original",
    )


def _not_a_state_dict(path: Path, seen: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no state dict: {seen}",
        f"tensors by name, bare or under one of {', '.join(WRAPPERS)}",
        "torch.save(model.state_dict(), PATH)",
    )


def _unwrapped(content: Mapping[Any, Any]) -> State:
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            return _unwrapped(inner)
    tensors = {str(k): value for k, value in content.items() if isinstance(value, Tensor)}
    return _without_prefixes(tensors)


def _without_prefixes(state: State) -> State:
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return _without_prefixes({k.removeprefix(prefix): v for k, v in state.items()})
    return state


def first_few(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - KEYS_SHOWN
    return ", ".join(names[:KEYS_SHOWN]) + (f", and {more} more" if more > 0 else "")
