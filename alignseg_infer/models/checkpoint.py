"""Reading and writing training checkpoints, both the authors' and ours.

The network is derived from the shapes of the weights. Facts that shapes do not show are taken from
the spec in our checkpoints. Without a spec they are assumed, and every assumption is reported.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from alignseg_infer.datasets.class_tables import class_table_for
from alignseg_infer.demo import checkpoint_path
from alignseg_infer.errors import CheckpointError, SpecError
from alignseg_infer.files import require_file, sha256_of, user_path, write_atomically
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.backbone import BACKBONES
from alignseg_infer.models.checkpoint_options import CheckpointOptions
from alignseg_infer.models.identify import detect_network
from alignseg_infer.models.weights_file import (
    SPEC_ENTRY,
    State,
    first_few,
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

FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


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
    """Return, for people, what was taken without the file saying so."""
    lines = [f"note: {note}" for note in checkpoint.notes]
    lines += [str(assumption) for assumption in checkpoint.assumptions]
    return "\n".join(lines or ["nothing assumed: the checkpoint carries its own facts"])


def load_checkpoint(path: str | Path, options: CheckpointOptions | None = None) -> Checkpoint:
    """Read a checkpoint and check it against the network that its shapes describe.

    Args:
        path: ``.safetensors``, or any other ending for a file by ``torch.save``; ``demo`` for the
            weights that come with the package.
        options: Facts that replace the file's facts or our assumptions.

    Raises:
        CheckpointError: The file is not a checkpoint, or not one of AlignSeg. The message says what
            it looks like, and lists missing, unexpected and misshapen keys.
        MissingDependencyError: The file needs safetensors, which is not installed.
    """
    path = checkpoint_path(path)
    options = options or CheckpointOptions()
    require_file(path, "an AlignSeg checkpoint", CheckpointError)
    state, embedded = read_weights(path)
    network = _network_of(state, path)
    written = ModelSpec.from_json(embedded) if embedded is not None else None
    source = SourceSpec(name=path.name, sha256=sha256_of(path))
    spec, assumptions = _complete_spec(network, written, options, source)
    state, notes = _complete_state(state, spec.network, path)
    return Checkpoint(spec, state, assumptions, notes)


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


def _network_of(state: State, path: Path) -> NetworkSpec:
    """Derive the backbone, the widths and the class count from the shapes."""
    try:
        bottleneck = "layer1.0.conv3.weight" in state
        blocks = [_count_blocks(state, stage) for stage in (1, 2, 3, 4)]
        return NetworkSpec(
            backbone=next(
                name
                for name, layout in BACKBONES.items()
                if list(layout.blocks) == blocks and layout.bottleneck == bottleneck
            ),
            width=state["conv1.weight"].shape[0] / 64,
            decoder_channels=state["RRB5a.unify.weight"].shape[0],
            num_classes=state["head.3.weight"].shape[0],
        )
    except (KeyError, StopIteration, IndexError, SpecError) as error:
        raise CheckpointError(
            f"{path} is not an AlignSeg checkpoint: it looks like {detect_network(state)}",
            f"the keys of AlignSeg with {', '.join(BACKBONES)}: conv1.weight, CAM.pool.1.weight, "
            "RRB5a.unify.weight, head.3.weight, ...",
            f"check another file with alignseg inspect FILE; this file has "
            f"{first_few(sorted(state))}",
        ) from error


def _count_blocks(state: State, stage: int) -> int:
    return len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})


def _complete_spec(
    network: NetworkSpec,
    written: ModelSpec | None,
    options: CheckpointOptions,
    source: SourceSpec,
) -> tuple[ModelSpec, tuple[Assumption, ...]]:
    """Merge shapes, embedded facts and options; facts from none of them are assumptions."""
    base = written or ModelSpec(
        network=network, input=InputSpec(), classes=class_table_for(network.num_classes)
    )
    order = options.channel_order or base.input.channel_order
    prepared = base.input if order is base.input.channel_order else base.input.reversed()
    spec = ModelSpec(
        network=replace(
            network,
            convention=options.convention or base.network.convention,
            norm=options.norm or base.network.norm,
        ),
        input=replace(
            prepared, mean=options.mean or prepared.mean, std=options.std or prepared.std
        ),
        classes=options.classes or base.classes,
        source=source,
    )
    return spec, () if written else _list_assumptions(spec, options)


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
            if spec.classes.dataset != "unnamed"
            else f"no known table has {spec.network.num_classes} classes",
            "classes=cityscapes|ade20k|voc|FILE.json",
        ),
    )
    return tuple(one for one, value in zip(candidates, given, strict=True) if value is None)


def _complete_state(
    state: State, network: NetworkSpec, path: Path
) -> tuple[State, tuple[str, ...]]:
    """Return a state dict that loads strictly, and the deviations that were tolerated."""
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in AlignSeg(network).state_dict().items()}
    notes = []
    state = dict(state)
    counters = [key for key in wanted if key.endswith("num_batches_tracked")]
    if not any(key in state for key in counters):
        notes.append(
            "no num_batches_tracked counters (old InPlaceABN); inference does not need them"
        )
        state |= {key: torch.tensor(0) for key in counters}
    if not any(key.startswith("dsn.") for key in state if key not in counters):
        notes.append("no auxiliary head (dsn); inference does not need it")
        state = {key: value for key, value in state.items() if not key.startswith("dsn.")}
        wanted = {key: shape for key, shape in wanted.items() if not key.startswith("dsn.")}
    _require_fit(state, wanted, path)
    state = {key: _as_float32(value, key, path) for key, value in state.items()}
    _require_usable(state, path)
    return state, tuple(notes)


def _as_float32(value: Tensor, key: str, path: Path) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return value
    if value.dtype not in FLOAT_TYPES or value.layout is not torch.strided:
        raise CheckpointError(
            f"{path} has {value.dtype} {value.layout} in {key}",
            "dense float32, float16, bfloat16 or float64 weights",
            "convert it first: {key: value.float() for key, value in state.items()}",
        )
    return value.float()


def _require_fit(state: State, wanted: Mapping[str, torch.Size], path: Path) -> None:
    groups = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "misshapen": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
            for key, shape in wanted.items()
            if key in state and state[key].shape != shape
        ],
    }
    if any(groups.values()):
        listing = "; ".join(f"{len(k)} {name}: {first_few(k)}" for name, k in groups.items() if k)
        raise CheckpointError(
            f"{path} does not fit the network that its shapes describe: {listing}",
            f"exactly the {len(wanted)} keys and shapes of that network",
            "check that the file is a complete AlignSeg checkpoint of one network",
        )


def _require_usable(state: State, path: Path) -> None:
    broken = [
        key
        for key, value in state.items()
        if not torch.isfinite(value).all() or (key.endswith("running_var") and (value < 0).any())
    ]
    if broken:
        raise CheckpointError(
            f"{path} has NaN, infinite or impossible values in {len(broken)} tensors: "
            f"{first_few(broken)}",
            "finite float32 weights, and variances that are not negative",
            "use a checkpoint from before training diverged",
        )
