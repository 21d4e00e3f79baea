"""What one process of a batch does: read images, segment them, write results, and make rows."""

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, cast

from alignseg_infer.batch.job import Job
from alignseg_infer.batch.stores import open_store, require_shared
from alignseg_infer.datasets.manifest_rows import ManifestRow, Status
from alignseg_infer.datasets.sources import SourceImage, read_image_bytes
from alignseg_infer.demo import model_path
from alignseg_infer.errors import ImageError, ModelFileError, OutOfMemoryError
from alignseg_infer.pixels.encoded import decode_image
from alignseg_infer.pixels.images import OwnImage, image_from_array
from alignseg_infer.predictor import Predictor
from alignseg_infer.results.failure import Failure
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.spec.onnx_weights import sha256_with_weights
from alignseg_infer.text import printable
from alignseg_infer.version import __version__

LONGEST_ERROR = 500  # characters in a row
# What is wrong with one image. All else is wrong with the model or the machine.
OF_AN_IMAGE = (ImageError, OutOfMemoryError)


class _Taken(NamedTuple):
    """An image whose bytes were read."""

    image: SourceImage
    sha256: str
    size: int | None
    load_ms: float


class Worker:
    """Segments the images of a batch in one process, and writes their results.

    ::

        worker = Worker(job)
        row = worker(image)

    Args:
        job: What to do. The model is opened once.

    Raises:
        AlignSegError: As `Predictor` does, or the destination cannot be opened.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        _require_model(job)
        self._predictor = Predictor(job.model, **vars(job.options))
        self._store = open_store(job.destination, job.room)

    def __call__(self, image: SourceImage) -> ManifestRow:
        """Segment one image, write its results, and return its row, which may be of a failure.

        Raises:
            OutputError: Nothing can be written to the destination.
            AlignSegError: The model or the machine fails.
        """
        return next(self.segment([image]))

    def segment(self, images: Iterable[SourceImage]) -> Iterator[ManifestRow]:
        """Do so with each image, in order, with reading and the network at work at once.

        Raises:
            OutputError, AlignSegError: As a call does.
        """
        taken: deque[_Taken] = deque()

        def read() -> Iterator[OwnImage | Failure]:
            for image in images:
                facts, found = self._read(image)
                taken.append(facts)
                yield found

        # A stream leaves failures among its images as they are.
        images_read = cast(Iterator[OwnImage], read())
        with self._predictor.stream(images_read, errors="return") as results:
            for result in results:
                yield self._finish(taken.popleft(), result)

    def _read(self, image: SourceImage) -> tuple[_Taken, OwnImage | Failure]:
        start = time.perf_counter()
        digest, size = "", image.size
        found: OwnImage | Failure
        try:
            _require_inside(image)
            require_shared(image.url)
            data = read_image_bytes(image, self._job.options.max_pixels)
            digest, size = hashlib.sha256(data).hexdigest(), len(data)
            pixels = decode_image(data, image.url, self._job.options.max_pixels)
            found = OwnImage(image_from_array(pixels))
        except Exception as error:
            found = Failure.of(image.url, error)
        return _Taken(image, digest, size, 1e3 * (time.perf_counter() - start)), found

    def _finish(self, taken: _Taken, result: Segmentation | Failure) -> ManifestRow:
        row = replace(
            new_row(self._job, taken.image),
            sha256=taken.sha256,
            bytes=taken.size,
            load_ms=taken.load_ms,
        )
        if not isinstance(result, Failure):
            try:
                return self._save(row, result)
            except OSError as error:  # about the name of this image
                result = Failure.of(taken.image.url, error)
        if not isinstance(result.error, (*OF_AN_IMAGE, OSError, MemoryError)):
            raise result.error
        return failed_row(row, result.error)

    def _save(self, row: ManifestRow, result: Segmentation) -> ManifestRow:
        times = replace(result.times, load=row.load_ms)
        result = replace(result, source=row.source, times=times)
        start = time.perf_counter()
        saving, stem = self._job.saving, result_stem(row.name)
        folder, slash, name = stem.rpartition("/")
        files = result.encode_files(
            name,
            saving.opacity,
            formats=saving.formats,
            tolerance=saving.tolerance,
            outline=saving.outline,
        )
        for file_name, content in files.items():
            self._store.write(f"{folder}{slash}{file_name}", content)
        return replace(
            row,
            height=result.size[0],
            width=result.size[1],
            shares=result.class_share(),
            save_ms=1e3 * (time.perf_counter() - start),
            **{f"{stage}_ms": spent for stage, spent in asdict(times).items()},
        )


def _require_inside(image: SourceImage) -> None:
    """Check that an image's results lie in the destination, whatever a bucket or a manifest says.

    Raises:
        ImageError: They do not.
    """
    if image.name.startswith("/") or ".." in image.name.split("/"):
        raise ImageError(
            f"the results of {image.name} would lie outside the destination",
            "a name below the source, without ..",
            "give the image another name, or name it in a list",
        )


def result_stem(name: str) -> str:
    """Return the path of an image's results below the destination, without their endings."""
    folder, slash, file_name = name.rpartition("/")
    return f"{folder}{slash}{Path(file_name).stem}"


def new_row(job: Job, image: SourceImage) -> ManifestRow:
    """Return the row of an image as it is before the image is read."""
    return ManifestRow(
        name=image.name,
        source=image.url,
        bytes=image.size,
        version=image.version,
        model_sha256=job.model_sha256,
        settings=job.settings_hash(),
        package_version=__version__,
    )


def failed_row(row: ManifestRow, error: Exception | str) -> ManifestRow:
    """Return a row with what went wrong."""
    problem = getattr(error, "problem", None) or f"{error}" or type(error).__name__
    text = printable(problem)
    if len(text) > LONGEST_ERROR:
        text = f"{text[: LONGEST_ERROR - 3]}..."
    return replace(row, status=Status.FAILED.value, error=text)


def model_hash(model: str) -> str:
    """Return the SHA-256 of a model and its files of weights."""
    return sha256_with_weights(model_path(model))


def _require_model(job: Job) -> None:
    """Check that this machine has the same model.

    Raises:
        ModelFileError: It is another one.
    """
    path = model_path(job.model)
    if path.is_file() and model_hash(job.model) != job.model_sha256:
        raise ModelFileError(
            f"{path} is not the model that the batch was started with",
            f"the file with the sha256 {job.model_sha256}",
            "start the batch again, or copy the file again",
        )
