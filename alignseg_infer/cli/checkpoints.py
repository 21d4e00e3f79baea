"""What the commands that read checkpoints share. Loads PyTorch."""

import argparse
from pathlib import Path

from alignseg_infer.datasets.class_tables import class_table, class_table_from_file
from alignseg_infer.models.checkpoint import Checkpoint, CheckpointOptions, load_checkpoint
from alignseg_infer.spec.model import ChannelOrder, ClassSpec, NormKind, SamplingConvention


def load_checkpoint_as_asked(arguments: argparse.Namespace) -> Checkpoint:
    """Loads ``arguments.checkpoint`` with what `add_checkpoint_arguments` defined."""
    convention, norm, order = (
        arguments.sampling_convention,
        arguments.norm,
        arguments.channel_order,
    )
    options = CheckpointOptions(
        convention=SamplingConvention(convention) if convention else None,
        norm=NormKind(norm) if norm else None,
        classes=_classes(arguments.classes) if arguments.classes else None,
        channel_order=ChannelOrder(order) if order else None,
        mean=tuple(arguments.mean) if arguments.mean else None,
        std=tuple(arguments.std) if arguments.std else None,
    )
    return load_checkpoint(arguments.checkpoint, options)


def describe_assumptions(checkpoint: Checkpoint) -> str:
    """What was taken without the file saying so, for people."""
    lines = [f"note: {note}" for note in checkpoint.notes]
    lines += [str(assumption) for assumption in checkpoint.assumptions]
    return "\n".join(lines or ["nothing assumed: the checkpoint carries its own facts"])


def _classes(value: str) -> ClassSpec:
    return class_table_from_file(Path(value)) if value.endswith(".json") else class_table(value)
