"""Reading and writing training checkpoints, both the authors' and ours.

The network is derived from the shapes of the weights. Facts that shapes do not show are taken from
the spec in our checkpoints. Without a spec they are assumed, and every assumption is reported.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alignseg_infer.datasets.class_tables import CLASS_TABLES, class_table_for
from alignseg_infer.demo import checkpoint_path
from alignseg_infer.errors import CheckpointError
from alignseg_infer.files.reading import require_file, sha256_of, user_path
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.binary import BINARY, DEFAULT_THRESHOLD, as_two_classes, two_classes
from alignseg_infer.models.checkpoint_options import CheckpointOptions, Weights
from alignseg_infer.models.fitting import fit_state, network_of
from alignseg_infer.models.state_search import State
from alignseg_infer.models.weights_file import (
    SPEC_ENTRY,
    read_weights,
    safetensors_torch,
)
from alignseg_infer.spec.model import (
    InputSpec,
    ModelSpec,
    NetworkSpec,
    NormKind,
    SamplingConvention,
    SourceSpec,
)


@dataclass(frozen=True)
class Assumption:
    """One fact that is missing in a checkpoint.

    Attributes:
        fact: Name of the fact.
        value: The assumed value.
        reason: Why it was assumed.
        override: The parameter that sets another value, as ``name=``.
    """

    fact: str
    value: str
    reason: str
    override: str

    def __str__(self) -> str:
        return f"{self.fact}: {self.value}  (assumed: {self.reason}; override: {self.override})"


_ASSUMED_THRESHOLD = Assumption(
    "threshold",
    f"{DEFAULT_THRESHOLD}",
    "one output channel is trained with a sigmoid; foreground is where it is above this",
    "threshold=0..1",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that fits the network.

    Attributes:
        spec: All facts.
        state: Tensors by key, without prefixes.
        assumptions: Facts that were missing in the file.
        notes: Deviations that were tolerated.
    """

    spec: ModelSpec
    state: State
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...]

    def model(self) -> AlignSeg:
        """Return the network with these weights, in float32 and in evaluation mode."""
        model = AlignSeg(self.spec.network)
        if not any(key.startswith("dsn.") for key in self.state):
            model.dsn = None
        model.load_state_dict(self.state)
        return model.eval().requires_grad_(False)


def describe_assumptions(checkpoint: Checkpoint) -> str:
    """Return, for people, what was taken without the file saying so; further lines are indented."""
    lines = [f"note: {note}" for note in checkpoint.notes]
    lines += [str(assumption) for assumption in checkpoint.assumptions]
    return "\n  ".join(lines or ["nothing assumed: the checkpoint carries its own facts"])


def load_checkpoint(path: str | Path, options: CheckpointOptions | None = None) -> Checkpoint:
    """Read a checkpoint and check it against the network that its shapes describe.

    Args:
        path: A file by ``torch.save`` or safetensors, whatever its name; ``demo`` for the weights
            that come with the package.
        options: Facts that replace the file's facts or our assumptions.

    Raises:
        CheckpointError: The file is not a checkpoint, or not one of AlignSeg. The message says what
            it looks like, and lists missing, unexpected and misshapen keys.
        OptionError: A threshold was given for a network with several classes.
        MissingDependencyError: The file needs safetensors, which is not installed.
    """
    path = checkpoint_path(path)
    options = options or CheckpointOptions()
    require_file(path, "an AlignSeg checkpoint", CheckpointError)
    file = read_weights(path, options.weights)
    try:
        stored = network_of(file.state, path)
        state, notes = fit_state(file.state, stored, path)
    except CheckpointError as error:
        if file.choice is None:
            raise
        raise _with_other_copy(error, *file.choice) from error
    written = ModelSpec.from_json(file.spec) if file.spec is not None else None
    state, network = as_two_classes(state, stored, options.threshold)
    binary = stored.num_classes == 1
    source = SourceSpec(
        name=path.name,
        sha256=sha256_of(path),
        weights=file.choice[0].value if file.choice else None,
        threshold=(options.threshold or DEFAULT_THRESHOLD) if binary else None,
    )
    spec, assumptions = _complete_spec(network, written, options, source, binary)
    if file.choice and options.weights is None:
        assumptions += (_choice_of_weights(*file.choice),)
    return Checkpoint(spec, state, assumptions, (*file.notes, *notes))


def _with_other_copy(error: CheckpointError, kind: Weights, place: str) -> CheckpointError:
    """Return the error about one copy of the weights; it says how to take the other one."""
    other = Weights.RAW if kind is Weights.EMA else Weights.EMA
    return CheckpointError(
        f"{error.problem} ({kind} weights, in {place})",
        error.expected,
        f"{error.fix}; or take the other weights in the file: weights={other.value!r}",
    )


def save_checkpoint(path: str | Path, model: AlignSeg, spec: ModelSpec) -> None:
    """Write the model's weights with its spec, so that nothing has to be assumed later.

    Args:
        path: ``.safetensors`` for that format; any other ending for ``torch.save``.
        model: The network.
        spec: Its facts.

    Raises:
        OutputError: The file cannot be written.
        MissingDependencyError: The file needs safetensors, which is not installed.
    """
    path = user_path(path)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        content = safetensors_torch().save(state, {SPEC_ENTRY: spec.to_json()})
    else:
        buffer = io.BytesIO()
        torch.save({"state_dict": state, SPEC_ENTRY: spec.to_json()}, buffer)
        content = buffer.getvalue()
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)


def _complete_spec(
    network: NetworkSpec,
    written: ModelSpec | None,
    options: CheckpointOptions,
    source: SourceSpec,
    binary: bool,
) -> tuple[ModelSpec, tuple[Assumption, ...]]:
    """Merge shapes, embedded facts and options; facts from none of them are assumptions."""
    classes = options.classes or (written.classes if written else None)
    if binary:
        classes = two_classes(classes)
    facts = written.network if written else network
    given = written.input if written else InputSpec()
    order = options.channel_order or given.channel_order
    prepared = given if order is given.channel_order else given.reversed()
    spec = ModelSpec(
        network=replace(
            network,
            convention=options.convention or facts.convention,
            norm=options.norm or facts.norm,
        ),
        input=replace(
            prepared, mean=options.mean or prepared.mean, std=options.std or prepared.std
        ),
        classes=classes or class_table_for(network.num_classes),
        source=source,
    )
    assumptions = () if written else _list_assumptions(spec, options)
    if binary and options.threshold is None:
        assumptions += (_ASSUMED_THRESHOLD,)
    return spec, assumptions


def _choice_of_weights(kind: Weights, place: str) -> Assumption:
    why = "the file has averaged and raw weights, and training code uses the average"
    return Assumption("weights", f"{kind} ({place})", why, f"weights={'|'.join(Weights)}")


def _list_assumptions(spec: ModelSpec, options: CheckpointOptions) -> tuple[Assumption, ...]:
    """List the facts that neither the checkpoint nor the user gave."""
    authors = "the authors' data loader"
    given = (
        options.convention,
        options.norm,
        options.channel_order,
        options.mean,
        options.std,
        options.classes,
    )
    candidates = (
        Assumption(
            "sampling convention",
            spec.network.convention,
            "the authors' weights were trained with it; the file does not show it",
            f"convention={'|'.join(SamplingConvention)}",
        ),
        Assumption(
            "normalisation layers",
            spec.network.norm,
            "the authors train with InPlaceABN, which uses |weight|",
            f"norm={'|'.join(NormKind)}",
        ),
        Assumption("channel order", spec.input.channel_order, authors, "channel_order=bgr|rgb"),
        Assumption("mean (of 0..255)", f"{spec.input.mean}", authors, "mean=(A, B, C)"),
        Assumption("std (of 0..255)", f"{spec.input.std}", authors, "std=(A, B, C)"),
        Assumption(
            "classes",
            spec.classes.dataset,
            f"the table with {spec.network.num_classes} classes"
            if spec.classes.dataset in CLASS_TABLES
            else "the network has one output channel, the foreground"
            if spec.classes.dataset == BINARY
            else f"no known table has {spec.network.num_classes} classes",
            "classes=cityscapes|ade20k|voc|FILE.json",
        ),
    )
    return tuple(one for one, value in zip(candidates, given, strict=True) if value is None)
