"""Finding the weights of AlignSeg in whatever a training loop saved around them.

A file may hold them bare, in nested dictionaries, below the name of a wrapper (``module.``,
``model.``, ``net.``), or inside a whole network. One key that only AlignSeg has shows where each
copy is: what stands before it is the prefix of the copy.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from alignseg_infer.models.checkpoint_options import Weights
from alignseg_infer.models.pickled import StandIn
from alignseg_infer.text import first_few

State: TypeAlias = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
_DEEPEST = 12  # nested containers
_MOST_COPIES = 50  # in one dictionary
_INNER = (  # what wraps any part: DataParallel, torch.compile, FSDP, recomputation of activations
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)
_WRAPPED = rf"(?:(?:{'|'.join(_INNER)})\.)*"
_ANCHOR = re.compile(rf"(?P<prefix>(?:.*\.)?){_WRAPPED}RRB5a\.{_WRAPPED}unify\.{_WRAPPED}weight")

# Words of the names that training code gives to an average. Those in the second line say so only
# beside words for weights: "averaged_model", but neither "average_precision" nor Adam's "exp_avg".
_EMA = {"ema", "emas", "swa"}
_AVERAGED = {"avg", "averaged", "average", "averaging", "shadow", "polyak"}
_OF_WEIGHTS = {"model", "net", "network", "module", "state", "dict", "params", "parameters"}
_OF_WEIGHTS |= {"weight", "weights", "moving", "exponential", "stochastic"}
_SCORES = {"iou", "miou", "acc", "accuracy", "precision", "loss", "score", "metric", "metrics"}
_NOT = {"no", "non", "not", "without"}
# What holds raw weights inside an average: of ema-pytorch, torch_ema and classes with a shadow.
_RAW_NAMES = {"online_model", "collected_params", "backup"}
# Below these are moments, counters and scales, though some have the names of the weights.
_TRAINING = {"optimizer", "optimizers", "optimiser", "optimisers", "optim"}
_TRAINING |= {"scheduler", "schedulers", "scaler"}

_KEPT_RAW = "current_model_state"  # Lightning's WeightAveraging, whose state_dict is averaged
_MMENGINE_RAW = "ema_state_dict"  # MMEngine's EMAHook swaps both copies when it saves
_COUNTER = "n_averaged"  # of PyTorch's AveragedModel
_COUNTERS = {_COUNTER, "steps", "step", "initted"}  # also of MMEngine and ema-pytorch


class Found(NamedTuple):
    """The weights of one network in a file.

    Attributes:
        place: Names that lead to it, such as ``state_dict.module``.
        kind: Whether it is an average over training.
        state: Tensors by key.
        notes: What else was there.
    """

    place: str
    kind: Weights
    state: State
    notes: tuple[str, ...]


def find_networks(content: object) -> list[Found]:
    """Return all copies of AlignSeg's weights, those under usual names first."""
    found = [one for place, group in _groups(content) for one in _networks_in(place, group)]
    if kept := _kept_raw(content):
        kinds = {WRAPPERS[0]: Weights.EMA, kept: Weights.RAW}
        found = [one._replace(kind=kinds.get(one.place.split(".")[0], one.kind)) for one in found]
    return sorted(found, key=_order)


def unread_averages(content: object) -> list[str]:
    """Return where averages are that do not have the network's keys, such as bare lists."""
    return [
        ".".join(place)
        for place, group in _groups(content)
        if _kind_of(place) is Weights.EMA and not any(_networks_in(place, group))
    ]


def largest_state(content: object) -> State:
    """Return the tensors of the dictionary that has most of them, without usual wrappers."""
    groups = [group for _, group in _groups(content)]
    state = max(groups, key=len, default={})
    while state and (prefix := _common_wrapper(state)):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def entries_of(entry: object) -> dict[Any, Any]:
    """Return the entries of a dictionary, which may have attributes that hide its methods."""
    return dict(dict.items(entry)) if isinstance(entry, dict) else {}


def name_of(key: object) -> str:
    """Return a key as text; only what is short for certain, since a file may hold any key."""
    if isinstance(key, str):
        return key
    return str(key) if isinstance(key, int) and key.bit_length() < 64 else type(key).__name__


def _kept_raw(content: object) -> str | None:
    """Return where a tool keeps the raw weights that saves the average as ``state_dict``."""
    own = entries_of(content)
    if not isinstance(own.get(WRAPPERS[0]), dict):
        return None
    if isinstance(own.get(_KEPT_RAW), dict):
        return _KEPT_RAW
    meta, average = (entries_of(own.get(name)) for name in ("meta", _MMENGINE_RAW))
    return _MMENGINE_RAW if "mmengine_version" in meta and "steps" in average else None


def _order(found: Found) -> tuple[int, int]:
    """Order usual names first, and what lies less deep."""
    names = found.place.split(".")
    usual = [WRAPPERS.index(name) for name in names if name in WRAPPERS]
    return (0 if found.place == "the file" else min(usual, default=len(WRAPPERS)), len(names))


def _groups(content: object) -> Iterator[tuple[tuple[str, ...], State]]:
    """Yield each dictionary of tensors with the names that lead to it; each object once."""
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], object]] = deque([((), content)])
    while waiting:
        place, entry = waiting.popleft()
        if id(entry) in seen or len(place) > _DEEPEST:
            continue
        seen.add(id(entry))
        if isinstance(entry, StandIn):
            state = _module_state(entry)
            if state:
                yield place, state
                continue
            entry = entry.content
        inside = dict(enumerate(entry)) if isinstance(entry, list | tuple) else entries_of(entry)
        named = {name_of(key): value for key, value in inside.items()}
        # Without attributes of the file, which hide methods of the tensor.
        group = {k: Tensor.detach(v) for k, v in named.items() if isinstance(v, Tensor)}
        if group:
            yield place, group
        inner = (dict, StandIn, list, tuple)
        waiting += [
            ((*place, name), value)
            for name, value in named.items()
            if isinstance(value, inner) and not _TRAINING & _words_of(name)
        ]


def _module_state(module: StandIn, prefix: str = "", depth: int = 0) -> State:
    """Return the state dict of a whole network that was saved; empty if it is none."""
    content = module.content
    if not isinstance(content, dict) or depth > _DEEPEST:
        return {}
    own = entries_of(content)
    left_out = own.get("_non_persistent_buffers_set")
    left_out = left_out if isinstance(left_out, set) else set()
    state = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in entries_of(own.get(kind)).items():
            if isinstance(value, Tensor) and name not in left_out:
                state[f"{prefix}{name_of(name)}"] = Tensor.detach(value)
    for name, part in entries_of(own.get("_modules")).items():
        if isinstance(part, StandIn):
            state |= _module_state(part, f"{prefix}{name_of(name)}.", depth + 1)
    return state


def _networks_in(place: tuple[str, ...], group: State) -> Iterator[Found]:
    """Yield the networks that one dictionary of tensors holds, each under a prefix of its own."""
    matches = (_ANCHOR.fullmatch(key) for key in group)
    found = {match["prefix"] for match in matches if match}
    prefixes = sorted(found, key=len)[:_MOST_COPIES]
    counted = [key.removesuffix(_COUNTER) for key in group if key.endswith(_COUNTER)]
    left = dict(group)
    for prefix in reversed(prefixes):  # the longest first: what is left belongs to shorter ones
        own = {key: left.pop(key) for key in group if key.startswith(prefix) and key in left}
        state = {key.removeprefix(prefix): value for key, value in own.items()}
        twins = _take_out_twins(state)
        state = {_without_inner(key, state): value for key, value in state.items()}
        names = (*place, *prefix.split(".")[:-1])
        if any(_TRAINING & _words_of(name) for name in names):
            continue
        averaged = any(prefix.startswith(f"{one}module.") for one in counted)
        yield Found(
            place=".".join(names) or "the file",
            kind=Weights.EMA if averaged else _kind_of(names),
            state=state,
            notes=(*_describe_beside(group, prefixes), *twins),
        )


def _describe_beside(group: State, prefixes: list[str]) -> Iterator[str]:
    beside = [key for key in group if not key.startswith(tuple(prefixes))]
    beside = [key for key in beside if key.rpartition(".")[2] not in _COUNTERS]
    if beside:
        yield f"not part of the network, and left out: {first_few(beside)}"


def _take_out_twins(state: State) -> list[str]:
    """Remove the second copy that mmcv's EMAHook saves within a network; return a note on it.

    Which copy is the average depends on the training loop, and nothing in the file shows it.
    """
    twins = sorted({f"ema_{key.replace('.', '_')}" for key in state} & state.keys())
    for key in twins:
        del state[key]
    note = (
        "the second copy by mmcv's EMAHook was left out (it is the raw one after training by "
        f"epochs, and the average after training by iterations): {first_few(twins)}"
    )
    return [note] if twins else []


def _kind_of(names: Sequence[str]) -> Weights:
    """Return the kind of a copy from the names that lead to it; the innermost decides."""
    return next(filter(None, map(_kind_said_by, reversed(names))), Weights.RAW)


def _kind_said_by(name: str) -> Weights | None:
    words = _words_of(name)
    says_so = words & _EMA or (words & _AVERAGED and words <= _AVERAGED | _OF_WEIGHTS)
    if name in _RAW_NAMES or (says_so and words & _NOT):
        return Weights.RAW
    return Weights.EMA if says_so and not words & _SCORES else None


def _words_of(name: str) -> set[str]:
    """Return the words in a name such as ``model_ema`` or ``netEMA``."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def _without_inner(key: str, state: State) -> str:
    """Return `key` without wrappers of parts, unless that is the key of another tensor."""
    bare = ".".join(part for part in key.split(".") if part not in _INNER)
    return key if bare in state else bare


def _common_wrapper(state: State) -> str:
    """Return the first part of all keys if it is that of a usual wrapper, else nothing."""
    parts = {key.split(".")[0] for key in state}
    (first, *others) = parts
    return "" if others or first not in (*_INNER, *WRAPPERS[2:]) else f"{first}."
