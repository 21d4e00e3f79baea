"""Arguments for what a checkpoint cannot tell."""

import argparse
from pathlib import Path

from alignseg_infer.cli.arguments.values import choices_of
from alignseg_infer.datasets.class_tables import class_table_named
from alignseg_infer.errors import OptionError
from alignseg_infer.models.checkpoint_options import CheckpointOptions
from alignseg_infer.spec.model import ChannelOrder, NormKind, SamplingConvention

CHECKPOINT_ARGUMENTS = ("convention", "norm", "channel_order", "mean", "std", "classes")


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """What a checkpoint cannot tell, and the user may say."""
    group = parser.add_argument_group("what a checkpoint cannot tell (alignseg inspect shows it)")
    group.add_argument(
        "--convention",
        choices=choices_of(SamplingConvention),
        help="sampling convention of the code that trained the weights (default: release-2021-12)",
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


def require_no_checkpoint_arguments(arguments: argparse.Namespace, model: Path) -> None:
    """Checks that nothing of `add_checkpoint_arguments` was given with an exported model.

    Args:
        arguments: What was parsed.
        model: The exported model.

    Raises:
        OptionError: Something was.
    """
    for name in CHECKPOINT_ARGUMENTS:
        if getattr(arguments, name) is not None:
            raise OptionError(
                f"--{name.replace('_', '-')} cannot change {model}",
                "no such option with an exported model, whose facts are fixed",
                "give it to alignseg export-onnx, with the checkpoint",
            )


def checkpoint_options_from(arguments: argparse.Namespace) -> CheckpointOptions:
    """Return what the arguments of `add_checkpoint_arguments` say.

    Raises:
        OptionError: A value cannot be used.
    """
    given = {name: getattr(arguments, name) for name in CHECKPOINT_ARGUMENTS}
    if given["classes"]:
        given["classes"] = class_table_named(given["classes"])
    return CheckpointOptions(**given)
