"""Arguments for the facts that a checkpoint does not contain."""

import argparse
from pathlib import Path

from alignseg_infer.cli.arguments.values import choices_of
from alignseg_infer.datasets.class_tables import class_table_named
from alignseg_infer.errors import OptionError
from alignseg_infer.models.checkpoint_options import CheckpointOptions, Weights
from alignseg_infer.spec.model import ChannelOrder, NormKind, SamplingConvention

CHECKPOINT_ARGUMENTS = (
    *("convention", "norm", "channel_order", "mean", "std", "classes", "weights", "threshold"),
)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Define arguments for the facts that a checkpoint does not contain."""
    group = parser.add_argument_group(
        "checkpoint options",
        "facts that the file does not contain (alignseg inspect shows what is assumed)",
    )
    group.add_argument(
        "--convention",
        choices=choices_of(SamplingConvention),
        help="sampling convention of the code that trained the weights (default: release-2021-12)",
    )
    group.add_argument(
        "--norm",
        choices=choices_of(NormKind),
        help="use of normalisation weights: inplace-abn takes their absolute value, batch-norm "
        "the value itself (default: inplace-abn)",
    )
    group.add_argument(
        "--channel-order",
        choices=choices_of(ChannelOrder),
        help="channel order of the network's input (default: bgr)",
    )
    group.add_argument(
        "--mean",
        type=float,
        nargs=3,
        metavar="M",
        help="values to subtract from pixels of 0 to 255, one for each channel of the network's "
        "input (default: the authors')",
    )
    group.add_argument(
        "--std",
        type=float,
        nargs=3,
        metavar="S",
        help="values to divide by after that, one for each channel (default: the authors')",
    )
    group.add_argument(
        "--classes",
        metavar="TABLE",
        help="class names and colours: cityscapes, ade20k, voc, or a .json file (default: the "
        "table with the network's number of classes)",
    )
    group.add_argument(
        "--weights",
        choices=choices_of(Weights),
        help="weights to take from a file that has both: ema, their average over training, or raw, "
        "those of the last step (default: ema)",
    )
    group.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="probability above which a pixel is foreground, for a network with one class, which "
        "was trained with a sigmoid (default: 0.5)",
    )


def require_no_checkpoint_arguments(arguments: argparse.Namespace, model: Path) -> None:
    """Check that none of the arguments of `add_checkpoint_arguments` was given.

    Args:
        arguments: The parsed arguments.
        model: The exported model.

    Raises:
        OptionError: One of them was given.
    """
    for name in CHECKPOINT_ARGUMENTS:
        if getattr(arguments, name) is not None:
            raise OptionError(
                f"--{name.replace('_', '-')} cannot change {model}",
                "none of the checkpoint options, since the facts of an exported model are fixed",
                "give it to alignseg export-onnx, with the checkpoint",
            )


def checkpoint_options_from(arguments: argparse.Namespace) -> CheckpointOptions:
    """Return the checkpoint options that the arguments of `add_checkpoint_arguments` give.

    Raises:
        OptionError: A value cannot be used.
    """
    given = {name: getattr(arguments, name) for name in CHECKPOINT_ARGUMENTS}
    if given["classes"]:
        given["classes"] = class_table_named(given["classes"])
    return CheckpointOptions(**given)
