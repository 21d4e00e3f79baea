"""Files that remap classes: which labels follow, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer.datasets.class_tables import ADE20K, class_table_for
from alignseg_infer.datasets.remapping import EXAMPLE, Remapping, remapping_named
from alignseg_infer.errors import OptionError, SpecError
from alignseg_infer.spec.model import InputSpec, ModelSpec, NetworkSpec
from tests.support.models import SMALL_SPEC

WIDE = ModelSpec(
    network=NetworkSpec(num_classes=300), input=InputSpec(), classes=class_table_for(300)
)


def written(folder: Path, facts: Any) -> Path:
    path = folder / "new.json"
    path.write_text(facts if isinstance(facts, str) else json.dumps(facts), encoding="utf-8")
    return path


def applied(spec: ModelSpec = SMALL_SPEC, **facts: Any) -> ModelSpec:
    return Remapping(dataset="new", **facts).apply(spec)


def test_labels_are_counted_in_the_order_of_the_file(tmp_path: Path) -> None:
    facts = {"names": {"car": "vehicle", "*": "other", "bus": "vehicle", "sky": None}}
    spec = remapping_named(written(tmp_path, facts)).apply(SMALL_SPEC)
    assert spec.classes.dataset == "new"
    assert spec.classes.names == ("vehicle", "other")
    assert spec.remap is not None
    found = dict(zip(spec.remap.names, spec.remap.labels, strict=True))
    assert found == {
        **dict.fromkeys(SMALL_SPEC.classes.names, 1),
        **{"car": 0, "bus": 0, "sky": 255},
    }
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_classes_that_are_not_named_stay_behind_the_others() -> None:
    spec = applied(names={"sky": "heaven"})
    rest = [name for name in SMALL_SPEC.classes.names if name != "sky"]
    assert spec.classes.names == ("heaven", *rest)


def test_a_new_name_may_be_that_of_another_class() -> None:
    """Both are one class then, with the colour of the first."""
    spec = applied(names={"rider": "person"})
    assert spec.remap is not None
    labels = dict(zip(spec.remap.names, spec.remap.labels, strict=True))
    assert labels["rider"] == labels["person"] == 0
    assert spec.classes.colors[0] == (220, 20, 60)
    assert len(spec.classes.names) == 18


def test_colors() -> None:
    colors = {"ground": (1, 2, 3)}
    spec = applied(names={"road": "ground", "sidewalk": "ground", "sky": "air"}, colors=colors)
    assert spec.classes.colors[:2] == ((1, 2, 3), (70, 130, 180))


@pytest.mark.parametrize(
    ("spec", "void", "expected"),
    [
        (SMALL_SPEC, None, 255),
        (SMALL_SPEC, 19, 19),
        (SMALL_SPEC, 40000, 40000),
        (WIDE, None, 65535),
    ],
)
def test_void(spec: ModelSpec, void: int | None, expected: int) -> None:
    name = spec.classes.names[0]
    remap = applied(spec, names={name: "first"}, void=void).remap
    assert remap is not None
    assert remap.void == expected


@pytest.mark.parametrize(
    ("facts", "problem", "fix"),
    [
        ({"names": {"rode": "x"}}, "'rode', which does not exist", "did you mean 'road'"),
        (
            {"names": {"road": "x"}, "colors": {"y": [0, 0, 0]}},
            "colors of new has the class 'y'",
            "",
        ),
        ({"names": {"*": None}}, "leaves out all classes", "names"),
        ({"names": {"*": None}, "colors": {"x": [0, 0, 0]}}, "leaves out all classes", "names"),
        ({"names": {"road": ""}}, "a class is called ''", "another new name in new"),
        ({"names": {"road": "x"}, "void": 3}, "the label of 'wall'", '"void": 255'),
        ({"names": {"road": "x"}, "void": 70000}, "void is 70000", '"void": 255'),
        ({"names": {"road": "x"}, "void": -1}, "void is -1", '"void": 255'),
        ({"names": {"road": "x"}, "threshold": 0}, "threshold of new is 0", "threshold=0.5"),
        ({"names": {"road": "x"}, "threshold": 50}, "threshold of new is 50", "threshold=0.5"),
        ('{"names": {"road": "x"}, "threshold": NaN}', "threshold of new is nan", "0.5"),
    ],
)
def test_what_does_not_fit_the_model(facts: Any, problem: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        remapping_named(written(tmp_path, facts)).apply(SMALL_SPEC)
    assert problem in caught.value.problem
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ("no JSON", "JSONDecodeError"),
        ([], "not an object with names"),
        ({"road": "x"}, "not an object with names"),
        ({"names": {}}, "strings and null"),
        ({"names": {"road": 3}}, "strings and null"),
        ({"names": {"road": "x"}, "colours": {}}, "'colours', where names, colors, void"),
        ({"names": {"road": "x"}, "colors": {"x": [0, 0]}}, "three integers"),
        ({"names": {"road": "x"}, "colors": []}, "three integers"),
        ({"names": {"road": "x"}, "void": 2.5}, "no integer"),
        ({"names": {"road": "x"}, "void": True}, "no integer"),
        ({"names": {"road": "x"}, "threshold": "0.5"}, "no number"),
        ({"names": {"road": "x"}, "threshold": True}, "no number"),
    ],
)
def test_files_that_are_no_remapping(facts: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        remapping_named(written(tmp_path, facts))
    assert problem in caught.value.problem
    assert "new.json" in caught.value.problem


def test_the_example_in_errors_works(tmp_path: Path) -> None:
    spec = remapping_named(written(tmp_path, EXAMPLE)).apply(SMALL_SPEC)
    assert spec.classes.names == ("drivable", "obstacle")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a remapping of classes"):
        remapping_named(tmp_path / "none.json")


def test_only_pixels_without_a_class_widen_the_labels() -> None:
    many = ModelSpec(
        network=NetworkSpec(num_classes=256), input=InputSpec(), classes=class_table_for(256)
    )
    name = many.classes.names[0]
    assert applied(many, names={name: "x"}).label_count == 256
    assert applied(many, names={name: "x"}, threshold=0.5).label_count == 65536
    assert applied(many, names={name: None}).label_count == 256  # 255 classes, and void is 255


def test_a_threshold_that_is_no_probability() -> None:
    with pytest.raises(OptionError, match="threshold of new is 50"):
        applied(names={"road": "x"}, threshold=50)


def test_a_name_that_no_class_may_have() -> None:
    with pytest.raises(OptionError, match="printable"):
        applied(names={"road": "\x1b[2J"})


def test_a_model_is_remapped_once() -> None:
    once = applied(names={"road": "x"})
    with pytest.raises(OptionError, match="remapped before"):
        Remapping(dataset="again", names={"x": "y"}).apply(once)


def test_ade20k_becomes_a_few_classes() -> None:
    spec = ModelSpec(network=NetworkSpec(num_classes=150), input=InputSpec(), classes=ADE20K)
    few = applied(spec, names={"floor": "free", "rug": "free", "*": "blocked"}, threshold=0.5)
    assert few.classes.names == ("free", "blocked")
    assert few.label_count == 256


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [0] * 18},
        {"labels": [0] * 18 + [2]},
        {"labels": [-1] * 19},
        {"labels": [255] * 19},
        {"void": 0},
        {"void": 70000},
        {"threshold": 2.0},
        {"names": ["x"] * 18},
    ],
)
def test_facts_that_contradict_themselves_are_not_read(change: Any) -> None:
    facts = json.loads(applied(names={"*": "all"}).to_json())
    facts["remap"].update(change)
    with pytest.raises(SpecError, match="cannot be read"):
        ModelSpec.from_json(json.dumps(facts))
