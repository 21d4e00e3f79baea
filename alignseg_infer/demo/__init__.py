"""The model that comes with the package: a small AlignSeg trained on drawn streets.

The word ``demo`` names it wherever a model is expected: ``Predictor("demo")``,
``alignseg inspect demo``. It knows only drawn streets (`alignseg_infer.demo.streets`), not
photographs. ``recipe.json`` says how ``examples/train_demo.py`` made it.
"""

import os
from pathlib import Path

from alignseg_infer.files import user_path

DEMO = "demo"
FIRST_HELD_OUT = 1_000_000  # seed of the first street that it was not trained on
_FOLDER = Path(__file__).parent


def model_path(model: str | os.PathLike[str]) -> Path:
    """Return `model` as a path; for the word ``demo``, the path of the demo model in ONNX."""
    return _FOLDER / "demo.onnx" if str(model) == DEMO else user_path(model)


def checkpoint_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Return `checkpoint` as a path; for ``demo``, the path of the demo's weights (float16)."""
    return _FOLDER / "demo.pth" if str(checkpoint) == DEMO else user_path(checkpoint)
