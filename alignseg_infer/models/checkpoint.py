"""Reading and writing training checkpoints: the authors' and ours.

A checkpoint is a dict of tensors, bare or under ``model``, ``state_dict`` or
``model_state_dict``, saved by ``torch.save`` or as safetensors. The network is read from the
shapes; what shapes cannot tell is taken from the spec that our checkpoints carry, else assumed,
and every assumption is reported.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from alignseg_infer.datasets import class_table_for
from alignseg_infer.errors import CheckpointError, MissingDependencyError
from alignseg_infer.files import require_file, sha256_of, written_atomically
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.backbone import BACKBONES
from alignseg_infer.models.identify import file_disguise, network_disguise
from alignseg_infer.spec import (
    ChannelOrder,
    ClassSpec,
    InputSpec,
    ModelSpec,
    NetworkSpec,
    NormKind,
    SamplingConvention,
    SourceSpec,
)

State: TypeAlias = dict[str, Tensor]

SPEC_ENTRY = "alignseg"
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
KEYS_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """What the user says about a checkpoint; None leaves it to the file or to our assumption."""

    convention: SamplingConvention | None = None
    norm: NormKind | None = None
    classes: ClassSpec | None = None
    channel_order: ChannelOrder | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Assumption:
    """One fact a checkpoint does not hold.

    Attributes:
        fact: What it is about.
        value: What was taken.
        reason: Why.
        override: The option that says otherwise.
    """

    fact: str
    value: str
    reason: str
    override: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that fits the network.

    Attributes:
        spec: All facts.
        state: Tensors by key, without prefixes.
        assumptions: What was not in the file.
        notes: What was tolerated.
    """

    spec: ModelSpec
    state: State
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...]

    def model(self) -> AlignSeg:
        """The network with these weights, float32, in evaluation mode."""
        model = AlignSeg(self.spec.network)
        if not any(key.startswith("dsn.") for key in self.state):
            model.dsn = None
        model.load_state_dict(self.state)
        return model.eval().requires_grad_(False)


def load_checkpoint(path: str | Path, options: CheckpointOptions | None = None) -> Checkpoint:
    """Reads a checkpoint and checks it against the network its shapes describe.

    Args:
        path: ``.pth``, ``.pt`` (or any ending torch.save was given), or ``.safetensors``.
        options: What to take instead of the file's facts or our assumptions.

    Raises:
        CheckpointError: The file is no checkpoint, or not one of AlignSeg; the message says what
            it looks like, and lists missing, unexpected and misshapen keys.
        MissingDependencyError: The file is safetensors and that package is not installed.
    """
    path = Path(path)
    options = options or CheckpointOptions()
    require_file(path, "an AlignSeg checkpoint", CheckpointError)
    state, embedded = _read_file(path)
    network = _network_of(state, path)
    written = ModelSpec.from_json(embedded) if embedded is not None else None
    source = SourceSpec(name=path.name, sha256=sha256_of(path))
    spec, assumptions = _complete_spec(network, written, options, source)
    state, notes = _checked_state(state, spec.network, path)
    return Checkpoint(spec, state, assumptions, notes)


def save_checkpoint(path: str | Path, model: AlignSeg, spec: ModelSpec) -> None:
    """Writes the model's weights with its spec, so that nothing has to be assumed later.

    Args:
        path: ``.safetensors`` for that format, any other ending for ``torch.save``.
        model: The network.
        spec: Its facts.

    Raises:
        OutputError: The file cannot be written.
        MissingDependencyError: safetensors is asked for and not installed.
    """
    path = Path(path)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    with written_atomically(path) as temporary:
        if path.suffix == ".safetensors":
            _safetensors().save_file(state, temporary, {SPEC_ENTRY: spec.to_json()})
        else:
            torch.save({"state_dict": state, SPEC_ENTRY: spec.to_json()}, temporary)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingDependencyError(
            "the package safetensors is not installed",
            "safetensors, to read or write .safetensors files",
            "pip install 'alignseg-infer[export]'",
        ) from error
    return safetensors.torch


def _read_file(path: Path) -> tuple[State, str | None]:
    """The tensors by key, without wrappers and prefixes, and the embedded spec if there is one."""
    if (disguise := file_disguise(path)) is not None:
        raise CheckpointError(
            f"{path} is no checkpoint: it looks like {disguise.what}",
            "a file written by torch.save, or safetensors",
            disguise.fix,
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _torch_load(path)
    if not isinstance(content, Mapping):
        raise _not_a_state_dict(path, f"it holds a {type(content).__name__}")
    embedded = content.get(SPEC_ENTRY)
    tensors = _unwrapped(content)
    if not tensors:
        raise _not_a_state_dict(path, f"it holds the keys {_some([str(key) for key in content])}")
    return tensors, embedded if isinstance(embedded, str) else None


def _read_safetensors(path: Path) -> tuple[State, str | None]:
    loader = _safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state: State = loader.load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return _without_prefixes(state), metadata.get(SPEC_ENTRY)


def _torch_load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error).lower() and "weights only" not in str(error).lower():
            raise _damaged(path, str(error)) from error
        raise CheckpointError(
            f"{path} is a pickle that wants to run code while loading: {_first_line(error)}",
            "tensors in plain dicts; nothing else is ever loaded",
            "where you trust it, save the weights alone: torch.save(model.state_dict(), PATH)",
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError) as error:
        raise _damaged(path, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    """What the loader says, without its advice to load unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    return (lines or [str(error).split("\n")[0]])[0].split(". ")[0]


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or damaged: {reason}",
        "a complete checkpoint",
        "download or copy it again, and compare its size or SHA-256 with the original",
    )


def _not_a_state_dict(path: Path, seen: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no state dict: {seen}",
        f"tensors by name, bare or under one of {', '.join(WRAPPERS)}",
        "torch.save(model.state_dict(), PATH)",
    )


def _unwrapped(content: Mapping[Any, Any]) -> State:
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            return _unwrapped(inner)
    tensors = {str(k): value for k, value in content.items() if isinstance(value, Tensor)}
    return _without_prefixes(tensors)


def _without_prefixes(state: State) -> State:
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return _without_prefixes({k.removeprefix(prefix): v for k, v in state.items()})
    return state


def _network_of(state: State, path: Path) -> NetworkSpec:
    """Reads backbone, widths and class count from the shapes."""
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
    except (KeyError, StopIteration) as error:
        raise CheckpointError(
            f"{path} is not an AlignSeg checkpoint: it looks like {network_disguise(state)}",
            f"the keys of AlignSeg with {', '.join(BACKBONES)}: conv1.weight, CAM.pool.1.weight, "
            "RRB5a.unify.weight, head.3.weight, ...",
            f"alignseg inspect another file; this one has {_some(sorted(state))}",
        ) from error


def _count_blocks(state: State, stage: int) -> int:
    return len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})


def _complete_spec(
    network: NetworkSpec,
    written: ModelSpec | None,
    options: CheckpointOptions,
    source: SourceSpec,
) -> tuple[ModelSpec, tuple[Assumption, ...]]:
    """Merges shapes, embedded facts and options; what came from none of them is an assumption."""
    base = written or ModelSpec(
        network=network, input=InputSpec(), classes=class_table_for(network.num_classes)
    )
    classes = options.classes or base.classes
    spec = ModelSpec(
        network=replace(
            network,
            convention=options.convention or base.network.convention,
            norm=options.norm or base.network.norm,
        ),
        input=replace(
            base.input,
            channel_order=options.channel_order or base.input.channel_order,
            mean=options.mean or base.input.mean,
            std=options.std or base.input.std,
        ),
        classes=classes,
        source=source,
    )
    return spec, () if written else _assumptions(spec, options)


def _assumptions(spec: ModelSpec, options: CheckpointOptions) -> tuple[Assumption, ...]:
    """What was assumed for a checkpoint without a spec and not said by the user."""
    order, mean, std = spec.input.channel_order, spec.input.mean, spec.input.std
    said = (options.convention, options.norm, options.channel_order, options.classes)
    candidates = (
        Assumption(
            "sampling convention",
            spec.network.convention,
            "what the authors' weights were trained with; the file cannot tell",
            f"--sampling-convention {'|'.join(SamplingConvention)}",
        ),
        Assumption(
            "normalisation layers",
            spec.network.norm,
            "the authors train with InPlaceABN, which uses |weight|",
            f"--norm {'|'.join(NormKind)}",
        ),
        Assumption(
            "input",
            f"{order} 0..255, minus {mean}, divided by {std}",
            "the authors' data loader",
            "--channel-order bgr|rgb --mean A B C --std A B C",
        ),
        Assumption(
            "classes",
            spec.classes.dataset,
            f"the table with {spec.network.num_classes} classes"
            if spec.classes.dataset != "unnamed"
            else f"no known table has {spec.network.num_classes} classes",
            "--classes cityscapes|ade20k|voc|FILE.json",
        ),
    )
    return tuple(one for one, value in zip(candidates, said, strict=True) if value is None)


def _checked_state(state: State, network: NetworkSpec, path: Path) -> tuple[State, tuple[str, ...]]:
    """The state dict that loads strictly, and what was tolerated to get it."""
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in AlignSeg(network).state_dict().items()}
    notes = []
    state = dict(state)
    counters = [key for key in wanted if key.endswith("num_batches_tracked")]
    if not any(key in state for key in counters):
        notes.append("no num_batches_tracked counters, as in old InPlaceABN; inference needs none")
        state |= {key: torch.tensor(0) for key in counters}
    if not any(key.startswith("dsn.") for key in state if key not in counters):
        notes.append("no auxiliary head (dsn); inference needs none")
        state = {key: value for key, value in state.items() if not key.startswith("dsn.")}
        wanted = {key: shape for key, shape in wanted.items() if not key.startswith("dsn.")}
    _require_fit(state, wanted, path)
    _require_finite(state, path)
    return state, tuple(notes)


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
        listing = "; ".join(f"{len(k)} {name}: {_some(k)}" for name, k in groups.items() if k)
        raise CheckpointError(
            f"{path} does not fit the network its shapes describe: {listing}",
            f"exactly the {len(wanted)} keys and shapes of that network",
            "check that it is a whole AlignSeg checkpoint of one network",
        )


def _require_finite(state: State, path: Path) -> None:
    broken = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(
            f"{path} has NaN or infinite values in {len(broken)} tensors: {_some(broken)}",
            "finite weights",
            "use a checkpoint from before training diverged",
        )


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - KEYS_SHOWN
    return ", ".join(names[:KEYS_SHOWN]) + (f", and {more} more" if more > 0 else "")
