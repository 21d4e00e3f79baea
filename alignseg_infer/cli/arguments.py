"""Arguments that several commands share, and how their values are parsed."""

import argparse
import importlib
from enum import StrEnum
from pathlib import Path

from alignseg_infer.errors import INSTALL_EXPORT, MissingDependencyError
from alignseg_infer.predictor import Predictor
from alignseg_infer.preprocess import Size
from alignseg_infer.spec import ChannelOrder, NormKind, SamplingConvention

EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "onnx_ir")


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """``--device`` and ``--threads``."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, or auto (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the runtime's choice)")


def add_inference_arguments(parser: argparse.ArgumentParser) -> None:
    """How images go through the network: ``--size``, ``--batch``, ``--device``, ``--threads``."""
    parser.add_argument(
        "--size",
        type=size_policy_value,
        help="network input: native, HEIGHTxWIDTH, or the longest side "
        "(default: the model's size if it is fixed, else native)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images per call (default: 1)")
    add_runtime_arguments(parser)


def predictor_from(arguments: argparse.Namespace, model: str | Path) -> Predictor:
    """A predictor for `model`, as `add_inference_arguments` was answered."""
    return Predictor(
        model,
        device=arguments.device,
        size=arguments.size,
        batch=arguments.batch,
        threads=arguments.threads,
    )


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


def require_export_packages() -> None:
    """Checks that the packages of the extra ``export`` are there.

    Raises:
        MissingDependencyError: One is not.
    """
    for package in EXPORT_PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingDependencyError(
                f"export needs the package {package}, which is not installed",
                f"the packages {', '.join(EXPORT_PACKAGES)}",
                INSTALL_EXPORT,
            ) from error
