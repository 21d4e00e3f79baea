"""The model that comes with the package: a small AlignSeg trained on made-up streets.

``demo`` stands for it wherever a model is named: ``Predictor("demo")``, ``alignseg inspect demo``.
It knows drawn streets only (`alignseg_infer.demo.streets`), not photographs. ``recipe.json`` says
how ``examples/train_demo.py`` made it.
"""

from pathlib import Path

DEMO = "demo"
FIRST_HELD_OUT = 1_000_000  # seed of the first street it was not trained on
_FOLDER = Path(__file__).parent


def model_path(model: str | Path) -> Path:
    """`model` as a path, the word ``demo`` as that of the model exported to ONNX."""
    return _FOLDER / "demo.onnx" if str(model) == DEMO else Path(model)


def checkpoint_path(checkpoint: str | Path) -> Path:
    """`checkpoint` as a path, the word ``demo`` as that of the demo's weights (float16)."""
    return _FOLDER / "demo.pth" if str(checkpoint) == DEMO else Path(checkpoint)
