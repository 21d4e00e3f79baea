"""Reads the operator sets that an ONNX file declares, without its graph and without any package.

The file is a protobuf message ``ModelProto``: a sequence of fields, each with a tag that holds its
number and kind. The reader skips every field but the declarations, whatever its size.
"""

import os
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from alignseg_infer.spec.plugin_contract import DOMAIN
from alignseg_infer.spec.protobuf import read_fields

_OPSET_IMPORT = 8  # of ModelProto
_NAME, _VERSION = 1, 2  # of OperatorSetIdProto
_LONGEST_NAME = 1 << 16
_MOST_FIELDS = 1 << 16  # of ModelProto, each entry of its metadata counted


def needs_plugins(path: Path) -> bool:
    """Whether the ONNX file at `path` has nodes that only TensorRT plugins compute.

    The answer is False for a file that cannot be read or is not ONNX; loading it tells what is
    wrong.
    """
    return DOMAIN in read_opsets(path)


def read_opsets(path: Path) -> dict[str, int]:
    """Return the version of each operator set that the ONNX file at `path` declares, by domain.

    ONNX's own domain is the empty string. The result is empty for a file that cannot be read or is
    not ONNX.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return {}
    try:
        with path.open("rb") as file:
            return _read_declarations(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError):
        return {}


def _read_declarations(file: BinaryIO, end: int) -> dict[str, int]:
    declarations = (
        _read_declaration(file, field.end)
        for field in islice(read_fields(file, end), _MOST_FIELDS)
        if field.number == _OPSET_IMPORT
    )
    return dict(declarations)


def _read_declaration(file: BinaryIO, end: int) -> tuple[str, int]:
    """Return domain and version of one operator set; ONNX leaves out the domain of its own set."""
    domain, version = b"", 0
    for field in read_fields(file, end):
        if field.number == _NAME and field.value is None:
            domain = file.read(min(field.end - file.tell(), _LONGEST_NAME))
        elif field.number == _VERSION and field.value is not None:
            version = field.value
    return "" if domain == b"ai.onnx" else domain.decode("utf-8", "replace"), version
