"""Sources of images: folders, globs and lists give the same images in the same order."""

import shlex
import subprocess
from pathlib import Path

import cv2
import pytest

from alignseg_infer.datasets.image_paths import find_images
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.demo.streets import Street
from alignseg_infer.errors import DatasetError

TREE = ["a/2.png", "a/10.JPG", "a/b/x.png", "a.png", "c/x.png", ".hidden/x.png", "c/notes.txt"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in TREE:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "c" / "loop").symlink_to(root, target_is_directory=True)
    return root


def names_in(source: Path) -> list[str]:
    found = find_images(source)
    return [path.relative_to(found.root).as_posix() for path in found.paths]


GLOBS = [
    ("", ["a/10.JPG", "a/2.png", "a/b/x.png", "a.png", "c/x.png"]),
    ("**", ["a/10.JPG", "a/2.png", "a/b/x.png", "a.png", "c/x.png"]),
    ("*", ["a.png"]),
    ("*/*.png", ["a/2.png", "c/x.png"]),
    ("**/x.png", ["a/b/x.png", "c/x.png"]),
    ("[ab]/**/*.png", ["a/2.png", "a/b/x.png"]),
    ("a/?.png", ["2.png"]),
    ("no*/*.png", []),
]


@pytest.mark.parametrize(("pattern", "expected"), GLOBS, ids=[case[0] or "." for case in GLOBS])
def test_folders_and_globs_in_order(pattern: str, expected: list[str], tree: Path) -> None:
    assert names_in(tree / pattern) == expected


def test_a_glob_enters_only_folders_that_may_match(tree: Path) -> None:
    entered: list[str] = []

    def enter(folder: Path) -> bool:
        entered.append(folder.name)
        return True

    found = find_images(tree / "[a]/*.png", enter)
    assert [path.name for path in found.paths] == ["2.png"]
    assert entered == ["a"]


def test_a_name_with_wildcards_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "[x].png").write_bytes(b"x")
    assert names_in(tmp_path / "[x].png") == ["[x].png"]


def test_images_are_found_one_by_one(tree: Path) -> None:
    paths = iter(find_images(tree).paths)
    assert next(paths).name == "10.JPG"
    (tree / "c" / "y.png").write_bytes(b"x")
    assert [path.name for path in paths][-1] == "y.png"


def test_a_glob_below_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such is not a folder") as caught:
        find_images(tmp_path / "no such" / "*.png")
    assert subprocess.run(caught.value.fix.split(": ")[1].split(), check=True)


def test_calibration_takes_globs(tmp_path: Path) -> None:
    for number in range(3):
        scene = Street(number).scene(size=(64, 128))
        cv2.imwrite(str(tmp_path / f"street{number}.png"), scene.image)
    images = choose_images(tmp_path / "*[02].png")
    assert [path.name for path in images.paths] == ["street0.png", "street2.png"]  # type: ignore[union-attr]
    with pytest.raises(DatasetError, match="contains no images") as caught:
        choose_images(tmp_path / "*.jpg")
    assert subprocess.run(shlex.split(caught.value.fix.partition(" |")[0]), check=True)
