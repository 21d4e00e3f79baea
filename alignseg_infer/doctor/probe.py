"""What a child process does: it loads one part, and runs the catalogue in it, see `asking`.

It writes one line of JSON after each step. So what it found before a runtime ends the process, or
hangs, is not lost.
"""

import json
import os
import sys
from typing import Any, TextIO

from alignseg_infer.doctor.catalogue import CASE_NAMES, read_graphs
from alignseg_infer.doctor.parts import load_part
from alignseg_infer.doctor.runtimes import Target, check_safely, open_target
from alignseg_infer.errors import AlignSegError, DeviceError


def main() -> None:
    """Load the part named by the first argument, and check the graphs that stdin lists."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what runtimes print does not mix with our lines
    try:
        loaded = load_part(sys.argv[1])
    except Exception as error:  # a part may raise anything
        _write(lines, "unloaded", **_describe(error))
        return
    _write(lines, "loaded", runs_on=loaded.runs_on, cuda=loaded.cuda)
    _check_all(lines, json.load(sys.stdin))
    if sys.argv[1] == "tensorrt":
        _check_plugins(lines)


def _check_all(lines: TextIO, wanted: dict[str, list[str]]) -> None:
    graphs = read_graphs()
    for name, cases in wanted.items():
        check = open_target(Target(name)) if cases else None
        if check is None:
            _write(lines, "absent", target=name)
            continue
        for case in cases:
            found = check_safely(check, CASE_NAMES[case], graphs[case])
            _write(
                *(lines, "case"),
                target=name,
                name=case,
                verdict=found.verdict,
                detail=one_line(found.detail),
            )


def _check_plugins(lines: TextIO) -> None:
    """Say whether the library of plugins, if there is one, is for this TensorRT."""
    from alignseg_infer.trt.flavours import Flavour, load_tensorrt
    from alignseg_infer.trt.plugin_library import find_plugin_library, require_same_major

    try:
        library = find_plugin_library(None, "", DeviceError)
    except AlignSegError:
        return  # nobody needs one yet
    try:
        require_same_major(library, load_tensorrt(Flavour.TENSORRT), DeviceError)
    except DeviceError as error:
        _write(lines, "clash", problem=one_line(error.problem), fix=one_line(error.fix))


def _describe(error: Exception) -> dict[str, Any]:
    if isinstance(error, AlignSegError):
        needs = isinstance(error, DeviceError)
        return {"problem": one_line(error.problem), "fix": one_line(error.fix), "device": needs}
    text = one_line(str(error)) or type(error).__name__
    return {"problem": text, "fix": "", "device": False}


def one_line(text: str) -> str:
    """Return a text in one line."""
    return " ".join(text.split())


def _write(lines: TextIO, kind: str, **facts: object) -> None:
    lines.write(json.dumps({"kind": kind, **facts}) + "\n")
    lines.flush()
