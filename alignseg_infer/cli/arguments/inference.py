"""Arguments that several commands share, and how their values are parsed."""

import argparse
import importlib
import os
from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from alignseg_infer.arrays import Size
from alignseg_infer.backends import OnnxRunner
from alignseg_infer.demo import model_path
from alignseg_infer.errors import MissingDependencyError, OptionError
from alignseg_infer.inference.averaging import Mode
from alignseg_infer.inference.tiling import DEFAULT_OVERLAP, DEFAULT_TILE
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.model import ChannelOrder, NormKind, SamplingConvention

CHECKPOINT_ARGUMENTS = ("sampling_convention", "norm", "channel_order", "mean", "std", "classes")


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
        help="network input: native, HEIGHTxWIDTH, or the longest side "
        "(default: the model's size if it is fixed, else native)",
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
        "--protocol",
        dest="mode",
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
        "padded to it, as the authors do, which a network trained without padding takes ill",
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


def choices_of(kind: type[StrEnum]) -> list[str]:
    """The values of `kind`, as argparse is to show them."""
    return [member.value for member in kind]


def fixed_size(text: str) -> Size:
    """``512x1024`` as (height, width)."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x1024")
    return int(height), int(width)


def size_policy_value(text: str) -> str | int | Size:
    """``native``, ``512x1024`` (height x width), or ``1024`` (the longest side)."""
    if text == "native":
        return text
    if text.isdecimal():
        return int(text)
    try:
        return fixed_size(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not native, HEIGHTxWIDTH such as 512x1024, or a longest side such as 1024"
        ) from error


def tile_value(text: str) -> int | Size:
    """``872``, or ``512x1024`` (height x width)."""
    return int(text) if text.isdecimal() else fixed_size(text)


def fraction(text: str) -> float:
    """``1/3`` or ``0.5``."""
    return float(exact_fraction(text))


def exact_fraction(text: str) -> Fraction:
    """``30000/1001`` or ``29.97``."""
    try:
        _, _, exponent = text.lower().partition("e")
        value = Fraction(text if len(exponent) < 4 else "")  # 1e999999999 would have all digits
        float(value)  # not too large for one
        return value
    except (ValueError, ArithmeticError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 0.5 or 1/3") from error


def scale_value(text: str) -> float:
    """One of the scales; says what to do when it is the next argument that ended up here."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number; put -- between scales and files: --scales 0.5 1 -- street.jpg"
        ) from error


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """What a checkpoint cannot tell, and the user may say."""
    group = parser.add_argument_group("what a checkpoint cannot tell (alignseg inspect shows it)")
    group.add_argument(
        "--sampling-convention",
        choices=choices_of(SamplingConvention),
        help="of the code the weights were trained with (default: release-2021-12)",
    )
    group.add_argument(
        "--norm",
        choices=choices_of(NormKind),
        help="use of norm weights (default: inplace-abn)",
    )
    group.add_argument("--channel-order", choices=choices_of(ChannelOrder), help="(default: bgr)")
    group.add_argument(
        "--mean", type=float, nargs=3, metavar="M", help="subtracted from 0..255 pixels"
    )
    group.add_argument("--std", type=float, nargs=3, metavar="S", help="then divided by")
    group.add_argument("--classes", help="cityscapes, ade20k, voc, or FILE.json")


def require_no_checkpoint_arguments(arguments: argparse.Namespace, model: Path, *more: str) -> None:
    """Checks that nothing of `add_checkpoint_arguments` was given with an exported model.

    Args:
        arguments: What was parsed.
        model: The exported model.
        more: Other arguments, None where not given, that only a checkpoint leaves open.

    Raises:
        OptionError: Something was.
    """
    for name in (*CHECKPOINT_ARGUMENTS, *more):
        if getattr(arguments, name) is not None:
            raise OptionError(
                f"--{name.replace('_', '-')} cannot change {model}",
                "no such option with an exported model, whose facts are fixed",
                "give it to alignseg export-onnx, with the checkpoint",
            )


def require_packages(packages: Sequence[str], install: str) -> None:
    """Checks that optional packages can be imported.

    Args:
        packages: Their import names.
        install: How to get them.

    Raises:
        MissingDependencyError: One cannot.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingDependencyError(
                f"this needs the package {package}, which is not installed",
                f"the packages {', '.join(packages)}",
                install,
            ) from error
