"""Arguments of the commands that run a model on images."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignseg_infer.backends import RUNTIME_CHOICES, OnnxRunner
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.cli.arguments.engine import add_shape_arguments
from alignseg_infer.cli.arguments.values import (
    SIZE_POLICY_HELP,
    THREADS_HELP,
    add_max_pixels,
    choices_of,
    fraction,
    scale_value,
    size_policy_value,
    tile_value,
)
from alignseg_infer.demo import model_path
from alignseg_infer.errors import OptionError
from alignseg_infer.files.reading import real_path
from alignseg_infer.inference.averaging import Mode
from alignseg_infer.inference.tiling import DEFAULT_OVERLAP, DEFAULT_TILE
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.model import Precision
from alignseg_infer.trt.builder.options import BuildOptions

AT_RUNTIME_HELP = "; MODEL@RUNTIME[:PRECISION], such as demo@openvino:bf16, says what runs it"


def add_inference_arguments(
    parser: argparse.ArgumentParser, *, several_batches: bool = False
) -> None:
    """Define the arguments that `predictor_from` reads.

    They are the input size, sliding window, scales, flip, batch, device, threads and runtime.

    Args:
        parser: The parser to add them to.
        several_batches: Whether ``--batch`` takes several numbers, and its value is a list.
    """
    parser.add_argument("--size", type=size_policy_value, help=SIZE_POLICY_HELP)
    _add_averaging_arguments(parser)
    each = "; give several to time each of them" if several_batches else ""
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        nargs="+" if several_batches else None,
        default=[1] if several_batches else 1,
        help="maximum number of inputs (images, tiles or mirror images) in one call of the network"
        f"{each} (default: 1)",
    )
    add_runtime_arguments(parser)
    parser.add_argument(
        "--on-device",
        action=argparse.BooleanOptionalAction,
        help="prepare images and label pixels on the GPU (default: yes if the model runs on a GPU "
        "in TensorRT or PyTorch)",
    )
    add_max_pixels(parser)


def _add_averaging_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments for the sliding window, the scales and the mirror image."""
    parser.add_argument(
        "--mode",
        choices=choices_of(Mode),
        default=Mode.WHOLE.value,
        help="whole segments the image at once; slide moves a window over it, which is how the "
        "authors evaluate (default: whole)",
    )
    parser.add_argument(
        "--tile",
        type=tile_value,
        metavar="N|HxW",
        help="size of the window in pixels, with --mode slide; smaller images are padded to it, "
        "which costs accuracy if the network was trained without padding (default: the model's "
        f"size if it is fixed, else {DEFAULT_TILE})",
    )
    parser.add_argument(
        "--overlap",
        type=fraction,
        default=DEFAULT_OVERLAP,
        metavar="F",
        help="share of a window that the next window also covers, from 0 to below 1, with --mode "
        "slide (default: 1/3)",
    )
    parser.add_argument(
        "--scales",
        type=scale_value,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="scale factors of the input to average over, such as 0.75 1 1.25; put -- between "
        "them and files that follow (default: 1)",
    )
    parser.add_argument(
        "--flip", action="store_true", help="average over the image and its mirror image"
    )


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments that `runtime_options` reads: the device, the runtime and its engine."""
    add_device_arguments(
        parser,
        RUNTIME_CHOICES,
        "; tensorrt and tensorrt-rtx build an engine for this GPU at first use, verify it and "
        "keep it (alignseg cache)",
    )
    add_precision(parser)
    add_shape_arguments(
        parser,
        "what the file and the sizes that are asked for need, which is 256x256 to 2048x2048 pixels "
        "for images of any size",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Define ``--precision``, which goes with ``--runtime``."""
    parser.add_argument(
        "--precision",
        choices=choices_of(RunPrecision),
        help="precision that the runtime computes a float32 file in: fp16 with tensorrt or "
        "tensorrt-rtx, bf16 with openvino on a CPU that has it (default: that of the file)",
    )


def add_device_arguments(
    parser: argparse.ArgumentParser, runtimes: Sequence[str], about_runtimes: str = ""
) -> None:
    """Define ``--device``, ``--threads`` and ``--runtime``.

    Args:
        parser: The parser to add them to.
        runtimes: The runtimes that can be chosen.
        about_runtimes: What to add to the help of ``--runtime``.
    """
    parser.add_argument(
        "--device",
        help="device to run the model on: cpu, cuda, cuda:N, or auto for CUDA where it works "
        "(default: cuda for an engine, else cpu)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help=THREADS_HELP)
    parser.add_argument(
        "--runtime",
        choices=runtimes,
        help="runtime to run an .onnx file with; tuned is what alignseg tune chose for it on this "
        f"machine (default: onnxruntime){about_runtimes}",
    )


def runtime_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `add_runtime_arguments` as keyword arguments of `Predictor`."""
    shapes = {name: getattr(arguments, name) for name in ("min_shape", "opt_shape", "max_shape")}
    return {
        "device": arguments.device,
        "threads": arguments.threads,
        "runtime": arguments.runtime,
        "precision": arguments.precision,
        **{name: shape and dataclasses.astuple(shape) for name, shape in shapes.items()},
    }


def build_with_bars(
    model: Path, precision: Precision | None, options: BuildOptions, destination: Path
) -> None:
    """Build an engine that a predictor needs, with progress bars on stderr."""
    from alignseg_infer.cli.progress import phase_bars, progress_bar
    from alignseg_infer.export.on_demand import build_on_demand

    build_on_demand(model, precision, options, destination, bars=progress_bar, phases=phase_bars)


def predictor_from(arguments: argparse.Namespace, model: str | Path) -> Predictor:
    """Load `model` as the arguments of `add_inference_arguments` say.

    Raises:
        AlignSegError: As `Predictor` does.
    """
    return Predictor(model, **predictor_options(arguments))


def split_runtime(
    model: Path, runtimes: Sequence[str] = RUNTIME_CHOICES
) -> tuple[Path, dict[str, str]]:
    """Return the path in a name such as ``demo@openvino:bf16``, and the arguments after it, if any.

    Args:
        model: The name.
        runtimes: The runtimes that the command takes.

    Raises:
        OptionError: What follows the ``@`` is not a runtime, and there is no such file.
    """
    path, _, named = str(model).rpartition("@")
    runtime, colon, precision = named.partition(":")
    if path and runtime in runtimes and (not colon or precision in list(RunPrecision)):
        return Path(path), {"runtime": runtime, **({"precision": precision} if colon else {})}
    if path and not model.exists():
        raise OptionError(
            f"{model} is not a file, and {named!r} is not a runtime",
            f"a model, or MODEL.onnx@RUNTIME with the runtime {' or '.join(runtimes)}, "
            f"perhaps followed by a precision: {' or '.join(f':{kind}' for kind in RunPrecision)}",
            f"{path}@{OnnxRunner.OPENVINO}",
        )
    return model, {}


def predictor_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `add_inference_arguments` as keyword arguments of `Predictor`."""
    return {
        **runtime_options(arguments),
        "size": arguments.size,
        "batch": arguments.batch,
        "mode": arguments.mode,
        "tile": arguments.tile,
        "overlap": arguments.overlap,
        "scales": arguments.scales,
        "flip": arguments.flip,
        "on_device": arguments.on_device,
        "max_pixels": arguments.max_pixels,
    }


def names_of(models: Sequence[Path]) -> dict[str, Path]:
    """Name models after their files, or after their paths if two share a file name.

    Raises:
        OptionError: A model is given twice.
    """
    if len({real_path(model_path(path)) for path in models}) < len(models):
        raise OptionError(
            f"a model is given twice: {', '.join(map(str, models))}",
            "different files",
            "each model once",
        )
    by_name = {path.name: path for path in models}
    return by_name if len(by_name) == len(models) else {str(path): path for path in models}
