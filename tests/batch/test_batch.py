"""A batch on one machine: what it writes, leaves as it is, and refuses."""

import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from alignseg_infer import (
    DatasetError,
    OptionError,
    OutputError,
    Predictor,
    ProcessError,
    segment_files,
)
from alignseg_infer.batch.job import Shard
from alignseg_infer.batch.locks import lock_shard
from alignseg_infer.batch.manifest import read_manifest
from alignseg_infer.batch.run import BatchSummary
from alignseg_infer.demo import model_path
from tests.support.batches import files_in, results_of, rows_of, segment, write_images
from tests.support.models import FakeBackend


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("demo", threads=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos")
    return tmp_path / "photos"


def counts_of(summary: BatchSummary) -> tuple[int, int, int]:
    return summary.done, summary.failed, summary.up_to_date


def test_results_are_those_of_the_predictor(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    out, names = tmp_path / "out", sorted(p.relative_to(photos) for p in photos.rglob("*.png"))
    seen: list[tuple[int, int, int]] = []
    formats = ["labels", "color", "coco"]
    summary = segment(
        predictor, photos, out, formats=formats, workers=2, progress=lambda *c: seen.append(c)
    )
    assert counts_of(summary) == (6, 0, 0)
    assert seen == [(number, 6, 0) for number in range(1, 7)]
    assert files_in(out) == results_of(map(str, names), "_labels.png", "_color.png", "_coco.json")
    for name in names:
        expected = predictor(photos / name)
        stem = tmp_path / "expected" / name.with_suffix("")
        for path in expected.save(stem, formats=formats):
            assert (out / name.parent / path.name).read_bytes() == path.read_bytes()
        row = rows_of(out)[str(name)]
        assert dict(row["shares"]) == pytest.approx(expected.class_share())
        assert (row["height"], row["width"], row["status"]) == (32, 64, "done")
        assert row["source"] == str(photos / name)


def test_times_are_in_the_manifest(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    segment(predictor, photos / "a", tmp_path / "out")
    for row in read_manifest(str(tmp_path / "out")).to_pylist():
        for stage in ("load", "preprocess", "infer", "postprocess", "save"):
            assert 0 < row[f"{stage}_ms"] < 60_000


def test_a_second_run_does_what_is_missing_changed_or_failed(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (photos / "bad.png").write_bytes(b"no image")
    first = segment(predictor, photos, out)
    assert counts_of(first) == (6, 1, 0)
    assert first.failures[0][0] == "bad.png"
    assert "cannot be decoded" in first.failures[0][1]
    assert counts_of(segment(predictor, photos, out)) == (0, 0, 6)
    shutil.copy(photos / "a" / "000.png", photos / "new.png")
    (out / "a" / "000_labels.png").unlink()
    os.utime(photos / "b" / "001.png", (1, 1))
    third = segment(predictor, photos, out)
    assert (third.missing, third.changed, third.failed_before, third.done) == (2, 1, 1, 3)
    again = segment(predictor, photos, out, retry_failed=True)
    assert counts_of(again) == (0, 1, 7)
    shutil.copy(photos / "new.png", photos / "bad.png")
    assert counts_of(segment(predictor, photos, out)) == (1, 0, 7)  # it has changed
    assert {row["status"] for row in rows_of(out).values()} == {"done"}


def test_a_dry_run_counts_and_writes_nothing(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    summary = segment(predictor, photos, tmp_path / "out", dry_run=True)
    assert (summary.found, summary.missing, summary.done) == (6, 6, 0)
    assert not (tmp_path / "out").exists()


def test_another_model_or_option_is_refused_unless_told(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(predictor, photos, out)
    with pytest.raises(OptionError, match=r"size=None \(now 64\)") as caught:
        segment(Predictor("demo", size=64), photos, out)
    assert "replace=True" in caught.value.fix
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model_path("demo").read_bytes())
    assert counts_of(segment(copy, photos, out)) == (0, 0, 6)  # the same model elsewhere
    assert counts_of(segment(Predictor("demo", threads=2, batch=4), photos, out)) == (0, 0, 6)
    replaced = segment(Predictor("demo", size=64), photos, out, replace=True)
    assert (replaced.changed, replaced.done) == (6, 6)
    assert segment(Predictor("demo", size=64), photos, out).up_to_date == 6


def test_shards_are_disjoint_and_together_everything(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parts = [segment(predictor, photos, out, shard=f"{number}/3") for number in (1, 2, 3)]
    assert sum(part.done for part in parts) == 6
    assert len(rows_of(out)) == 6
    assert segment(predictor, photos, out).up_to_date == 6


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/5"])
def test_shards_that_make_no_sense(shard: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=re.escape(repr(shard))) as caught:
        segment("demo", photos, tmp_path / "out", shard=shard)
    assert Shard.parse(caught.value.fix.partition("=")[2].strip("'")) == Shard(1, 16)


def test_two_runs_into_one_shard_exclude_each_other(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with lock_shard(str(out), Shard(1, 2)):
        for busy in ("1/2", None, "1/3"):
            with pytest.raises(OutputError, match="another run writes shard 1/2"):
                segment(predictor, photos, out, shard=busy)
        other = segment(predictor, photos, out, shard="2/2")
    assert segment(predictor, photos, out).up_to_date == other.done


def test_results_do_not_become_input(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    out = photos / "results"
    assert segment(predictor, photos, out).found == 6
    assert segment(predictor, photos, out).found == 6
    assert segment(predictor, photos / "**" / "*.png", out).found == 6
    listed = photos / "list.txt"
    listed.write_text("\n".join(str(path) for path in photos.rglob("*.png")))
    assert segment(predictor, listed, out).found == 6
    for source in (photos, photos / "a", photos / "*" / "*.png"):
        with pytest.raises(OptionError, match="lie in the destination") as caught:
            segment(predictor, source, photos)
        assert caught.value.fix == f"-o {photos}-results"


def test_images_that_would_have_the_same_results(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "a" / "000.png", photos / "a" / "000.jpg")
    with pytest.raises(OptionError, match=r"a/000\.jpg and .*a/000\.png") as caught:
        segment(predictor, photos, tmp_path / "out")
    pattern = caught.value.fix.split("'")[1].replace("FOLDER", str(photos))
    assert segment(predictor, pattern, tmp_path / "out").done == 1
    (photos / "c" / "000.png").write_bytes((photos / "a" / "000.png").read_bytes())
    (photos / "a" / "000.jpg").unlink()
    assert segment(predictor, photos, tmp_path / "out2").done == 7  # in another folder


def test_lists_and_manifests_are_sources(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    listed = photos / "list.txt"
    outside = tmp_path / "elsewhere.png"
    shutil.copy(photos / "a" / "000.png", outside)
    listed.write_text("a/000.png\n# no\n../elsewhere.png\na/000.png\nno such.png\n")
    first = segment(predictor, listed, tmp_path / "out")
    assert counts_of(first) == (2, 1, 0)
    outside_name = str(outside).lstrip("/")
    assert set(rows_of(tmp_path / "out")) == {"a/000.png", outside_name, "no such.png"}
    parts = tmp_path / "out" / "manifest"
    assert segment(predictor, parts, tmp_path / "again").found == 3
    one_by_one = [segment(predictor, part, tmp_path / "again") for part in parts.glob("*.parquet")]
    assert sum(done.found for done in one_by_one) == 3  # a slow run writes several parts
    assert (tmp_path / "again" / "a" / "000_labels.png").exists()


@pytest.mark.parametrize("name", ["two\nlines.png", "tab\t.png", "ünï 'x' \"y\".png", "-o.png"])
def test_odd_names(name: str, predictor: Predictor, tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    out = tmp_path / "out"
    assert segment(predictor, tmp_path / "photos", out).done == 1
    assert list(rows_of(out)) == [name]
    assert files_in(out) == results_of([name], "_labels.png")
    assert segment(predictor, tmp_path / "photos", out).up_to_date == 1


def test_names_that_are_no_text_or_too_long(predictor: Predictor, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    image = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    (photos / os.fsdecode(b"\xff.png")).write_bytes(image)
    (photos / f"{'x' * 251}.png").write_bytes(image)
    first = segment(predictor, photos, out)
    assert counts_of(first) == (1, 1, 0)
    assert "File name too long" in first.failures[0][1]
    assert set(rows_of(out)) == {"\\xff.png", f"{'x' * 251}.png"}
    assert counts_of(segment(predictor, photos, out)) == (0, 0, 1)


def test_links_in_a_circle_end(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    (photos / "a" / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "b" / "broken.png").symlink_to(tmp_path / "no such.png")
    summary = segment(predictor, photos, tmp_path / "out")
    assert counts_of(summary) == (6, 1, 0)
    assert "does not exist" in summary.failures[0][1]


def test_nothing_to_do_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="contains no images") as caught:
        segment(predictor, tmp_path / "empty", tmp_path / "out")
    assert caught.value.fix == f"find {tmp_path / 'empty'} -name '*.jpg' | head"
    with pytest.raises(DatasetError, match="does not exist"):
        segment(predictor, tmp_path / "no such", tmp_path / "out")
    with pytest.raises(OptionError, match="workers=0"):
        segment(predictor, tmp_path / "empty", tmp_path / "out", workers=0)
    with pytest.raises(ProcessError, match="of an object"):
        segment_files(Predictor(FakeBackend()), tmp_path, tmp_path / "out")


def test_a_batch_of_images_waits_for_no_more(photos: Path, tmp_path: Path) -> None:
    """The rest of the last batch is segmented, too."""
    summary = segment(Predictor("demo", threads=1, batch=4), photos, tmp_path / "out")
    assert summary.done == 6


def test_a_damaged_manifest_is_named(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(predictor, photos, out)
    part = next((out / "manifest").glob("*.parquet"))
    other = part.with_name("mine.parquet")
    other.write_bytes(part.read_bytes())  # whatever its name, it is a part
    (photos / "a" / "000.png").write_bytes((photos / "a" / "003.png").read_bytes())
    assert counts_of(segment(predictor, photos, out)) == (1, 0, 5)
    other.unlink()
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DatasetError, match=f"{part.name} is no part of a manifest"):
        segment(predictor, photos, out)
    (out / "manifest" / "made-with.json").write_text("[]")
    with pytest.raises(OptionError, match=r"made-with\.json is damaged"):
        segment(predictor, photos, out)
