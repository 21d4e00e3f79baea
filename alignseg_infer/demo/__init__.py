"""The model that comes with the package: a small AlignSeg trained on drawn streets.

The word ``demo`` names it wherever a model is expected: ``Predictor("demo")``,
``alignseg inspect demo``. It knows only drawn streets (`alignseg_infer.demo.streets`), not
photographs. ``recipe.json`` says how ``examples/train_demo.py`` made it.
"""

import os
from pathlib import Path

from alignseg_infer.errors import CheckpointError, ModelError, ModelFileError
from alignseg_infer.files.reading import user_path
from alignseg_infer.text import near_words

DEMO = "demo"
DEMO_SHA256 = "63adb859ebc572597d42d71a21dbb17bd39b3bc98d7a3fbafe8bfa44089108e4"  # of its weights
FIRST_HELD_OUT = 1_000_000  # seed of the first street that it was not trained on
_FOLDER = Path(__file__).parent


def model_path(model: str | os.PathLike[str]) -> Path:
    """Return `model` as a path; for the word ``demo``, the path of the demo model in ONNX.

    Raises:
        ModelFileError: It is a misspelling of ``demo``.
    """
    return _path_of(model, "demo.onnx", ModelFileError)


def checkpoint_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Return `checkpoint` as a path; for ``demo``, the path of the demo's weights (float16).

    Raises:
        CheckpointError: It is a misspelling of ``demo``.
    """
    return _path_of(checkpoint, "demo.pth", CheckpointError)


def _path_of(model: str | os.PathLike[str], file: str, error: type[ModelError]) -> Path:
    if str(model) == DEMO:
        return _FOLDER / file
    path = user_path(model)
    is_word = len(path.parts) == 1 and not path.suffix
    if is_word and near_words(str(model), [DEMO]) and not path.exists():
        raise error(
            f"{model} does not exist",
            "a model file, or demo for the model that comes with the package",
            f"did you mean {DEMO}? Otherwise check the path: ls {path.parent}",
        )
    return path
