"""Lets a graph divide its channels, for programs that have one factor for all of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from alignseg_infer.spec.model import INPUT_NAME, SPEC_KEY, ModelSpec

_DIVIDED, _DIVISORS = f"{INPUT_NAME}.divided", f"{INPUT_NAME}.std"


def divide_in_graph(path: Path, spec: ModelSpec) -> bytes:
    """Return the ONNX file at `path` with a first node that divides the image by its std.

    The new graph takes ``pixel - mean``, (N, 3, H, W) float32, and its facts say so: their std
    is 1. It computes what the old graph computes of ``(pixel - mean) / std``, bit for bit.

    Args:
        path: A graph that takes float32 images. Weights in other files stay there.
        spec: Its facts.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    for node in graph.node:
        node.input[:] = [_DIVIDED if name == INPUT_NAME else name for name in node.input]
    divisors = np.array(spec.input.std, np.float32).reshape(1, 3, 1, 1)
    graph.initializer.append(numpy_helper.from_array(divisors, _DIVISORS))
    graph.node.insert(0, helper.make_node("Div", [INPUT_NAME, _DIVISORS], [_DIVIDED]))
    told = replace(spec, input=replace(spec.input, std=(1.0, 1.0, 1.0)))
    for entry in model.metadata_props:
        if entry.key == SPEC_KEY:
            entry.value = told.to_json()
    data: bytes = model.SerializeToString()
    return data
