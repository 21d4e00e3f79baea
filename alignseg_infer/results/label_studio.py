"""Masks for Label Studio: its brush RLE, and the labelling configuration with the classes.

A brush mask is stored as RGBA, so each pixel is four equal bytes, 0 or 255. The code is a stream of
bits: the number of bytes (32 bits), the bits of a value less one (5), four sizes of counters less
one (4 each), and then the runs. A run is a one, the number of its counter's size (2), its length
less one in as many bits as that size says, and its value (8). (rle-pack of thi.ng/umbrella.)
"""

import html
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from alignseg_infer.arrays import Labels
from alignseg_infer.results.runs import Runs, runs_by_label
from alignseg_infer.spec.model import ClassSpec

VALUE_BITS = 8
COUNTERS = (3, 4, 8, 16)  # bits
LONGEST = 1 << COUNTERS[-1]  # bytes of one run
CHANNELS = 4


def brush_results(
    labels: Labels, classes: ClassSpec, from_name: str, to_name: str
) -> list[dict[str, Any]]:
    """Return one brush result for each class that occurs; see `Segmentation.to_label_studio`.

    Args:
        labels: (H, W). Labels that are no class, such as 255, stay unlabelled.
        classes: Their names.
        from_name: Name of the ``BrushLabels`` in the labelling configuration.
        to_name: Name of its ``Image``.
    """
    height, width = labels.shape
    return [
        {
            "id": f"class-{label}",
            "type": "brushlabels",
            "from_name": from_name,
            "to_name": to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": _brush_rle(runs, height * width),
                "brushlabels": [classes.names[label]],
            },
        }
        for label, runs in runs_by_label(labels).items()
        if label < len(classes.names)
    ]


def brush_config(classes: ClassSpec, from_name: str, to_name: str) -> str:
    """Return the labelling configuration, XML; see `Segmentation.label_studio_config`."""
    brush, image = html.escape(from_name), html.escape(to_name)
    lines = [
        f'    <Label value="{html.escape(name)}" background="#{bytes(color).hex()}"/>'
        for name, color in zip(classes.names, classes.colors, strict=True)
    ]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{image}" value="$image"/>',
            f'  <BrushLabels name="{brush}" toName="{image}">',
            *lines,
            "  </BrushLabels>",
            "</View>",
        ]
    )


def _brush_rle(runs: Runs, pixels: int) -> list[int]:
    """Return the bytes of a mask's code as numbers, with zeros at the end as in the SDK's."""
    sizes = "".join(f"{bits - 1:04b}" for bits in COUNTERS)
    head = f"{CHANNELS * pixels:032b}{VALUE_BITS - 1:05b}{sizes}"
    bits = "".join(chain([head], _run_bits(_lengths(runs, pixels))))
    bits += "0" * (8 - len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def _lengths(runs: Runs, pixels: int) -> Iterable[int]:
    """Return the bytes of the runs outside and inside the mask, in turn, beginning outside."""
    edges = np.column_stack(runs).ravel()  # (2*R,): start, end, start, end...
    lengths = CHANNELS * np.diff(edges, prepend=0, append=pixels)
    return (int(length) for length in lengths)


def _run_bits(lengths: Iterable[int]) -> Iterator[str]:
    for number, length in enumerate(lengths):
        value = 255 * (number % 2)
        left = length
        while left:
            part = min(left, LONGEST)
            size = next(i for i, bits in enumerate(COUNTERS) if part <= 1 << bits)
            yield f"1{size:02b}{part - 1:0{COUNTERS[size]}b}{value:08b}"
            left -= part
