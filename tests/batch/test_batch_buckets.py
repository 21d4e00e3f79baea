"""Buckets: a server of S3 on this machine, and what is said where one cannot be used."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignseg_infer import (
    DatasetError,
    MissingDependencyError,
    OptionError,
    OutputError,
    Predictor,
    segment_files,
)
from alignseg_infer.batch.manifest import read_manifest
from alignseg_infer.datasets import copies
from alignseg_infer.datasets.addresses import is_address, open_address, plain_place
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.datasets.sources import SourceImage, find_source_images, read_image_bytes
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.evaluation.evaluate import evaluate
from tests.support.batches import rows_of, write_images
from tests.support.buckets import forget_settings, new_bucket, running_s3, upload

pytest.importorskip("s3fs", reason="pip install s3fs")
pytest.importorskip("moto.server", reason="pip install 'moto[server]'")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("demo", threads=1)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with running_s3() as address:
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    return new_bucket(s3, monkeypatch, request)


def test_from_a_bucket_into_a_bucket(bucket: str, predictor: Predictor, tmp_path: Path) -> None:
    names = write_images(tmp_path / "photos")
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    (tmp_path / "photos" / "notes.txt").write_text("no image either")
    upload(tmp_path / "photos", f"{bucket}/photos")
    source, out = f"{bucket}/photos", f"{bucket}/results"
    first = segment_files(predictor, source, out, formats=["labels"], workers=2)
    assert (first.done, first.failed) == (6, 1)
    local = tmp_path / "out"
    segment_files(predictor, tmp_path / "photos", local, formats=["labels"])
    system, root = open_address(out)
    for name in names:
        result = name.replace(".png", "_labels.png")
        assert system.cat_file(f"{root}/{result}") == (local / result).read_bytes()
    remote_rows, local_rows = rows_of(out), rows_of(local)
    for name in [*names, "bad.png"]:
        for column in ("sha256", "bytes", "status", "shares", "height", "width"):
            assert remote_rows[name][column] == local_rows[name][column]
        assert remote_rows[name]["source"] == f"{source}/{name}"
    assert len(remote_rows["a/000.png"]["version"]) == 32  # the etag
    assert segment_files(predictor, source, out, formats=["labels"]).up_to_date == 6
    system.pipe_file(f"{bucket}/photos/bad.png", (tmp_path / "photos" / names[0]).read_bytes())
    again = segment_files(predictor, source, out, formats=["labels"])
    assert (again.changed, again.done, again.failed_before) == (1, 1, 0)


def test_globs_lists_and_manifests(bucket: str, predictor: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    upload(tmp_path / "photos", f"{bucket}/photos")

    def names_in(source: str) -> list[str]:
        return [image.name for image in find_source_images(source, "out")]

    everything = names_in(f"{bucket}/photos")
    local = find_source_images(str(tmp_path / "photos"), "out")
    assert everything == [image.name for image in local]
    assert names_in(bucket) == [f"photos/{name}" for name in everything]
    assert names_in(f"{bucket}/photos/*/*.png") == everything
    assert names_in(f"{bucket}/photos/[ab]/00*.png") == [
        name for name in everything if name[0] in "ab"
    ]
    assert names_in(f"{bucket}/photos/a/000.png") == ["000.png"]
    (tmp_path / "list.txt").write_text(f"{bucket}/photos/a/000.png\nphotos/b/001.png\n")
    out = tmp_path / "out"
    listed = segment_files(predictor, tmp_path / "list.txt", out, formats=["labels"])
    assert listed.done == 2
    again = segment_files(predictor, out / "manifest", tmp_path / "again", formats=["labels"])
    assert again.done == 2


def test_results_in_a_bucket_do_not_become_input(
    bucket: str, predictor: Predictor, tmp_path: Path
) -> None:
    write_images(tmp_path / "photos", 3)
    upload(tmp_path / "photos", bucket)
    for _ in range(2):
        found = segment_files(predictor, bucket, f"{bucket}/out", formats=["labels"]).found
        assert found == 3
    with pytest.raises(OptionError, match="lie in the destination"):
        segment_files(predictor, f"{bucket}/a", bucket, formats=["labels"])


def test_buckets_that_cannot_be_used(
    bucket: str, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("no image")
    upload(tmp_path / "notes", f"{bucket}/notes")
    with pytest.raises(DatasetError, match="contains no images"):
        segment_files(predictor, f"{bucket}/notes", tmp_path / "out")
    with pytest.raises(DatasetError, match="s3://no-such-bucket/x cannot be listed"):
        segment_files(predictor, "s3://no-such-bucket/x", tmp_path / "out")
    with pytest.raises(DatasetError, match="empty cannot be listed: it does not exist"):
        segment_files(predictor, f"{bucket}/empty", tmp_path / "out")
    write_images(tmp_path / "photos", 2)
    with pytest.raises(OutputError, match="s3://no-such-bucket/x cannot be locked: it does not"):
        segment_files(predictor, tmp_path / "photos", "s3://no-such-bucket/x")
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
    forget_settings(monkeypatch)
    with pytest.raises(DatasetError, match=r"cannot be listed: .*127\.0\.0\.1:9"):
        segment_files(predictor, bucket, tmp_path / "out")


def test_credentials_that_are_missing(
    bucket: str, s3: str, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the error advises for a public bucket is typed."""
    write_images(tmp_path / "photos", 2)
    upload(tmp_path / "photos", bucket, ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget_settings(monkeypatch)
    with pytest.raises(DatasetError, match="Unable to locate credentials"):
        choose_images(bucket)
    with pytest.raises(DatasetError, match="Unable to locate credentials") as caught:
        segment_files(predictor, bucket, tmp_path / "out")
    advice = caught.value.fix.split("; for a server")[0].rpartition("export ")[2]
    name, _, value = advice.partition("=")
    monkeypatch.setenv(name, value)
    forget_settings(monkeypatch)
    assert segment_files(predictor, bucket, tmp_path / "out", formats=["labels"]).done == 2


PLACES = [
    ("s3://bucket/x/", True, "s3://bucket/x"),
    ("memory://x", True, "memory://x"),
    ("simplecache::s3://b/x", True, "simplecache::s3://b/x"),
    ("file:///data/x", False, "/data/x"),
    ("/data/x", False, "/data/x"),
    ("photos/a::b", False, "photos/a::b"),
    ("C:/photos", False, "C:/photos"),
]


@pytest.mark.parametrize(("place", "expected", "plain"), PLACES, ids=[p[0] for p in PLACES])
def test_addresses_and_paths(place: str, expected: bool, plain: str) -> None:
    assert is_address(place) is expected
    assert plain_place(place) == plain


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    for address, package in (("gs://bucket/x", "gcsfs"), ("az://bucket/x", "adlfs")):
        with pytest.raises(MissingDependencyError) as caught:
            open_address(address)
        assert caught.value.fix == f"pip install {package}"
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingDependencyError) as caught:
        open_address("s3://bucket/x")
    assert caught.value.fix == "pip install fsspec pyarrow"


def test_addresses_of_no_kind() -> None:
    with pytest.raises(OptionError, match="nosuch") as caught:
        open_address("nosuch://bucket/x")
    words = shlex.split(caught.value.fix)
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, check=True)
    assert b"s3" in done.stdout


def test_local_files_need_neither_fsspec_nor_pyarrow(tmp_path: Path) -> None:
    """Those who only list images, such as calibration."""
    write_images(tmp_path / "photos", 3)
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['fsspec', 'pyarrow']));"
        "from alignseg_infer.datasets.sources import find_source_images;"
        f"print(len(list(find_source_images({str(tmp_path / 'photos')!r}, 'out'))));"
        "from alignseg_infer import segment_files, MissingDependencyError\n"
        "try: segment_files('demo', 'photos', 'out')\n"
        "except MissingDependencyError as error: print(error.fix)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["3", "pip install fsspec pyarrow"]


def test_manifests_are_read_from_buckets(bucket: str, predictor: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 2)
    segment_files(predictor, tmp_path / "photos", f"{bucket}/out", formats=["labels"])
    assert read_manifest(f"{bucket}/out", ["name", "status"]).to_pylist() == [
        {"name": "a/000.png", "status": "done"},
        {"name": "b/001.png", "status": "done"},
    ]


@pytest.mark.slow
def test_calibration_and_evaluation_read_buckets(
    bucket: str, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streets = tmp_path / "streets"
    list(write_streets(streets, 7000, 4, (64, 128)))
    upload(streets, f"{bucket}/streets")
    fetched: list[str] = []

    def read(image: SourceImage, max_pixels: int) -> bytes:
        fetched.append(image.url)
        return read_image_bytes(image, max_pixels)

    monkeypatch.setattr(copies, "read_image_bytes", read)
    for source, here in [
        (f"{bucket}/streets/images", streets / "images"),
        (f"{bucket}/streets/i*/street-700[12].png", streets / "i*" / "street-700[12].png"),
    ]:
        images, local = choose_images(source, 3), choose_images(here, 3)
        assert images.digests == local.digests
        for one, other in zip(images.read(), local.read(), strict=True):
            assert (one == other).all()
    fetched.clear()
    scores = []
    for root in (f"{bucket}/streets", str(streets)):
        data = find_labelled_images(Dataset.FOLDER, root, max_images=3)
        scores.append(evaluate({"demo": predictor}, data).models[0].confusion.mean_iou)
    assert scores[0] == scores[1]
    assert len(fetched) == len(set(fetched)) == 6
    for place in ("s3://no-such-bucket/x", f"{bucket}/empty"):
        with pytest.raises(DatasetError, match=f"{place} cannot be listed"):
            choose_images(place)
    with pytest.raises(DatasetError, match=f"{bucket}/gtFine/val is not|leftImg8bit/val is not"):
        find_labelled_images(Dataset.CITYSCAPES, bucket)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
    forget_settings(monkeypatch)
    with pytest.raises(DatasetError, match=r"cannot be listed: .*127\.0\.0\.1:9"):
        choose_images(f"{bucket}/streets")
    with pytest.raises(DatasetError, match=r"cannot be listed: .*127\.0\.0\.1:9"):
        find_labelled_images(Dataset.FOLDER, f"{bucket}/streets")
