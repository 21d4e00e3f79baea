"""Renaming, merging and leaving out the classes of a network, as a ``.json`` file says.

::

    {
      "names": {"road": "drivable", "sky": null, "*": "obstacle"},
      "colors": {"drivable": [128, 64, 128]},
      "void": 255,
      "threshold": 0.5
    }
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from alignseg_infer.datasets.class_tables import is_color
from alignseg_infer.errors import OptionError, SpecError
from alignseg_infer.files.reading import read_text, require_file, user_path
from alignseg_infer.spec.model import ClassSpec, ModelSpec
from alignseg_infer.spec.remapping import MAX_LABEL, RemapSpec
from alignseg_infer.text import near_words

OTHERS = "*"  # stands for all classes that are not named
BYTE_VOID = 255
EXAMPLE = '{"names": {"road": "drivable", "sky": null, "*": "obstacle"}}'
_KEYS = ("names", "colors", "void", "threshold")


@dataclass(frozen=True, kw_only=True)
class Remapping:
    """What the classes of a network become, by their names.

    Attributes:
        dataset: Name of the new class table.
        names: The new name of each class, or None to leave it out. ``*`` stands for all classes
            that are not named, which otherwise keep their names. Labels are counted in this order,
            then in that of the classes that keep their names.
        colors: (red, green, blue) of new names, 0..255. Other new names have the colour of their
            first class.
        void: Label of pixels without a class; None for 255, or 65535 above 255 classes.
        threshold: Probability of its label below which a pixel gets no class; None for no limit.
    """

    dataset: str
    names: Mapping[str, str | None]
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    void: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise OptionError(
                f"the threshold of {self.dataset} is {self.threshold:g}",
                "a probability above 0 and up to 1",
                "threshold=0.5, or leave it out",
            )

    def apply(self, spec: ModelSpec) -> ModelSpec:
        """Return the facts of a model whose classes become others.

        Raises:
            OptionError: The model has other classes or was remapped before, or a new name cannot
                be that of a class.
        """
        if spec.remap is not None:
            raise OptionError(
                f"the model's classes were remapped before, to those of {spec.classes.dataset}",
                "a model with the network's own classes",
                "give remap= with the checkpoint, or with the file that was remapped",
            )
        old = spec.classes.names
        self._require_known("names", [name for name in self.names if name != OTHERS], old)
        new = {name: self.names.get(name, self.names.get(OTHERS, name)) for name in old}
        stay = [name for name in (*self.names.values(), *new.values()) if name in new.values()]
        names = tuple(name for name in dict.fromkeys(stay) if name is not None)
        void = self._choose_void(names)
        self._require_known("colors", list(self.colors), names)
        # Each has the colour of its first class, which is entered last.
        first = dict(reversed([*zip(new.values(), spec.classes.colors, strict=True)]))
        return replace(
            spec,
            classes=self._class_table(names, first),
            remap=RemapSpec(
                names=old,
                labels=tuple(void if name is None else names.index(name) for name in new.values()),
                void=void,
                threshold=self.threshold,
            ),
        )

    def _class_table(
        self, names: tuple[str, ...], colors: Mapping[str | None, tuple[int, int, int]]
    ) -> ClassSpec:
        table = tuple(self.colors.get(name, colors[name]) for name in names)
        try:
            return ClassSpec(dataset=self.dataset, names=names, colors=table)
        except SpecError as error:
            fix = f"give it another new name in {self.dataset}"
            raise OptionError(error.problem, error.expected, fix) from error

    def _require_known(self, key: str, given: list[str], known: tuple[str, ...]) -> None:
        """Raise OptionError if a class of the file is none of the `known` ones."""
        unknown = [name for name in given if name not in known]
        if not unknown:
            return
        near = near_words(unknown[0], known, most=3)
        raise OptionError(
            f"{key} of {self.dataset} has the class {unknown[0]!r}, which does not exist",
            f"{'new names' if key == 'colors' else 'classes of the model'}, such as {known[0]!r}",
            f"did you mean {' or '.join(map(repr, near))}?" if near else f"{known[0]!r}",
        )

    def _choose_void(self, names: tuple[str, ...]) -> int:
        """Return the label of void.

        Raises:
            OptionError: It is the label of a class, or no class stays.
        """
        if not names:
            raise OptionError(f"{self.dataset} leaves out all classes", "one that stays", EXAMPLE)
        usual = BYTE_VOID if len(names) <= BYTE_VOID else MAX_LABEL
        void = usual if self.void is None else self.void
        if len(names) <= void <= MAX_LABEL:
            return void
        taken = f", which is the label of {names[void]!r}" if 0 <= void < len(names) else ""
        raise OptionError(
            f"void is {void} in {self.dataset}{taken}",
            f"a label from {len(names)} to {MAX_LABEL}, above those of the {len(names)} classes",
            f'"void": {usual}, or leave it out',
        )


def remapping_named(remap: str | Path | Remapping) -> Remapping:
    """Return the remapping in a ``.json`` file, or itself.

    Raises:
        OptionError: The file is missing, or is no remapping.
    """
    if isinstance(remap, Remapping):
        return remap
    path = user_path(remap)
    require_file(path, "a remapping of classes", OptionError)
    try:
        facts = json.loads(read_text(path))
        reason = _find_fault(facts)
    except (ValueError, RecursionError) as error:
        reason = repr(error)
    if reason:
        raise OptionError(
            f"{path} is not a remapping of classes: {reason}",
            f"JSON like {EXAMPLE}, perhaps with colors, void and threshold",
            "write the new name of each class, or null to leave it out",
        )
    colors = {
        name: (red, green, blue) for name, (red, green, blue) in facts.pop("colors", {}).items()
    }
    return Remapping(dataset=path.stem, colors=colors, **facts)


def _find_fault(facts: object) -> str:
    """Return what is wrong with the JSON of a remapping; empty if nothing is."""
    if not isinstance(facts, dict) or not isinstance(facts.get("names"), dict):
        return "it is not an object with names"
    names, colors = facts["names"], facts.get("colors", {})
    void, threshold = facts.get("void"), facts.get("threshold")
    if unknown := [key for key in facts if key not in _KEYS]:
        return f"it has {unknown[0]!r}, where {', '.join(_KEYS)} are known"
    if not names or not all(isinstance(name, str | None) for name in names.values()):
        return "its names are not an object of strings and null"
    if not isinstance(colors, dict) or not all(map(is_color, colors.values())):
        return "its colors are not lists of three integers in 0..255"
    if not isinstance(void, int | None) or isinstance(void, bool):
        return f"void is {void!r}, which is no integer"
    if threshold is not None and type(threshold) not in (int, float):
        return f"the threshold is {threshold!r}, which is no number"
    return ""
