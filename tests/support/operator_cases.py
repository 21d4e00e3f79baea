"""Arguments of the operators ``torch.ops.alignseg``, for tests on the CPU and on a GPU."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alignseg_infer.spec.plugin_contract import PLUGIN_OPS, PluginOp

OPS = list(PLUGIN_OPS.values())
SIZES = {"N": 2, "C": 6, "K": 3, "h": 5, "w": 7, "H": 9, "W": 13}
LAYOUTS = {"planar": torch.contiguous_format, "last": torch.channels_last}


def operator(op: PluginOp) -> Any:
    """Return the operator as PyTorch calls it."""
    return getattr(torch.ops.alignseg, op.operator).default


def fields(op: PluginOp) -> tuple[str, ...]:
    """Return the arguments after the tensors."""
    return ("release-2021-12",) * len(op.fields)


def tensors(
    op: PluginOp,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    sizes: Mapping[str, int] = SIZES,
) -> list[Tensor]:
    """Make valid inputs: noise of one type, features in one layout, planar offsets.

    Args:
        op: The operator.
        device: Where to put the inputs.
        dtype: Type of all inputs.
        layout: Layout of all inputs but offsets.
        sizes: Sizes that differ from `SIZES`, by the letters of `op.dimensions`.
    """
    known = {**SIZES, **sizes}
    random = torch.Generator().manual_seed(0)
    made = []
    for index, letters in enumerate(op.dimensions[:-1]):
        shape = [known.get(letter, 2) for letter in letters]
        noise = torch.randn(shape, generator=random) * (3 if index in op.offsets else 1)
        stored = torch.contiguous_format if index in op.offsets else layout
        made.append(noise.to(device, dtype).contiguous(memory_format=stored))
    return made
