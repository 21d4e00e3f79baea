"""Kinds of exports of the small network, which tests share so that few are made.

An export for images of any size takes 25 s of a processor, 50 s with the sampler ``gather``; one of
a fixed size and batch takes 7 s.
"""

from typing import Any

from alignseg_infer.spec.model import OutputKind, Sampler, Upsampling
from tests.support.slow import all_slow

Kind = dict[str, Any]

NATIVE: Kind = {}
GATHER: Kind = {"sampler": Sampler.GATHER, "opset": 16}
LABELS: Kind = {"output": OutputKind.LABELS, "opset": 17}
OFFSETS: Kind = {"with_offsets": True}
RESIZE: Kind = {"upsampling": Upsampling.RESIZE}
RESIZE_GATHER: Kind = {**RESIZE, **GATHER}
LABELS_AND_OFFSETS: Kind = {**RESIZE, **LABELS, **OFFSETS}

FIXED: Kind = {"size": (65, 98), "batch": 2}
FIXED_GATHER: Kind = {**GATHER, **FIXED}
FIXED_RESIZE: Kind = {**RESIZE, **FIXED}
FIXED_OFFSETS: Kind = {**OFFSETS, "size": (65, 98)}  # any batch
PLAIN: Kind = {"rewrites": False, "size": (65, 98), "batch": 1, "opset": 19}
PLAIN_OFFSETS: Kind = {**OFFSETS, **PLAIN, **LABELS, "batch": 2}

FIXED_KINDS = [PLAIN, FIXED, FIXED_GATHER, FIXED_RESIZE, FIXED_OFFSETS, PLAIN_OFFSETS]
# With `FIXED_KINDS`, these two hold each choice once; the others are combinations of the same.
ANY_SIZE = [NATIVE, LABELS_AND_OFFSETS]
SLOW_ANY_SIZE = [GATHER, LABELS, OFFSETS, RESIZE, RESIZE_GATHER]


DYNAMIC_KINDS = [*ANY_SIZE, *all_slow(*SLOW_ANY_SIZE)]
KINDS = [*FIXED_KINDS, *DYNAMIC_KINDS]
