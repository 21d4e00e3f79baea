"""Folders of small images, and what a batch has made of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2

from alignseg_infer import Predictor, segment_files
from alignseg_infer.batch.manifest import read_manifest
from alignseg_infer.batch.run import BatchSummary
from alignseg_infer.demo.streets import Street

FORMATS = ("labels", "summary")
TIMES = ("load_ms", "preprocess_ms", "infer_ms", "postprocess_ms", "save_ms", "finished")


def write_images(folder: Path, count: int = 6, size: tuple[int, int] = (32, 64)) -> list[str]:
    """Write different images into three folders of `folder`; return their names, sorted."""
    scene, names = Street(0).scene(size=size).image, []
    for number in range(count):
        name = f"{'abc'[number % 3]}/{number:03}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = scene.copy()
        image[:, : 8 * (number % 8)] = number % 251
        cv2.imwrite(str(folder / name), image)
        names.append(name)
    return sorted(names)


def segment(
    predictor: Predictor | str | Path, source: Path | str, out: Path | str, **options: Any
) -> BatchSummary:
    """Segment images, and save their labels unless `options` say otherwise."""
    return segment_files(predictor, source, out, **{"formats": ["labels"], **options})


def rows_of(destination: Path | str) -> dict[str, dict[str, Any]]:
    """The manifest's last row of each image, by its name, without times."""
    rows = read_manifest(str(destination)).to_pylist()
    return {
        row["name"]: {key: value for key, value in row.items() if key not in TIMES} for row in rows
    }


def files_in(destination: Path) -> list[str]:
    """All files of a destination but the manifest and the locks, sorted."""
    paths = (path.relative_to(destination) for path in destination.rglob("*") if path.is_file())
    inner = (".alignseg-batch/locks", "manifest/")
    return sorted(path.as_posix() for path in paths if not path.as_posix().startswith(inner))


def results_of(names: Iterable[str], *endings: str) -> list[str]:
    """The files that there should be of images, sorted."""
    stems = [name.rpartition(".")[0] for name in names]
    return sorted(stem + ending for stem in stems for ending in endings)
