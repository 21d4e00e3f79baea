"""The demo model in INT8 for CPUs, and streets to calibrate it on."""

from pathlib import Path

import pytest

from alignseg_infer.arrays import Size
from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets.folder import write_streets

DEMO = model_path("demo")  # an export of it takes seconds; tracing a checkpoint takes a minute


def draw_calibration(factory: pytest.TempPathFactory, size: Size) -> Path:
    """Write a folder of four streets that are not used to compare."""
    folder = factory.mktemp("streets")
    list(write_streets(folder, 0, 4, size=size))
    return folder / "images"


def export_int8(path: Path, streets: Path, form: str = "") -> Path:
    """Write the demo model in INT8 for CPUs, with more options of the command in `form`."""
    command = f"export-onnx {DEMO} -o {path} --precision int8 --target cpu --calibration {streets}"
    assert main([*command.split(), *form.split()]) == 0
    return path
