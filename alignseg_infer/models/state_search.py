"""Finding the weights of AlignSeg in whatever a training loop saved around them.

A file may hold them bare, in nested dictionaries, below the name of a wrapper (``module.``,
``model.``, ``net.``), or inside a whole network. One key that only AlignSeg has shows where each
copy is: what stands before it is the prefix of the copy.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from alignseg_infer.models.checkpoint_options import Weights
from alignseg_infer.models.pickled import StandIn
from alignseg_infer.text import first_few

State: TypeAlias = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
_DEEPEST = 12  # nested containers
_MOST_COPIES = 50  # in one dictionary
_INNER = ("module", "_orig_mod")  # of DataParallel and torch.compile, which wrap any part
_WRAPPED = rf"(?:(?:{'|'.join(_INNER)})\.)*"
_ANCHOR = re.compile(rf"(?P<prefix>(?:.*\.)?){_WRAPPED}RRB5a\.{_WRAPPED}unify\.{_WRAPPED}weight")
_AVERAGES = {"ema", "swa", "avg", "averaged", "average", "averaging", "shadow"}
_KEPT_RAW = "current_model_state"  # Lightning's WeightAveraging, whose state_dict is averaged
_COUNTER = "n_averaged"  # of PyTorch's AveragedModel
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


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
    roots = [one.place.split(".")[0] for one in found]
    if _KEPT_RAW in roots:
        found = [
            one._replace(kind=Weights.EMA) if root == WRAPPERS[0] else one
            for one, root in zip(found, roots, strict=True)
        ]
    return sorted(found, key=_order)


def unread_averages(content: object) -> list[str]:
    """Return where averages are that do not have the network's keys, such as bare lists."""
    return [
        ".".join(place)
        for place, group in _groups(content)
        if any(_says_averaged(name) for name in place) and not any(_networks_in(place, group))
    ]


def largest_state(content: object) -> State:
    """Return the tensors of the dictionary that has most of them, without usual wrappers."""
    groups = [group for _, group in _groups(content)]
    state = max(groups, key=len, default={})
    while state and (prefix := _common_wrapper(state)):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def with_buffers_of(average: Found, raw: Found) -> tuple[State, tuple[str, ...]]:
    """Return the averaged weights; statistics that are not averaged come from the raw ones.

    Many loops average parameters only, and keep the running statistics in the network itself.
    """
    missing = {
        key: value
        for key, value in raw.state.items()
        if key.endswith(_BUFFERS) and key not in average.state
    }
    statistics = any(not key.endswith(_BUFFERS[-1]) for key in missing)
    note = f"{average.place} has no running statistics; those of {raw.place} were taken"
    return {**average.state, **missing}, (note,) if statistics else ()


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
        if isinstance(entry, list | tuple):
            entry = dict(enumerate(entry))
        if not isinstance(entry, Mapping):
            continue
        group = {str(key): value for key, value in entry.items() if isinstance(value, Tensor)}
        if group:
            yield place, group
        inner = (Mapping, StandIn, list, tuple)
        waiting += [((*place, str(k)), v) for k, v in entry.items() if isinstance(v, inner)]


def _module_state(module: StandIn, prefix: str = "", depth: int = 0) -> State:
    """Return the state dict of a whole network that was saved; empty if it is none."""
    content = module.content
    if not isinstance(content, dict) or depth > _DEEPEST:
        return {}
    left_out = content.get("_non_persistent_buffers_set") or ()
    state = {}
    for name, value in [*_items(content, "_parameters"), *_items(content, "_buffers")]:
        if isinstance(value, Tensor) and name not in left_out:
            state[f"{prefix}{name}"] = value.detach()
    for name, part in _items(content, "_modules"):
        if isinstance(part, StandIn):
            state |= _module_state(part, f"{prefix}{name}.", depth + 1)
    return state


def _items(content: dict[Any, Any], name: str) -> list[tuple[Any, Any]]:
    entry = content.get(name)
    return list(entry.items()) if isinstance(entry, Mapping) else []


def _networks_in(place: tuple[str, ...], group: State) -> Iterator[Found]:
    """Yield the networks that one dictionary of tensors holds, each under a prefix of its own."""
    matches = (_ANCHOR.fullmatch(key) for key in group)
    found = {match["prefix"] for match in matches if match}
    prefixes = sorted(found, key=len)[:_MOST_COPIES]
    left = dict(group)
    for prefix in reversed(prefixes):  # the longest first: what is left belongs to shorter ones
        own = {key: left.pop(key) for key in group if key.startswith(prefix) and key in left}
        state = {key.removeprefix(prefix): value for key, value in own.items()}
        state = {_without_inner(key, state): value for key, value in state.items()}
        names = [*place, *prefix.split(".")[:-1]]
        averaged = _COUNTER in group or any(_says_averaged(name) for name in names)
        beside = [key for key in group if not any(key.startswith(one) for one in prefixes)]
        notes = (f"not part of the network, and left out: {first_few(beside)}",)
        yield Found(
            place=".".join(names) or "the file",
            kind=Weights.EMA if averaged else Weights.RAW,
            state=state,
            notes=notes if set(beside) - {_COUNTER} else (),
        )


def _says_averaged(name: str) -> bool:
    """Whether one of the words in a name such as ``model_ema`` or ``netEMA`` says so."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return any(word.lower() in _AVERAGES for word in words)


def _without_inner(key: str, state: State) -> str:
    """Return `key` without wrappers of parts, unless that is the key of another tensor."""
    bare = ".".join(part for part in key.split(".") if part not in _INNER)
    return key if bare in state else bare


def _common_wrapper(state: State) -> str:
    """Return the first part of all keys if it is that of a usual wrapper, else nothing."""
    parts = {key.split(".")[0] for key in state}
    (first, *others) = parts
    return "" if others or first not in (*_INNER, *WRAPPERS[2:]) else f"{first}."
