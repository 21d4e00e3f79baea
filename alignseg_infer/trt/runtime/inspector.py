"""Reads the layers of a built engine from the JSON of TensorRT's engine inspector.

The guide's chapter "Engine Inspector", and the page on its migration from TensorRT 10 to 11,
describe the JSON: it has "Layers", whose outputs have "Format/Datatype", such as ``Half`` or ``Row
major linear FP16 format``, or "DataType". This has not run on a GPU yet.
"""

import json
import re
from collections import Counter

from alignseg_infer.errors import EngineError
from alignseg_infer.trt.engine_file import LayerCount

_TYPES = {
    "HALF": r"half|fp16",
    "FLOAT": r"float\b|fp32",
    "INT8": r"int8",
    "INT32": r"int32",
    "INT64": r"int64",
    "BOOL": r"bool",
}


def layers_from_json(information: str) -> tuple[LayerCount, ...]:
    """Count layers by kind and by the type of their first output; ``?`` stands for unknown.

    Args:
        information: The JSON of ``EngineInspector.get_engine_information``.

    Raises:
        EngineError: The text is not such JSON.
    """
    try:
        layers = json.loads(information)["Layers"]
        counts = Counter((_kind_of(layer), _type_of(layer)) for layer in layers)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"TensorRT's inspector describes the engine as {information[:80]!r}",
            'JSON with the "Layers" of the engine',
            "report this with the version of TensorRT; the engine runs without it",
        ) from error
    return tuple(
        LayerCount(kind, data_type, count) for (kind, data_type), count in sorted(counts.items())
    )


def _kind_of(layer: object) -> str:
    return str(layer["LayerType"]) if isinstance(layer, dict) and "LayerType" in layer else "?"


def _type_of(layer: object) -> str:
    outputs = layer.get("Outputs") if isinstance(layer, dict) else None
    if not outputs:
        return "?"
    said = str(outputs[0].get("Format/Datatype") or outputs[0].get("DataType"))
    return next((name for name, words in _TYPES.items() if re.search(words, said, re.I)), "?")
