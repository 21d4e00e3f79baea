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
