"""Class tables against the datasets' own definitions."""

import json
from pathlib import Path

import pytest

from alignseg_infer.datasets.class_tables import (
    ADE20K,
    CITYSCAPES,
    VOC,
    class_table,
    class_table_for,
    class_table_from_file,
    class_table_named,
    voc_color,
)
from alignseg_infer.errors import OptionError
from alignseg_infer.spec.model import ClassSpec

# trainId order of cityscapesScripts, helpers/labels.py
CITYSCAPES_NAMES = [
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
]


def test_cityscapes_ids() -> None:
    assert list(CITYSCAPES.names) == CITYSCAPES_NAMES


@pytest.mark.parametrize(
    ("table", "label", "name", "color"),
    [
        (CITYSCAPES, 0, "road", (128, 64, 128)),
        (CITYSCAPES, 1, "sidewalk", (244, 35, 232)),
        (CITYSCAPES, 6, "traffic light", (250, 170, 30)),
        (CITYSCAPES, 8, "vegetation", (107, 142, 35)),
        (CITYSCAPES, 10, "sky", (70, 130, 180)),
        (CITYSCAPES, 11, "person", (220, 20, 60)),
        (CITYSCAPES, 13, "car", (0, 0, 142)),
        (CITYSCAPES, 18, "bicycle", (119, 11, 32)),
        (ADE20K, 0, "wall", (120, 120, 120)),
        (ADE20K, 12, "person", (150, 5, 61)),
        (ADE20K, 20, "car", (0, 102, 200)),
        (ADE20K, 149, "flag", (92, 0, 255)),
        (VOC, 0, "background", (0, 0, 0)),
        (VOC, 15, "person", (192, 128, 128)),
        (VOC, 20, "tvmonitor", (0, 64, 128)),
    ],
)
def test_entry(table: ClassSpec, label: int, name: str, color: tuple[int, int, int]) -> None:
    assert table.names[label] == name
    assert table.colors[label] == color


@pytest.mark.parametrize(("table", "count"), [(CITYSCAPES, 19), (ADE20K, 150), (VOC, 21)])
def test_counts(table: ClassSpec, count: int) -> None:
    assert len(table.names) == len(table.colors) == count
    assert len(set(table.names)) == count
    assert class_table_for(count) is table
    assert class_table(table.dataset) is table


def test_voc_colors_follow_the_formula() -> None:
    assert VOC.colors == tuple(voc_color(label) for label in range(21))


@pytest.mark.parametrize(
    ("label", "color"),
    [
        (1, (128, 0, 0)),
        (4, (0, 0, 128)),
        (8, (64, 0, 0)),
        (10, (64, 128, 0)),
        (63, (192, 192, 192)),
        (64, (32, 0, 0)),
        (255, (224, 224, 192)),
    ],
)
def test_voc_color(label: int, color: tuple[int, int, int]) -> None:
    assert voc_color(label) == color


@pytest.mark.parametrize("count", [1, 7, 300])
def test_numbered_classes(count: int) -> None:
    table = class_table_for(count)
    assert table.names == tuple(f"class {label}" for label in range(count))
    assert len(set(table.colors)) == count
    assert all(0 <= value <= 255 for color in table.colors for value in color)


def test_unknown_dataset() -> None:
    with pytest.raises(OptionError):
        class_table("kitti")


def test_table_from_file(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    facts = {"names": ["road", "Fußweg"], "colors": [[0, 128, 255], [1, 2, 3]]}
    path.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    expected = ClassSpec(dataset="own", names=("road", "Fußweg"), colors=((0, 128, 255), (1, 2, 3)))
    assert class_table_from_file(path) == expected


@pytest.mark.parametrize("name", ["own.json", "own.JSON"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_table_from_a_file_of_another_tool(name: str, encoding: str, tmp_path: Path) -> None:
    facts = {"names": ["Fußweg"], "colors": [[0, 128, 255]]}
    text = json.dumps(facts, ensure_ascii=False, indent=1).replace("\n", "\r\n")
    (tmp_path / name).write_bytes(text.encode(encoding))
    expected = ClassSpec(dataset="own", names=("Fußweg",), colors=((0, 128, 255),))
    assert class_table_named(tmp_path / name) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "names: [road]",
        "null",
        "[]",
        '{"names": ["road"]}',
        '{"colors": [[1, 2, 3]]}',
        '{"names": 1, "colors": [[1, 2, 3]]}',
        '{"names": ["road"], "colors": null}',
        '{"names": ["road", "car"], "colors": [[1, 2, 3]]}',
        '{"names": ["road"], "colors": [[1, 2]]}',
        '{"names": ["road"], "colors": [[1, 2, 3, 4]]}',
        '{"names": ["road"], "colors": [["red", 2, 3]]}',
        '{"names": ["road"], "colors": [[256, 2, 3]]}',
        '{"names": ["road"], "colors": [[-1, 2, 3]]}',
        '{"names": ["road"], "colors": [[NaN, 2, 3]]}',
        '{"names": ["road"], "colors": [[Infinity, 2, 3]]}',
        '{"names": ["road"], "colors": [[0.5, 0.25, 0.5]]}',
        '{"names": "ab", "colors": [[1, 2, 3], [4, 5, 6]]}',
    ],
)
def test_refused_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError):
        class_table_from_file(path)


def test_missing_and_undecodable_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        class_table_from_file(tmp_path / "missing.json")
    (tmp_path / "latin1.json").write_bytes('{"names": ["Fußweg"]}'.encode("latin-1"))
    with pytest.raises(OptionError):
        class_table_from_file(tmp_path / "latin1.json")
