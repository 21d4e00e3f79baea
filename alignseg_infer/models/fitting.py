"""Fitting a state dict to the network that its shapes describe.

What inference does not need is left out with a note; what is missing, unknown or broken is an
error.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from alignseg_infer.errors import CheckpointError, SpecError
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.backbone import BACKBONES
from alignseg_infer.models.identify import detect_network
from alignseg_infer.models.state_search import Found, State
from alignseg_infer.spec.model import NetworkSpec
from alignseg_infer.text import first_few

FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var")

# What a training loop leaves in a network without changing what it computes.
_UNNEEDED = re.compile(
    r"(?:.*\.)?total_(?:ops|params)"  # counters of thop.profile, in every part
    r"|(?:\w+_)?(?:criterion|loss|losses)(?:_\w+)?\..*"  # class weights of the loss
    r"|fc\.(?:weight|bias)"  # ImageNet's classifier, from the backbone's weights
)

# Buffers that normalise images within the training code.
_NORMALISATION = re.compile(r"(?:(?:pixel|image|img)_)?(?:mean|std)")


def network_of(state: State, path: Path) -> NetworkSpec:
    """Derive the backbone, the widths and the class count from the shapes.

    Raises:
        CheckpointError: They are not those of AlignSeg, or larger than any network.
    """
    try:
        bottleneck = "layer1.0.conv3.weight" in state
        blocks = [_count_blocks(state, stage) for stage in (1, 2, 3, 4)]
        network = NetworkSpec(
            backbone=next(
                name
                for name, layout in BACKBONES.items()
                if list(layout.blocks) == blocks and layout.bottleneck == bottleneck
            ),
            width=state["conv1.weight"].shape[0] / 64,
            decoder_channels=state["RRB5a.unify.weight"].shape[0],
            num_classes=state["head.3.weight"].shape[0],
        )
    except SpecError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.expected, error.fix) from error
    except (KeyError, StopIteration, IndexError) as error:
        raise CheckpointError(
            f"{path} is not an AlignSeg checkpoint: it looks like {detect_network(state)}",
            f"the keys of AlignSeg with {', '.join(BACKBONES)}: conv1.weight, CAM.pool.1.weight, "
            "RRB5a.unify.weight, head.3.weight, ...",
            f"check another file with alignseg inspect FILE; this file has "
            f"{first_few(sorted(state))}",
        ) from error
    return network


def fit_state(state: State, network: NetworkSpec, path: Path) -> tuple[State, tuple[str, ...]]:
    """Return a state dict that loads strictly, and the deviations that were tolerated.

    Raises:
        CheckpointError: Keys are missing or unknown, or values cannot be used.
    """
    wanted = _shapes_of(network)
    state, notes = _leave_out_unneeded(state)
    if not _has_fitting_auxiliary_head(state, wanted):
        has_one = any(key.startswith("dsn.") for key in state)
        what = (
            "the auxiliary head (dsn) is of another size" if has_one else "no auxiliary head (dsn)"
        )
        notes.append(f"{what}; inference does not need it")
        state = {key: value for key, value in state.items() if not key.startswith("dsn.")}
        wanted = {key: shape for key, shape in wanted.items() if not key.startswith("dsn.")}
    missing = [key for key in wanted if key.endswith(COUNTER) and key not in state]
    if missing:
        notes.append(
            f"no {COUNTER} counters in {len(missing)} layers; inference does not need them"
        )
        state |= {key: torch.tensor(0) for key in missing}
    _require_fit(state, wanted, path)
    state = {key: _as_float32(value, key, path) for key, value in state.items()}
    _require_usable(state, path)
    return state, tuple(notes)


def complete_average(average: Found, raw: Found) -> tuple[State, tuple[str, ...]]:
    """Return the averaged weights with what was not averaged, which comes from the raw ones.

    Many loops average parameters only, and keep the running statistics in the network itself; some
    average only the parameters that they train.
    """
    lacking = {key: value for key, value in raw.state.items() if key not in average.state}
    buffers = {key for key in lacking if key.endswith((*_STATISTICS, COUNTER))}
    frozen = sorted(key for key in lacking if key not in buffers and not _UNNEEDED.fullmatch(key))
    frozen = [] if frozen and _has_all_parameters(average.state) else frozen
    layers = {key.rpartition(".")[0] for key in (*average.state, *frozen)}
    taken = sorted(key for key in buffers if key.rpartition(".")[0] in layers)
    notes = [f"{average.place} has no {first_few(frozen)}; those of {raw.place} were taken"]
    notes = notes if frozen else []
    if any(key.endswith(_STATISTICS) for key in taken):
        notes.append(
            f"{average.place} has no running statistics in {len(taken)} tensors; those of "
            f"{raw.place} were taken"
        )
    return {**average.state, **{key: lacking[key] for key in (*frozen, *taken)}}, tuple(notes)


def _has_all_parameters(state: State) -> bool:
    try:
        wanted = _shapes_of(network_of(state, Path()))
    except CheckpointError:
        return False
    wanted_parts = (key for key in wanted if not key.endswith((*_STATISTICS, COUNTER)))
    return all(key in state for key in wanted_parts if not key.startswith("dsn."))


def _shapes_of(network: NetworkSpec) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: value.shape for key, value in AlignSeg(network).state_dict().items()}


def _count_blocks(state: State, stage: int) -> int:
    parts = {key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")}
    return sum(part.isdigit() for part in parts)


def _leave_out_unneeded(state: State) -> tuple[State, list[str]]:
    reasons = {
        "left out, since inference does not need them": _UNNEEDED,
        "left out (if training normalised images with them, set mean= and std=)": _NORMALISATION,
    }
    notes = []
    for reason, pattern in reasons.items():
        if keys := sorted(key for key in state if pattern.fullmatch(key)):
            notes.append(f"{reason}: {first_few(keys)}")
            state = {key: value for key, value in state.items() if key not in set(keys)}
    return state, notes


def _has_fitting_auxiliary_head(state: State, wanted: Mapping[str, torch.Size]) -> bool:
    """Whether the auxiliary head is the one that the class count and the channels call for.

    Incomplete heads count as fitting, so that what is missing is named.
    """
    own = {key: value.shape for key, value in state.items() if key.startswith("dsn.")}
    own = {key: shape for key, shape in own.items() if not key.endswith(COUNTER)}
    return bool(own) and all(wanted.get(key) == shape for key, shape in own.items())


def _as_float32(value: Tensor, key: str, path: Path) -> Tensor:
    if key.endswith(COUNTER):
        return torch.tensor(0)  # unused, and of any type in the file
    dense = value.layout is torch.strided and not value.is_nested
    if dense and value.dtype in FLOAT_TYPES:
        return value.float()
    layout = "" if value.layout is torch.strided else f" {value.layout}"
    kind = f"values of {value.dtype}{layout}" if not value.is_nested else "a nested tensor"
    raise CheckpointError(
        f"{path} has {kind} in {key}",
        "dense float32, float16, bfloat16 or float64 weights",
        _conversion(value),
    )


def _conversion(value: Tensor) -> str:
    """Return how to make float32 weights of a tensor that has none."""
    if value.is_complex() or value.is_nested:
        return "check another file with alignseg inspect FILE; no AlignSeg has such weights"
    call = "dequantize()" if value.is_quantized else "float()"
    call = call if value.layout is torch.strided else f"to_dense().{call}"
    return f"convert it first: {{key: value.{call} for key, value in state.items()}}"


def _require_fit(state: State, wanted: Mapping[str, torch.Size], path: Path) -> None:
    groups = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "misshapen": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
            for key, shape in wanted.items()
            if key in state and not key.endswith(COUNTER) and state[key].shape != shape
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
