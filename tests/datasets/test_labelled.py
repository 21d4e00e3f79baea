"""Finding and reading labelled images, in miniature datasets."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.datasets.class_tables import ADE20K, CITYSCAPES, IGNORED
from alignseg_infer.datasets.labelled import (
    PROBLEMS_SHOWN,
    Dataset,
    LabelledImages,
    find_labelled_images,
    label_table,
    read_truth,
    require_usable,
)
from alignseg_infer.errors import AlignSegError, DatasetError, ImageError, OptionError

# id and name of every evaluated class in cityscapesScripts helpers/labels.py
CITYSCAPES_IDS = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole"},
    **{19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky"},
    **{24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train"},
    **{32: "motorcycle", 33: "bicycle"},
}
SIZE = (40, 64)


def write(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def picture(value: int = 0) -> NDArray[np.uint8]:
    return np.full((*SIZE, 3), value, np.uint8)


def cityscapes(root: Path, city: str, frame: str, values: NDArray[np.uint8]) -> None:
    name = f"{city}_{frame}"
    write(root / f"leftImg8bit/val/{city}/{name}_leftImg8bit.png", picture())
    write(root / f"gtFine/val/{city}/{name}_gtFine_labelIds.png", values)


def ade20k(root: Path, number: int, values: NDArray[np.uint8], split: str = "validation") -> None:
    write(root / f"images/{split}/ADE_val_{number:08}.jpg", picture())
    write(root / f"annotations/{split}/ADE_val_{number:08}.png", values)


def folder(root: Path, stem: str, values: NDArray[np.uint8], ending: str = ".png") -> None:
    write(root / f"images/{stem}{ending}", picture())
    write(root / f"labels/{stem}.png", values)


def stripes(values: list[int]) -> NDArray[np.uint8]:
    """Return one column for each value; the last value fills the rest."""
    row = values + values[-1:] * (SIZE[1] - len(values))
    return np.tile(np.array(row, np.uint8), (SIZE[0], 1))


def names(data: LabelledImages) -> list[tuple[str, str]]:
    return [(Path(pair.image).name, Path(pair.labels).name) for pair in data.pairs]


def test_cityscapes(tmp_path: Path) -> None:
    for city, frame in (("munster", "000001_000019"), ("lindau", "000000_000019")):
        cityscapes(tmp_path, city, frame, stripes(list(range(34))))
    labels = tmp_path / "gtFine/val/lindau"
    write(labels / "lindau_000000_000019_gtFine_color.png", picture())
    write(labels / "lindau_000000_000019_gtFine_instanceIds.png", np.zeros(SIZE, np.uint16))
    write(labels / "lindau_000000_000019_gtFine_labelTrainIds.png", stripes([3]))
    data = find_labelled_images(Dataset.CITYSCAPES, tmp_path)
    assert data.name == "cityscapes val"
    assert names(data) == [
        (f"{name}_leftImg8bit.png", f"{name}_gtFine_labelIds.png")
        for name in ("lindau_000000_000019", "munster_000001_000019")
    ]
    table = label_table(Dataset.CITYSCAPES, 19)
    require_usable(data, table)
    truth = read_truth(data.pairs[0].labels, table)
    assert truth.dtype == np.uint8
    for value in range(34):
        name = CITYSCAPES_IDS.get(value)
        expected = IGNORED if name is None else CITYSCAPES.names.index(name)
        assert (truth[:, value] == expected).all(), value


@pytest.mark.parametrize(("split", "below"), [(None, "validation"), ("val", "validation")])
@pytest.mark.parametrize("limit", [None, 2])
def test_ade20k(split: str | None, below: str, limit: int | None, tmp_path: Path) -> None:
    for number in (3, 1, 2):
        ade20k(tmp_path, number, stripes([0, 1, 2, 13, 150]), below)
    data = find_labelled_images(Dataset.ADE20K, tmp_path, split, limit)
    assert data.name == "ade20k val" + (", first 2 of 3" if limit else "")
    assert [image for image, _ in names(data)] == [
        f"ADE_val_{number:08}.jpg" for number in (1, 2, 3)[:limit]
    ]
    table = label_table(Dataset.ADE20K, 150)
    require_usable(data, table)
    truth = read_truth(data.pairs[0].labels, table)[0]
    assert list(truth[:5]) == [IGNORED, 0, 1, 12, 149]
    assert ADE20K.names[truth[3]] == "person"


def test_ade20k_training_and_full_split_names(tmp_path: Path) -> None:
    ade20k(tmp_path, 1, stripes([1]), "training")
    for split in ("train", "training"):
        assert len(find_labelled_images(Dataset.ADE20K, tmp_path, split).pairs) == 1


def test_folder(tmp_path: Path) -> None:
    folder(tmp_path, "b", stripes([0, 1, 2, 255]), ".JPG")
    folder(tmp_path, "a", stripes([2]))
    folder(tmp_path, "sub/a", stripes([2]), ".jpeg")
    write(tmp_path / "images/.hidden.png", picture())
    (tmp_path / "images/notes.txt").write_text("no image")
    data = find_labelled_images(Dataset.FOLDER, tmp_path)
    assert data.name == "folder"
    assert names(data) == [("a.png", "a.png"), ("b.JPG", "b.png"), ("a.jpeg", "a.png")]
    table = label_table(Dataset.FOLDER, 3)
    require_usable(data, table)
    assert list(read_truth(data.pairs[1].labels, table)[0, :4]) == [0, 1, 2, IGNORED]


def broken(root: Path) -> None:
    content = (root / "images/good.png").read_bytes()
    (root / "images/broken.png").write_bytes(content[: len(content) // 2])
    write(root / "labels/broken.png", stripes([1]))


def damaged(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    folder(root, "damaged", noise)
    path = root / "labels/damaged.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def palette(root: Path) -> None:
    from PIL import Image

    write(root / "images/palette.png", picture())
    Image.fromarray(stripes([1])).convert("P").save(root / "labels/palette.png")


def colored(root: Path) -> None:
    folder(root, "colored", picture(1))


def wide(root: Path) -> None:
    write(root / "images/wide.png", picture())
    write(root / "labels/wide.png", stripes([1]).astype(np.uint16))


def emptied(root: Path) -> None:
    (root / "labels/good.png").write_bytes(b"")


UNUSABLE: list[tuple[Callable[[Path], None], str]] = [
    (broken, "broken.png cannot be decoded as an image: the file ends before"),
    (damaged, "labels/damaged.png cannot be decoded"),
    (palette, "palette pixels of 8 bits"),
    (colored, "RGB pixels of 8 bits"),
    (wide, "gray pixels of 16 bits"),
    (lambda root: folder(root, "high", stripes([0, 3, 77])), "high.png has the values 3, 77"),
    (
        lambda root: folder(root, "flat", stripes([1])[:20]),
        "images/flat.png is 40x64 (height x width), labels/flat.png is 20x64",
    ),
    (emptied, "labels/good.png is empty"),
]


@pytest.mark.parametrize(("spoil", "fragment"), UNUSABLE, ids=[case[1] for case in UNUSABLE])
def test_unusable_files(
    spoil: Callable[[Path], None],
    fragment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(Path(), "good", stripes([0, 1, 2, 255]))
    spoil(Path())
    data = find_labelled_images(Dataset.FOLDER, Path())
    with pytest.raises(DatasetError) as caught:
        require_usable(data, label_table(Dataset.FOLDER, 3))
    assert f"1 of {len(data.pairs)} labelled images" in caught.value.problem
    assert fragment in caught.value.problem
    assert "0..2, 255" in caught.value.expected


def test_every_problem_is_listed_up_to_a_number(tmp_path: Path) -> None:
    for index in range(PROBLEMS_SHOWN + 5):
        folder(tmp_path, f"{index:02}", stripes([200]))
    data = find_labelled_images(Dataset.FOLDER, tmp_path)
    with pytest.raises(DatasetError) as caught:
        require_usable(data, label_table(Dataset.FOLDER, 3))
    lines = caught.value.problem.splitlines()
    assert lines[0].startswith("25 of 25 labelled images")
    assert [Path(line.split()[0]).stem for line in lines[1:-1]] == [f"{i:02}" for i in range(20)]
    assert lines[-1].strip() == "and 5 more"


@pytest.mark.parametrize(
    ("dataset", "value", "allowed"),
    [(Dataset.CITYSCAPES, 34, "0..33"), (Dataset.ADE20K, 151, "0..150")],
)
def test_values_that_must_not_occur(
    dataset: Dataset, value: int, allowed: str, tmp_path: Path
) -> None:
    table = label_table(dataset, 19)
    read_truth(write(tmp_path / "good.png", stripes([value - 1])), table)
    with pytest.raises(DatasetError) as caught:
        read_truth(write(tmp_path / "bad.png", stripes([0, value])), table)
    assert caught.value.problem == f"{tmp_path / 'bad.png'} has the values {value}"
    assert caught.value.expected == f"values among {allowed}"


def test_truth_that_is_no_png(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not an 8-bit gray PNG: its first bytes"):
        read_truth(write(tmp_path / "a.jpg", stripes([1])), label_table(Dataset.FOLDER, 3))


def test_labels_that_are_all_ignored(tmp_path: Path) -> None:
    """All pixels are ignored in the test split of Cityscapes."""
    cityscapes(tmp_path, "berlin", "0", stripes([1, 2, 3]))
    data = find_labelled_images(Dataset.CITYSCAPES, tmp_path)
    with pytest.raises(DatasetError, match="every pixel of the 1 label files"):
        require_usable(data, label_table(Dataset.CITYSCAPES, 19))


def unpaired(root: Path) -> None:
    folder(root, "both", stripes([1]))
    write(root / "images/alone.png", picture())
    write(root / "labels/lost.png", stripes([1]))
    write(root / "images/both.jpg", picture())


def only_images(root: Path) -> None:
    write(root / "images/a.png", picture())


def empty(root: Path) -> None:
    (root / "leftImg8bit/val").mkdir(parents=True)
    (root / "gtFine/val").mkdir(parents=True)


BAD: list[tuple[Callable[[Path], object], Dataset, dict[str, Any], type[AlignSegError], str]] = [
    (unpaired, Dataset.FOLDER, {}, DatasetError, "3 files cannot be paired"),
    (unpaired, Dataset.FOLDER, {}, DatasetError, "images/alone.png has no labels"),
    (unpaired, Dataset.FOLDER, {}, DatasetError, "labels/lost.png has no image"),
    (unpaired, Dataset.FOLDER, {}, DatasetError, "images/both.png have the same name"),
    (only_images, Dataset.FOLDER, {}, DatasetError, "labels is not a folder"),
    (only_images, Dataset.CITYSCAPES, {}, DatasetError, "leftImg8bit/val is not a folder"),
    (only_images, Dataset.CITYSCAPES, {}, DatasetError, "gtFine/val/**/*_gtFine_labelIds.png"),
    (only_images, Dataset.ADE20K, {}, DatasetError, "images/validation is not a folder"),
    (empty, Dataset.CITYSCAPES, {}, DatasetError, "contains no labelled images"),
    (empty, Dataset.CITYSCAPES, {"split": "train"}, DatasetError, "leftImg8bit/train"),
    (unpaired, Dataset.FOLDER, {"split": "val"}, OptionError, "split='val'"),
    (unpaired, Dataset.FOLDER, {"max_images": 0}, OptionError, "max_images=0"),
]


@pytest.mark.parametrize(("make", "dataset", "options", "kind", "fragment"), BAD)
def test_wrong_tree(
    make: Callable[[Path], object],
    dataset: Dataset,
    options: dict[str, Any],
    kind: type[AlignSegError],
    fragment: str,
    tmp_path: Path,
) -> None:
    make(tmp_path)
    with pytest.raises(kind) as caught:
        find_labelled_images(dataset, tmp_path, **options)
    assert fragment in str(caught.value)


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    folder(tmp_path, "a", stripes([0]))
    write(tmp_path / "images/.ipynb_checkpoints/a-checkpoint.png", picture())
    assert names(find_labelled_images(Dataset.FOLDER, tmp_path)) == [("a.png", "a.png")]


def test_macos_files_are_no_images(tmp_path: Path) -> None:
    folder(tmp_path, "a", stripes([0]))
    for name in ("images/._a.png", "labels/._a.png", "images/._b.png"):
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07")
    assert names(find_labelled_images(Dataset.FOLDER, tmp_path)) == [("a.png", "a.png")]


def test_linked_cities_are_found(tmp_path: Path) -> None:
    """Of four pairs, only the one that was no link used to be scored, under the full name."""
    for city in ("aachen", "bremen", "cologne"):
        cityscapes(tmp_path / "disk", city, "1", stripes([7]))
    cityscapes(tmp_path / "here", "dresden", "1", stripes([7]))
    for side in ("leftImg8bit", "gtFine"):
        for city in ("aachen", "bremen"):
            link = tmp_path / "here" / side / "val" / city
            link.symlink_to(tmp_path / "disk" / side / "val" / city)
        deep = tmp_path / "here" / side / "val" / "more"
        deep.symlink_to(tmp_path / "disk" / side / "val")
    data = find_labelled_images(Dataset.CITYSCAPES, tmp_path / "here")
    found = [Path(pair.image).relative_to(tmp_path / "here/leftImg8bit/val") for pair in data.pairs]
    cities = [path.parent.as_posix() for path in found]
    linked = ["aachen", "bremen", "dresden", "more/aachen", "more/bremen", "more/cologne"]
    assert cities == linked
    require_usable(data, label_table(Dataset.CITYSCAPES, 19))


def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    folder(tmp_path, "a", stripes([0]))
    folder(tmp_path, "b", stripes([0]))
    (tmp_path / "images/b.png").unlink()
    (tmp_path / "images/b.png").symlink_to("elsewhere.png")
    data = find_labelled_images(Dataset.FOLDER, tmp_path)
    with pytest.raises(DatasetError, match=r"1 of 2 .*\n.*b\.png does not exist"):
        require_usable(data, label_table(Dataset.FOLDER, 19))


@pytest.mark.parametrize("side", ["images", "labels"])
def test_files_with_too_many_pixels(side: str, tmp_path: Path) -> None:
    folder(tmp_path, "a", stripes([0]))
    large = np.zeros((50, 80), np.uint8)
    write(tmp_path / side / "a.png", large)
    table = label_table(Dataset.FOLDER, 19)
    data = find_labelled_images(Dataset.FOLDER, tmp_path, max_pixels=3999)
    with pytest.raises(DatasetError, match=r"has 50x80 .* = 4000 pixels"):
        require_usable(data, table)
    data = find_labelled_images(Dataset.FOLDER, tmp_path, max_pixels=4000)
    with pytest.raises(DatasetError, match=r"is (50x80|40x64)"):  # the other has another size
        require_usable(data, table)
    with pytest.raises(OptionError, match="max_pixels=0"):
        find_labelled_images(Dataset.FOLDER, tmp_path, max_pixels=0)


@pytest.mark.parametrize("source", ["list.txt", "images/*/[ab].png", "images/x"])
def test_a_source_chooses_images(source: str, tmp_path: Path) -> None:
    """Those of a folder, a glob or a list; what is wrong with others does not matter."""
    for stem in ("x/a", "x/b", "y/c"):
        folder(tmp_path, stem, stripes([0]))
    write(tmp_path / "images/y/lonely.png", picture())
    write(tmp_path / "labels/y/other.png", stripes([0]))
    (tmp_path / "list.txt").write_text("images/x/b.png\nimages/y/../x/a.png\n")
    data = find_labelled_images(Dataset.FOLDER, tmp_path, images=tmp_path / source)
    assert [Path(pair.image).stem for pair in data.pairs] == ["a", "b"]
    assert data.name == f"folder, those of {tmp_path / source}"
    with pytest.raises(DatasetError, match="cannot be paired"):
        find_labelled_images(Dataset.FOLDER, tmp_path)
    with pytest.raises(DatasetError, match="has no labels"):
        find_labelled_images(Dataset.FOLDER, tmp_path, images=tmp_path / "images/y/lonely.png")


def test_a_source_outside_the_dataset(tmp_path: Path) -> None:
    folder(tmp_path, "a", stripes([0]))
    write(tmp_path / "elsewhere/b.png", picture())
    (tmp_path / "list.txt").write_text("images/a.png\nelsewhere/b.png\n")
    with pytest.raises(DatasetError, match=r"1 images of .* are not in the dataset") as caught:
        find_labelled_images(Dataset.FOLDER, tmp_path, images=tmp_path / "list.txt")
    command = caught.value.fix.partition(",")[0]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert len(find_labelled_images(Dataset.FOLDER, tmp_path, images=tmp_path / "list.txt").pairs)
    with pytest.raises(DatasetError, match="contains no images"):
        find_labelled_images(Dataset.FOLDER, tmp_path, images=tmp_path / "*.png")
