"""What is listed for a batch: the same images once each, whatever names strangers gave them."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignseg_infer import (
    DatasetError,
    OptionError,
    OutputError,
    Predictor,
    segment_files,
)
from alignseg_infer.batch.manifest import read_manifest
from alignseg_infer.batch.stores import OWN_FOLDER, Folder
from alignseg_infer.cli import main
from alignseg_infer.datasets.addresses import is_address, split_chain
from alignseg_infer.datasets.manifest_rows import SCHEMA, ManifestRow, encode_rows
from alignseg_infer.datasets.sources import find_source_images
from alignseg_infer.results.saving import ENDINGS
from tests.support.batches import files_in, results_of, rows_of, segment, write_images
from tests.support.permissions import permissions_for_all


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("demo", threads=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos", 3)
    return tmp_path / "photos"


def listed(source: Path, destination: Path | str) -> list[str]:
    return [image.name for image in find_source_images(str(source), str(destination), ENDINGS)]


def row_of(name: str, source: Path | str) -> ManifestRow:
    return ManifestRow(
        name=name,
        source=str(source),
        bytes=None,
        version="",
        model_sha256="",
        settings="",
        package_version="",
    )


def write_manifest(folder: Path, *rows: ManifestRow) -> Path:
    folder.mkdir()
    (folder / "part.parquet").write_bytes(encode_rows(rows))
    return folder


def test_two_files_of_a_list_are_never_taken_for_one(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    """An absolute path, and the same path below the list's folder."""
    name = str(photos / "a" / "000.png").lstrip("/")
    inner = tmp_path / "list" / name
    inner.parent.mkdir(parents=True)
    shutil.copy(photos / "b" / "001.png", inner)
    paths = tmp_path / "list" / "list.txt"
    paths.write_text(f"{name}\n/{name}\n")
    with pytest.raises(OptionError, match="would have the same results") as caught:
        segment(predictor, paths, tmp_path / "out")
    assert f"{inner} and /{name}" in caught.value.problem
    for number, line in enumerate([name, f"/{name}"]):  # as is advised
        paths.write_text(f"{line}\n{line}\n")
        assert segment(predictor, paths, tmp_path / f"out{number}").done == 1


def test_images_of_a_list_in_the_destination_are_not_lost(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("photos/a/000.png\n")
    link = tmp_path / "link"
    link.symlink_to(photos)
    sources = [tmp_path / "list.txt", write_manifest(tmp_path / "m", row_of("x.png", "/d/x.png"))]
    for source, out in [(sources[0], photos), (sources[0], link), (sources[1], Path("/d"))]:
        with pytest.raises(OptionError, match="lie in the destination"):
            listed(source, out)
        assert len(listed(source, tmp_path / "out")) == 1
    (tmp_path / "list.txt").write_text("photos/a/000.png\nout/a/000_labels.png\n")
    assert listed(tmp_path / "list.txt", tmp_path / "out") == ["photos/a/000.png"]
    (tmp_path / "list.txt").write_text("s3://b/photos/a.png\ns3://b/out/a_labels.png\n")
    assert listed(tmp_path / "list.txt", "s3://b/out") == ["b/photos/a.png"]
    with pytest.raises(OptionError, match="lie in the destination s3://b"):
        listed(tmp_path / "list.txt", "s3://b")


NAMES = [
    ("../evil.png", False),
    ("a/../../evil.png", False),
    ("/evil.png", False),
    ("..", False),
    ("a/..b/c...png", True),
    ("a/.hidden.png", True),
    ("a b/ü.png", True),
]


def test_no_name_leads_out_of_the_destination(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    """Of a manifest or a bucket that a stranger wrote."""
    image, place = photos / "a" / "000.png", tmp_path / "place"
    absolute = str(place / "evil.png")
    names = [*NAMES, (absolute, False)]
    manifest = write_manifest(tmp_path / "m", *(row_of(name, image) for name, _ in names))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    summary = segment(predictor, manifest, place / "out")
    good = [name for name, is_good in names if is_good]
    assert (summary.done, summary.failed) == (len(good), len(names) - len(good))
    assert all("outside the destination" in problem for _, problem in summary.failures)
    assert {name for name, _ in summary.failures} == {
        name for name, is_good in names if not is_good
    }
    assert files_in(place / "out") == results_of(good, "_labels.png")
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(place / "out") for path in after - before)


def test_addresses_of_local_files_are_paths(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    paths = tmp_path / "list.txt"
    paths.write_text(f"file://{photos}/a/000.png\nphotos/a/000.png\nphotos/b/001.png\n")
    out = tmp_path / "out"
    assert segment(predictor, f"file://{paths}", f"file://{out}").done == 2
    assert list(rows_of(out)) == ["photos/a/000.png", "photos/b/001.png"]


def test_images_in_a_zip_file(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    """An address with ``::`` says where the file is."""
    packed, out = tmp_path / "photos.zip", tmp_path / "out"
    with zipfile.ZipFile(packed, "w") as file:
        for path in photos.rglob("*.png"):
            file.write(path, path.relative_to(photos))
    assert segment(predictor, f"zip://::{packed}", out, workers=2).done == 3
    assert segment(predictor, f"zip://::{packed}", out).up_to_date == 3
    assert rows_of(out)["a/000.png"]["source"] == f"zip://a/000.png::{packed}"
    for source, names in [
        (f"zip://a::file://{packed}", ["000.png"]),
        (f"zip://*/00[01].png::{packed}", ["a/000.png", "b/001.png"]),
    ]:
        assert [image.name for image in find_source_images(source, str(out))] == names
    again = segment(predictor, out / "manifest", tmp_path / "again")
    assert (again.done, again.failed) == (3, 0)


@pytest.mark.parametrize("destination", ["s3://photos/out", "zip://photos::b.zip", "zip://out"])
def test_equal_paths_in_other_places_are_no_destination(
    destination: str, photos: Path, tmp_path: Path
) -> None:
    """Such as a bucket of another provider with the same name."""
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.write(photos / "a" / "000.png", "photos/out/000.png")
    assert len(list(find_source_images(f"zip://photos/out::{packed}", destination))) == 1
    with pytest.raises(OptionError, match="lie in the destination"):
        next(find_source_images(f"zip://photos/out::{packed}", f"zip://photos::{packed}"))


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("s3://b/x", ("s3://b/x", "")),
        ("simplecache::s3://b/x", ("simplecache::s3://b/x", "")),
        ("zip://a::s3://b/x.zip", ("zip://a", "::s3://b/x.zip")),
        ("zip://::simplecache::s3://b/x", ("zip://", "::simplecache::s3://b/x")),
    ],
)
def test_chains(address: str, parts: tuple[str, str]) -> None:
    assert is_address(address)
    assert split_chain(address) == parts


def test_memory_of_this_process_is_no_place_for_workers(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/photos/a.png", (photos / "a" / "000.png").read_bytes())
    try:
        places: list[tuple[Path | str, Path | str]] = [
            ("memory://photos", tmp_path / "out"),
            (photos, "memory://out"),
        ]
        for source, out in places:
            with pytest.raises(OptionError, match="memory of one process") as caught:
                segment(predictor, source, out)
        call = caught.value.fix.partition("with ")[2]
        monkeypatch.chdir(tmp_path)
        eval(call, {"fsspec": fsspec})
    finally:
        memory.rm("/photos", recursive=True)
    assert segment(predictor, tmp_path / "FOLDER", tmp_path / "out").done == 1


def test_a_pipe_in_a_list_is_a_failure(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    """It would never end: nobody writes to it."""
    os.mkfifo(photos / "pipe.png")
    (tmp_path / "list.txt").write_text("photos/pipe.png\nphotos/a/000.png\n")
    summary = segment(predictor, tmp_path / "list.txt", tmp_path / "out")
    assert (summary.done, summary.failed) == (1, 1)
    assert summary.failures[0][1].endswith("pipe.png is a pipe")


def test_parquet_files_beside_images_are_no_manifest(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    table = pa.table({"name": ["a"], "caption": ["a street"]})
    pq.write_table(table, photos / "captions.parquet")
    assert len(listed(photos, tmp_path / "out")) == 3
    shutil.copy(photos / "captions.parquet", photos / "a")
    assert listed(photos / "a", tmp_path / "out") == ["000.png"]
    (tmp_path / "m").mkdir()
    shutil.copy(photos / "captions.parquet", tmp_path / "m")
    with pytest.raises(DatasetError, match="it lacks the columns source, bytes") as caught:
        listed(tmp_path / "m", tmp_path / "out")
    assert "\n" not in caught.value.problem


def test_manifests_of_other_versions(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    """Columns that were added do no harm; those of another type are converted or named."""
    out = tmp_path / "out"
    segment(predictor, photos, out)
    part = next((out / "manifest").glob("*.parquet"))
    table = read_manifest(str(out))
    later = part.with_name("run-000002-later.parquet")

    def replaced(column: str, values: list[Any]) -> pa.Table:
        return table.set_column(SCHEMA.get_field_index(column), column, pa.array(values))

    for good in (
        table.append_column("colour", pa.array(["red"] * 3)),
        table.select(list(reversed(SCHEMA.names))),
        replaced("bytes", [f"{size}" for size in table.column("bytes").to_pylist()]),
    ):
        pq.write_table(good, later)
        assert segment(predictor, photos, out).up_to_date == 3
        assert read_manifest(str(out)).schema.equals(SCHEMA)
    for bad in (table.drop_columns(["settings"]), replaced("bytes", ["many"] * 3)):
        pq.write_table(bad, later)
        with pytest.raises(DatasetError, match=f"{later.name} is no part of a manifest"):
            segment(predictor, photos, out)
    later.rename(tmp_path / later.name)  # as is advised
    assert segment(predictor, photos, out).up_to_date == 3


def test_names_that_are_no_text_come_back_from_a_manifest(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    names = [os.fsdecode(b"\xff\xfe.png"), r"\xfe.png", r"\x41 \xe9.png"]
    for name in names:
        shutil.copy(photos / "a" / "000.png", photos / name)
    first = segment(predictor, photos, tmp_path / "out")
    again = segment(predictor, tmp_path / "out" / "manifest", tmp_path / "again")
    assert (first.done, again.done, again.failed) == (6, 6, 0)
    assert files_in(tmp_path / "again") == files_in(tmp_path / "out")


@pytest.mark.parametrize("place", ["", " "])
def test_an_empty_place_is_not_the_working_folder(
    place: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a variable of the shell that was not set."""
    for source, out, option in [
        (place, str(tmp_path / "out"), "source="),
        (str(photos), place, "-o "),
    ]:
        assert main(["batch", "demo", source, "-o", out]) == 1
        assert capsys.readouterr().err.startswith(f"error: {option}")


def test_brackets_in_names_of_objects(photos: Path, tmp_path: Path) -> None:
    packed = tmp_path / "photos.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.write(photos / "a" / "000.png", "a[1].png")
    with pytest.raises(DatasetError, match="contains no images") as caught:
        segment_files("demo", f"zip://a[1].png::{packed}", tmp_path / "out")
    written, _, meant = caught.value.fix.partition("; ")[2].partition(" in a name is ")
    source = "zip://a[1].png".replace(written, meant.split()[0]) + f"::{packed}"
    assert [image.name for image in find_source_images(source, "out")] == ["a[1].png"]


def test_the_order_of_formats_changes_nothing(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert segment(predictor, photos, out, formats=["labels", "coco"]).done == 3
    assert segment(predictor, photos, out, formats=["coco", "labels"]).up_to_date == 3
    with pytest.raises(OptionError, match="holds results of formats="):
        segment(predictor, photos, out, formats=["coco"])


def test_a_shard_without_images_is_no_error_but_a_source_without_is(
    predictor: Predictor, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["batch", "demo", str(photos), "-o", str(tmp_path / "out"), "--shard"]
    assert main([*command, "3/4000"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: 0 images\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="contains no images"):
        segment(predictor, tmp_path / "empty", tmp_path / "out", shard="3/4000")


def test_locks_that_cannot_be_read(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    """Files of others in their folder, and locks of another user."""
    out = tmp_path / "out"
    segment(predictor, photos, out)
    locks = out / OWN_FOLDER / "locks"
    (locks / "editor.lock").write_text("")
    assert segment(predictor, photos, out).up_to_date == 3
    (locks / "guard").chmod(0o444)
    with permissions_for_all(), pytest.raises(OutputError, match="cannot be locked") as caught:
        segment(predictor, photos, out)
    command = caught.value.fix.partition(": ")[2]
    subprocess.run(["bash", "-c", command], check=True)
    assert segment(predictor, photos, out).up_to_date == 3


def test_a_folder_of_results_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    store = Folder(tmp_path, "writing")
    store.prepare()
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o555)
    for name in ("a/000_labels.png", "a/b/c/000_labels.png"):
        with permissions_for_all(), pytest.raises(OutputError, match="Permission denied") as caught:
            store.write(name, b"x")
        assert caught.value.fix.endswith(f"ls -ld {tmp_path / 'a'}")
    (tmp_path / "a").chmod(0o755)
    store.write("a/b/c/000_labels.png", b"x")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_link_to_another_disk_in_the_destination(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    other = Path("/dev/shm") / f"alignseg-batch-{os.getpid()}"
    other.mkdir()
    if other.stat().st_dev == tmp_path.stat().st_dev:
        other.rmdir()
        pytest.skip("the temporary folder is on the same file system")
    try:
        whole = tmp_path / "whole"
        whole.symlink_to(other)  # the whole destination may be there
        assert segment(predictor, photos, whole).done == 3
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").symlink_to(other)
        with pytest.raises(OutputError, match="is on another disk than") as caught:
            segment(predictor, photos, tmp_path / "out")
        assert caught.value.fix == f"another destination={str(other)!r}"
    finally:
        shutil.rmtree(other)
