"""Arguments that several commands share, and how their values are parsed."""

import argparse
import importlib

from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.preprocess import Size
from alignseg_infer.spec import ChannelOrder, NormKind, SamplingConvention

EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "onnx_ir")


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """``--device`` and ``--threads``."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, or auto (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the runtime's choice)")


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
    return int(text) if text.isdecimal() else fixed_size(text)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """What a checkpoint cannot tell, and the user may say."""
    group = parser.add_argument_group("what a checkpoint cannot tell (alignseg inspect shows it)")
    group.add_argument(
        "--sampling-convention",
        choices=list(SamplingConvention),
        help="of the code the weights were trained with (default: release-2021-12)",
    )
    group.add_argument(
        "--norm", choices=list(NormKind), help="how norm weights are used (default: inplace-abn)"
    )
    group.add_argument("--channel-order", choices=list(ChannelOrder), help="(default: bgr)")
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
                "pip install 'alignseg-infer[export]'",
            ) from error
