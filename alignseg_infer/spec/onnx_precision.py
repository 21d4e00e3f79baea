"""The precision that an ONNX file computes in, and its target, read without any package.

Other tools quantise exported files, or make them float16, and keep their metadata. The file then
still says ``fp32``, and would be taken for the reference of others.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from alignseg_infer.errors import SpecError
from alignseg_infer.spec.from_json import MAX_FACTS
from alignseg_infer.spec.model import SPEC_KEY, ModelSpec, Precision, Target
from alignseg_infer.spec.protobuf import read_fields

# What messages hold, as numbers of fields.
_GRAPH = 7  # of ModelProto
_NODE, _WEIGHT = 1, 5  # of GraphProto
_OPERATOR, _ATTRIBUTE = 4, 5  # of NodeProto
_TENSOR = 5  # of AttributeProto
_DATA_TYPE = 2  # of TensorProto
_HALVES = frozenset({10, 16})  # float16 and bfloat16
_LONGEST = 1 << 8  # bytes of an operator's name
_METADATA = 14  # of ModelProto
_KEY, _VALUE = 1, 2  # of StringStringEntryProto
_COARSER = (Precision.FP32, Precision.FP16, Precision.INT8)


def is_quantizer(operator: str) -> bool:
    """Return whether an operator rounds to integers or computes with them.

    Such are QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, ConvInteger, QLinearConv, and
    ONNX Runtime's own, such as QLinearAdd and DynamicQuantizeMatMul.
    """
    name = operator.lower()
    return "quantize" in name or name.startswith("qlinear") or name.endswith(("integer", "nbits"))


def follow_precision(path: Path, told: Precision) -> Precision:
    """Return `told`, or what the graph of the ONNX file `path` shows if that is coarser.

    A graph that shows less than it was told to be is believed: ONNX Runtime's optimiser, say,
    folds casts of weights, and fuses what quantises.
    """
    return max(told, read_precision(path), key=_COARSER.index)


def read_precision(path: Path) -> Precision:
    """Return what the graph of an ONNX file shows: quantised, with float16 weights, or neither.

    It is ``fp32`` for a file that cannot be read; loading it tells what is wrong.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return Precision.FP32
    half = False
    try:
        with path.open("rb") as file:
            for content in _read_graph(file, os.fstat(file.fileno()).st_size):
                if isinstance(content, str) and is_quantizer(content):
                    return Precision.INT8
                half |= content in _HALVES
    except OSError:
        return Precision.FP32
    return Precision.FP16 if half else Precision.FP32


def read_target(path: Path) -> Target | None:
    """Return the hardware that the facts in an ONNX file name, before a runtime reads it.

    It is None for a file without such facts, or one that cannot be read; loading it tells what is
    wrong.
    """
    if not os.path.isfile(path):
        return None
    try:
        with path.open("rb") as file:
            for field in read_fields(file, os.fstat(file.fileno()).st_size):
                if field.number == _METADATA and field.value is None:
                    key, text = _read_entry(file, field.end)
                    if key == SPEC_KEY:
                        export = ModelSpec.from_json(text).export
                        return export.target if export else None
    except (OSError, ValueError, SpecError):
        return None
    return None


def _read_entry(file: BinaryIO, end: int) -> tuple[str, str]:
    texts = {_KEY: "", _VALUE: ""}
    for field in read_fields(file, end):
        if field.number in texts and field.value is None:
            length = min(field.end - file.tell(), MAX_FACTS)
            texts[field.number] = file.read(length).decode("utf-8", "replace")
    return texts[_KEY], texts[_VALUE]


def _read_graph(file: BinaryIO, end: int) -> Iterator[str | int]:
    """Yield the name of each node's operator, and the type of each weight and constant."""
    for field in read_fields(file, end):
        if field.number == _GRAPH and field.value is None:
            for part in read_fields(file, field.end):
                if part.number == _NODE:
                    yield from _read_node(file, part.end)
                elif part.number == _WEIGHT:
                    yield from _read_type(file, part.end)


def _read_node(file: BinaryIO, end: int) -> Iterator[str | int]:
    for field in read_fields(file, end):
        if field.number == _OPERATOR:
            yield file.read(min(field.end - file.tell(), _LONGEST)).decode(errors="replace")
        elif field.number == _ATTRIBUTE:
            for part in read_fields(file, field.end):
                if part.number == _TENSOR and part.value is None:
                    yield from _read_type(file, part.end)


def _read_type(file: BinaryIO, end: int) -> Iterator[int]:
    for field in read_fields(file, end):
        if field.number == _DATA_TYPE and field.value is not None:
            yield field.value
