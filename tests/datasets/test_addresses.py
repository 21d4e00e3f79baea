"""Images to calibrate, verify and evaluate with, from addresses, lists of them and manifests."""

import errno
import gc
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from alignseg_infer import (
    AlignSegError,
    DatasetError,
    MissingDependencyError,
    OptionError,
    OutputError,
    Predictor,
    export_onnx,
    segment_files,
    verify,
)
from alignseg_infer.cli import main
from alignseg_infer.datasets import copies
from alignseg_infer.datasets.image_sets import ImageFiles, choose_images
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.datasets.manifest_rows import ManifestRow, encode_rows
from alignseg_infer.datasets.sources import SourceImage, read_image_bytes
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.evaluation.evaluate import evaluate

STREETS = 4
SIZE = (64, 128)


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """A folder of labelled streets."""
    list(write_streets(tmp_path / "streets", 7000, STREETS, SIZE))
    return tmp_path / "streets"


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    for name in system.ls("/", detail=False):
        system.rm(name, recursive=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are read, in their order."""
    addresses: list[str] = []

    def read(image: SourceImage, max_pixels: int) -> bytes:
        addresses.append(image.url)
        return read_image_bytes(image, max_pixels)

    monkeypatch.setattr(copies, "read_image_bytes", read)
    return addresses


def packed(folder: Path) -> Path:
    """A ZIP file of what a folder holds."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*.*")):
            file.write(each, each.relative_to(folder))
    return path


def image_files(source: str | Path, max_images: int = 128) -> ImageFiles:
    images = choose_images(source, max_images)
    assert isinstance(images, ImageFiles)
    return images


def write_manifest(folder: Path, addresses: list[str]) -> Path:
    rows = [
        ManifestRow(
            name=f"{number}.png",
            source=address,
            bytes=None,
            version="",
            model_sha256="",
            settings="",
            package_version="",
        )
        for number, address in enumerate(addresses)
    ]
    folder.mkdir()
    (folder / "part.parquet").write_bytes(encode_rows(rows))
    return folder


def test_every_kind_of_source_gives_the_same_images(
    streets: Path, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    memory.put(f"{streets}/images/", "/photos/", recursive=True)
    names = sorted(path.name for path in (streets / "images").iterdir())
    addresses = [f"memory://photos/{name}" for name in names]
    archive = packed(streets)
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in addresses))
    (tmp_path / "mixed.txt").write_text(
        f"{addresses[0]}\nzip://images/{names[1]}::{archive}\nstreets/images/{names[2]}\n"
        f"file://{streets}/images/{names[3]}\n"
    )
    here = image_files(streets / "images")
    assert len(here.digests) == STREETS
    for source in [
        "memory://photos",
        "memory://photos/",
        "memory://photos/street-*.png",
        f"zip://images::{archive}",
        f"zip://images/*.png::file://{archive}",
        f"file://{streets}/images",
        str(tmp_path / "list.txt"),
        str(tmp_path / "mixed.txt"),
        str(write_manifest(tmp_path / "manifest", addresses)),
        str(tmp_path / "manifest" / "part.parquet"),
    ]:
        there = image_files(source)
        assert there.digests == here.digests, source
        for one, other in zip(there.read(), here.read(), strict=True):
            assert np.array_equal(one, other)
    single = image_files(addresses[1])
    assert (single.digests, str(single.paths[0])) == (here.digests[1:2], addresses[1])
    assert single.name == f"1 of 1 images of {addresses[1]}"


def test_only_the_chosen_images_are_fetched_and_each_once(
    streets: Path, memory: fsspec.AbstractFileSystem, fetched: list[str]
) -> None:
    memory.put(f"{streets}/images/", "/photos/", recursive=True)
    images = image_files("memory://photos", 2)
    for _ in range(3):
        assert len(list(images.read())) == 2
    here = image_files(streets / "images", 2)
    assert images.digests == here.digests
    assert sorted(fetched) == [f"memory://photos/{Path(path).name}" for path in here.paths]


def test_copies_are_removed_when_nobody_refers_to_the_images(
    streets: Path, memory: fsspec.AbstractFileSystem
) -> None:
    memory.put(f"{streets}/images/", "/photos/", recursive=True)
    images = image_files("memory://photos")
    pixels = images.read()
    folder = Path(os.fspath(images.paths[0])).parent
    assert len(list(folder.iterdir())) == STREETS
    del images
    gc.collect()
    assert len(list(pixels)) == STREETS  # what is being read is still there
    del pixels
    gc.collect()
    assert not folder.exists()


def test_copies_are_removed_at_the_end_of_python(streets: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    program = (
        "import os, sys; from alignseg_infer.datasets.image_sets import choose_images;"
        f"images = choose_images('zip://images::{packed(streets)}');"
        "print(os.fspath(images.paths[0])); sys.exit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TMPDIR": str(tmp_path / "temporary"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "temporary")
    assert not list((tmp_path / "temporary").iterdir())


def test_images_at_addresses_that_cannot_be_used_are_named(
    streets: Path, memory: fsspec.AbstractFileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    memory.put(f"{streets}/images/", "/photos/", recursive=True)
    memory.put(f"{streets}/labels/street-7000.png", "/photos/labels.png")
    images = image_files("memory://photos")
    assert len(images.digests) == STREETS
    assert "memory://photos/labels.png" in caplog.text
    memory.pipe_file("/photos/bad.png", (streets / "images/street-7000.png").read_bytes()[:900])
    memory.pipe_file("/photos/empty.png", b"")
    with pytest.raises(DatasetError, match=r"^2 of 7 images of memory://photos ") as caught:
        choose_images("memory://photos")
    assert "memory://photos/bad.png cannot be decoded" in caught.value.problem
    assert "memory://photos/empty.png" in caught.value.problem
    with pytest.raises(DatasetError, match="memory://photos/bad"):
        choose_images("memory://photos", max_pixels=100)


def test_a_full_disk_ends_the_choice(
    streets: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.put(f"{streets}/", "/streets/", recursive=True)

    def write(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(copies, "_write", write)
    with pytest.raises(OutputError, match=r"temporary folder .*: No space left") as caught:
        choose_images("memory://streets/images")
    assert "export TMPDIR=FOLDER" in caught.value.fix
    data = find_labelled_images(Dataset.FOLDER, "memory://streets")
    with pytest.raises(OutputError, match=r"temporary folder .*: No space left"):
        evaluate({"demo": Predictor("demo", threads=1)}, data)


def test_sources_without_images(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    memory.pipe_file("/notes/notes.txt", b"no image")
    with pytest.raises(DatasetError, match="memory://notes contains no images"):
        choose_images("memory://notes")
    with pytest.raises(DatasetError, match="memory://nothing cannot be listed: it does not exist"):
        choose_images("memory://nothing")
    with pytest.raises(DatasetError, match="contains no images"):
        choose_images(write_manifest(tmp_path / "manifest", []))
    with pytest.raises(DatasetError, match=r"memory://gone/a\.png"):
        choose_images(write_manifest(tmp_path / "gone", ["memory://gone/a.png"]))


def test_a_path_object_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="s3://bucket/a is an address, not a file"):
        choose_images(Path("s3://bucket/a"))
    with pytest.raises(OptionError, match="a path was given as int"):
        choose_images(3)  # type: ignore[arg-type]


def test_missing_packages_are_named_before_a_checkpoint_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for name in ("calibration", "verification"):
        given = {"precision": "int8", "calibration": str(tmp_path), name: "gs://bucket/x"}
        with pytest.raises(MissingDependencyError) as caught:
            export_onnx(tmp_path / "missing.pth", tmp_path / "a.onnx", **given)  # type: ignore[arg-type]
        assert caught.value.fix == "pip install gcsfs"
    with pytest.raises(MissingDependencyError):
        find_labelled_images(Dataset.FOLDER, "gs://bucket/x")


def scores(root: str | Path, **options: object) -> dict[str, object]:
    data = find_labelled_images(Dataset.FOLDER, root, **options)  # type: ignore[arg-type]
    (found,) = evaluate({"demo": Predictor("demo", threads=1)}, data).models
    return {name: getattr(found.confusion, name) for name in ("mean_iou", "pixel_accuracy")}


def test_a_dataset_at_an_address_is_scored_alike(
    streets: Path, memory: fsspec.AbstractFileSystem, fetched: list[str], tmp_path: Path
) -> None:
    memory.put(f"{streets}/", "/streets/", recursive=True)
    expected = scores(streets)
    assert scores("memory://streets/") == expected
    assert len(fetched) == len(set(fetched)) == 2 * STREETS
    assert scores(f"zip://::{packed(streets)}") == expected
    fetched.clear()
    assert scores("memory://streets", max_images=1) == scores(streets, max_images=1)
    (tmp_path / "list.txt").write_text("memory://streets/images/street-7002.png\n")
    (tmp_path / "here.txt").write_text("streets/images/street-7002.png\n")
    some = scores("memory://streets", images=tmp_path / "list.txt")
    assert some == scores(streets, images=tmp_path / "here.txt") != expected
    sides = ("images", "labels")
    numbers = ("7000", "7002")
    names = [f"memory://streets/{side}/street-{number}.png" for number in numbers for side in sides]
    assert sorted(fetched) == sorted(names)


def test_the_layout_of_cityscapes_at_an_address(streets: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(2):
        stem, source = f"aachen/aachen_{number}", f"street-{7000 + number}.png"
        for place in (
            f"leftImg8bit/val/{stem}_leftImg8bit.png",
            f"gtFine/val/{stem}_gtFine_labelIds.png",
        ):
            (data / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(streets / "images" / source, data / place)
    found = find_labelled_images(Dataset.CITYSCAPES, f"zip://::{packed(data)}")
    here = find_labelled_images(Dataset.CITYSCAPES, data)
    for one, other in zip(found.pairs, here.pairs, strict=True):
        for there, path in ((one.image, other.image), (one.labels, other.labels)):
            assert str(there).partition("://")[2].startswith(str(path)[len(str(data)) + 1 :])
            assert Path(there).read_bytes() == Path(path).read_bytes()
    assert found.name == here.name == "cityscapes val"


def test_datasets_at_addresses_that_cannot_be_used(
    streets: Path, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    memory.put(f"{streets}/", "/streets/", recursive=True)
    with pytest.raises(DatasetError, match="memory://streets/leftImg8bit/val is not a folder"):
        find_labelled_images(Dataset.CITYSCAPES, "memory://streets")
    memory.rm("/streets/labels/street-7001.png")
    with pytest.raises(DatasetError, match=r"street-7001\.png has no labels"):
        find_labelled_images(Dataset.FOLDER, "memory://streets")
    memory.rm("/streets/images/street-7001.png")
    memory.put(f"{streets}/images/street-7000.png", "/streets/labels/street-7000.png")
    data = find_labelled_images(Dataset.FOLDER, "memory://streets")
    with pytest.raises(DatasetError, match=r"1 of 3 .* in memory://streets cannot") as caught:
        evaluate({"demo": Predictor("demo", threads=1)}, data)
    assert "memory://streets/labels/street-7000.png" in caught.value.problem
    (tmp_path / "list.txt").write_text("memory://elsewhere/street-7000.png\n")
    with pytest.raises(DatasetError, match=r"1 images of .* are not in the dataset") as caught:
        find_labelled_images(Dataset.FOLDER, "memory://streets", images=tmp_path / "list.txt")
    prefix = caught.value.fix.rpartition(" ")[2]  # as is advised
    (tmp_path / "list.txt").write_text(f"{prefix}street-7000.png\n")
    found = find_labelled_images(Dataset.FOLDER, "memory://streets", images=tmp_path / "list.txt")
    assert len(found.pairs) == 1


def test_what_a_layout_lacks_is_listed_as_advised(streets: Path) -> None:
    root = f"zip://::{packed(streets)}"
    with pytest.raises(DatasetError, match="is not a folder") as caught:
        find_labelled_images(Dataset.ADE20K, f"zip://images::{packed(streets)}")
    command = caught.value.fix.partition("; root=")[0]
    listed = subprocess.run(
        ["bash", "-c", command.replace("python", sys.executable, 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "street-7000.png" in listed.stdout
    assert find_labelled_images(Dataset.FOLDER, root).root == root


def test_commands_take_addresses(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = packed(streets)
    images = f"zip://images::{archive}"
    command = ["eval", "demo", "--dataset", "folder", "--threads", "1", "--root"]
    tables = []
    for root in (f"zip://::{archive}", str(streets)):
        assert main([*command, root, "-o", str(tmp_path / "out")]) == 0
        assert capsys.readouterr().err.startswith("folder: checking 4 images and labels")
        tables.append((tmp_path / "out" / "evaluation.md").read_text().splitlines()[0])
    assert tables[0] == tables[1]
    assert main(["verify", "demo", "--against", "demo", "--images", images]) == 0
    assert "compared with" in capsys.readouterr().out
    options = ["--threads", "1", "--rounds", "2", "--max-images", "2"]
    assert main(["bench", "demo", "--images", images, *options]) == 0
    assert f"2 of 4 images of {images}" in capsys.readouterr().out


@pytest.mark.slow
def test_int8_from_an_address_is_that_from_a_folder(streets: Path, tmp_path: Path) -> None:
    sources = [str(streets / "images"), f"zip://images::{packed(streets)}"]
    for number, source in enumerate(sources):
        export_onnx(
            model_path("demo"),
            tmp_path / f"{number}.onnx",
            precision="int8",
            calibration=source,
            calibration_cache=tmp_path / f"{number}.calibration",
            verification=source,
            min_agreement=0.5,
        )
    one, other = ((tmp_path / f"{number}.onnx").read_bytes() for number in range(2))
    assert one == other
    checked = verify(tmp_path / "1.onnx", "demo", sources[1], min_agreement=0.5)
    assert checked.images == f"{STREETS} images"


def test_predict_leaves_addresses_to_batch(
    streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"zip://images::{packed(streets)}"
    assert main(["predict", "demo", source, "-o", str(tmp_path / "out put")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {source} is an address")
    words = shlex.split(said.partition("try: ")[2])
    assert main(words[1:]) == 0
    labels = sorted((tmp_path / "out put").glob("*_labels.png"))
    assert len(labels) == STREETS
    assert np.asarray(cv2.imread(str(labels[0]), cv2.IMREAD_GRAYSCALE)).shape == SIZE
    assert main(["predict", "demo", "https://host/a.png", "-o", str(tmp_path / "out")]) == 1
    assert "curl -O https://host/a.png" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "damaged"])
@pytest.mark.parametrize("scheme", ["zip", "tar"])
def test_archives_that_cannot_be_opened(kind: str, scheme: str, tmp_path: Path) -> None:
    archive = tmp_path / f"{kind}.{scheme}"
    if kind == "damaged":
        archive.write_bytes(b"PK no archive")
    for act in (
        lambda: choose_images(f"{scheme}://::{archive}"),
        lambda: find_labelled_images(Dataset.FOLDER, f"{scheme}://::{archive}"),
        lambda: segment_files("demo", f"{scheme}://::{archive}", tmp_path / "out"),
    ):
        with pytest.raises(AlignSegError, match=re.escape(str(archive))):
            act()
