"""The argument of each CUDA kernel: a structure as in ``plugins/kernels/*_params.h``."""

import numpy as np


def _define_structure(addresses: str, numbers: str, triples: str = "") -> np.dtype[np.void]:
    """Define a structure: 8-byte addresses, then 8-byte integers, then triples of float32."""
    fields = [(name, "u8", ()) for name in addresses.split()]
    fields += [(name, "i8", ()) for name in numbers.split()]
    return np.dtype([*fields, *((name, "f4", (3,)) for name in triples.split())])


OFFSET_GRID_SAMPLE = _define_structure(
    "feature offset output",
    "batch channels feature_height feature_width height width channel_pitch convention",
)
ALIGNED_ADD = _define_structure(
    "high low high_offset low_offset output",
    "batch channels high_height high_width height width channel_pitch convention",
)
UPSAMPLE_ARGMAX = _define_structure(
    "logits labels confidence color palette not_finite",
    "batch classes logits_height logits_width height width",
)
PREPROCESS = _define_structure(
    "images output", "batch image_height image_width height width swap", "mean std"
)


def number_bytes(params: np.void) -> bytes:
    """Return the bytes of a structure that come after its addresses."""
    assert params.dtype.fields is not None
    addresses = [kind for kind, *_ in params.dtype.fields.values() if kind == np.uint64]
    return params.tobytes()[sum(kind.itemsize for kind in addresses) :]
