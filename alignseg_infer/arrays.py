"""Type names for the arrays and sizes that modules exchange."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]  # (H, W, 3), BGR unless stated otherwise, 0..255
Floats: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.unsignedinteger[Any]]  # (H, W), positions in the class table
Size: TypeAlias = tuple[int, int]  # height, width


@dataclass(frozen=True)
class InputShape:
    """Batch size, height and width of the network input; ``str()`` gives ``1x512x1024``."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"


def plain_value(value: Any) -> Any:
    """Return what callers give as plain Python values, so that one check fits all of them.

    NumPy numbers become Python's; lists (as from JSON or YAML) and arrays of one dimension become
    tuples. Everything else stays as it is, such as images.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim < 2:
        value = value.tolist()
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return tuple(map(plain_value, value))
    return value
