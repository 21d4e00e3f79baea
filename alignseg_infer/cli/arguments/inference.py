"""Arguments of the commands that run a model on images."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignseg_infer.backends import OnnxRunner
from alignseg_infer.cli.arguments.values import (
    SIZE_POLICY_HELP,
    choices_of,
    fraction,
    scale_value,
    size_policy_value,
    tile_value,
)
from alignseg_infer.demo import model_path
from alignseg_infer.errors import OptionError
from alignseg_infer.inference.averaging import Mode
from alignseg_infer.inference.tiling import DEFAULT_OVERLAP, DEFAULT_TILE
from alignseg_infer.predictor import Predictor


def add_inference_arguments(
    parser: argparse.ArgumentParser, *, several_batches: bool = False
) -> None:
    """What `predictor_from` reads: sizes, sliding window, scales, flip, batch, what runs it.

    Args:
        parser: Gets them.
        several_batches: Whether ``--batch`` takes several numbers, and its value is a list.
    """
    parser.add_argument(
        "--size",
        type=size_policy_value,
        help=SIZE_POLICY_HELP,
    )
    _add_averaging_arguments(parser)
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+" if several_batches else None,
        default=[1] if several_batches else 1,
        help="inputs (images, tiles, mirrored ones) per network call at most (default: 1)",
    )
    add_runtime_arguments(parser)
    parser.add_argument(
        "--on-device",
        action=argparse.BooleanOptionalAction,
        help="prepare images and label pixels on the GPU (default: where the model runs on one)",
    )


def _add_averaging_arguments(parser: argparse.ArgumentParser) -> None:
    """Sliding window, scales, flip."""
    parser.add_argument(
        "--mode",
        choices=choices_of(Mode),
        default=Mode.WHOLE.value,
        help="the image at once, or a sliding window as the authors evaluate (default: whole)",
    )
    parser.add_argument(
        "--tile",
        type=tile_value,
        metavar="N|HxW",
        help="the window, with --mode slide "
        f"(default: the model's size if it is fixed, else {DEFAULT_TILE}); smaller images are "
        "padded to it, and networks that were trained without padding lose accuracy then",
    )
    parser.add_argument(
        "--overlap",
        type=fraction,
        default=DEFAULT_OVERLAP,
        metavar="F",
        help="share of a tile that the next one covers too, with --mode slide (default: 1/3)",
    )
    parser.add_argument(
        "--scales",
        type=scale_value,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="average over the input at these factors, such as 0.75 1 1.25; "
        "if images follow, put -- between (default: 1)",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--threads`` and ``--runtime``."""
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:N, or auto (default: cuda for an engine, else cpu)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: the runtime's choice)")
    parser.add_argument(
        "--runtime",
        choices=choices_of(OnnxRunner),
        help="what runs an .onnx (default: onnxruntime)",
    )


def predictor_from(arguments: argparse.Namespace, model: str | Path) -> Predictor:
    """Loads `model` as the arguments of `add_inference_arguments` say.

    Raises:
        AlignSegError: As `Predictor` does.
    """
    return Predictor(model, **predictor_options(arguments))


def predictor_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `Predictor` is to be given beside the model, as `add_inference_arguments` has it."""
    return {
        "device": arguments.device,
        "size": arguments.size,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "mode": arguments.mode,
        "tile": arguments.tile,
        "overlap": arguments.overlap,
        "scales": arguments.scales,
        "flip": arguments.flip,
        "on_device": arguments.on_device,
        "runtime": arguments.runtime,
    }


def names_of(models: Sequence[Path]) -> dict[str, Path]:
    """What to call models: by file name, or by path if two share a file name.

    Raises:
        OptionError: A model is given twice.
    """
    if len({os.path.realpath(model_path(path)) for path in models}) < len(models):
        raise OptionError(
            f"a model is given twice: {', '.join(map(str, models))}",
            "different files",
            "each model once",
        )
    by_name = {path.name: path for path in models}
    return by_name if len(by_name) == len(models) else {str(path): path for path in models}
