"""Segmenting what was dropped on the page; what fails is shown there."""

import contextlib
import dataclasses
import mimetypes
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from alignseg_infer.arrays import Image, Size
from alignseg_infer.backend import Backend
from alignseg_infer.errors import AlignSegError, ImageError, OptionError, SizeError, VideoError
from alignseg_infer.offsets.displacement import ImageOffsets, offsets_of_image
from alignseg_infer.page.results import Clip, Picture, Results
from alignseg_infer.pixels.header import has_more_pictures
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.model import OutputKind

MOST_FILES = 10  # that are dropped at once
MOST_MEGABYTES = 256  # of a file
GRACE = 20.0  # seconds
FIRST_ONLY = (
    "This file has several pictures, of which the first is shown. Save it as an MP4 video to see "
    "them all."
)

Tell: TypeAlias = Callable[[str, int, int | None], bool]
"""Takes what is done, how much, and of how much; returns whether anybody still waits for it."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model of the page.

    Attributes:
        name: What people know it by.
        predictor: What segments.
        open_backend: Opens it once more, to ask for its offsets.
        size: The network's input size, as for `Predictor`.
    """

    name: str
    predictor: Predictor
    open_backend: Callable[[], Backend]
    size: str | int | Size | None = None
    _opened: list[Backend] = field(default_factory=list)

    def segment(self, image: Path | Image, name: str) -> Picture:
        """Segment an image, which is called `name`.

        Raises:
            AlignSegError: As `Predictor` does.
        """
        export = self.predictor.spec.export
        has_logits = export is None or export.output is not OutputKind.LABELS
        result = self.predictor(image, confidence=has_logits)
        sure = result.confidence
        kept = dataclasses.replace(result, confidence=None, source=name)
        certainty = None if sure is None else np.rint(255 * sure).astype(np.uint8)
        return Picture(kept, certainty, self.name, self.offsets)

    def offsets(self, image: Image) -> ImageOffsets:
        """Return where the offsets point.

        Raises:
            AlignSegError: As `offsets_of_image` does, among others if the model has none to return.
        """
        if not self._opened:
            self._opened.append(self.open_backend())
        return offsets_of_image(self._opened[0], image, self.size)


class Page:
    """What the page does.

    Args:
        models: At least one; each segments everything.
        folder: Where uploads lie, and videos are written.
    """

    def __init__(self, models: Sequence[Model], folder: Path) -> None:
        self.models, self.folder, self.results = models, folder, Results()

    def segment_file(self, path: Path, tell: Tell) -> dict[str, Any]:
        """Segment an image or a video, and return what the page shows. Its file is removed soon.

        Args:
            path: The file that was uploaded.
            tell: Called as work on a video goes on.
        """
        try:
            if (mimetypes.guess_type(path.name)[0] or "").startswith("video/"):
                return {"name": path.name, "clips": self._segment_video(path, tell)}
            shown = self.segment_image(path, path.name)
            return shown | {"note": FIRST_ONLY} if has_more_pictures(path.read_bytes()) else shown
        except AlignSegError as error:
            return {"name": path.name, "error": explain(error, path)}
        finally:
            remove_soon(path)

    def segment_image(self, image: Path | Image, name: str) -> dict[str, Any]:
        """Segment an image, which is called `name`, and return what the page shows.

        Raises:
            AlignSegError: As `Predictor` does.
        """
        pictures = [model.segment(image, name) for model in self.models]
        return {"name": name, "pictures": [self.results.add(picture) for picture in pictures]}

    def _segment_video(self, path: Path, tell: Tell) -> list[dict[str, Any]]:
        clips = []
        for model in self.models:
            clip = self._make_clip(model, path, tell)
            if clip is None:
                break
            clips.append(clip)
        return clips

    def _make_clip(self, model: Model, path: Path, tell: Tell) -> dict[str, Any] | None:
        """Segment a video; return None if nobody waits for it any more."""
        from alignseg_infer.video.process import segment_source
        from alignseg_infer.video.sources import open_source

        source = open_source(path)
        left = False

        def show(done: int, total: int | None) -> None:
            nonlocal left
            left = not tell("frames", done, total)
            if left:
                source.stop()

        clip = Clip(Path(tempfile.mkdtemp(dir=self.folder), f"{path.stem}_segmented.mp4"))
        try:
            summary = segment_source(model.predictor, source, clip.path, progress=show)
        except BaseException:
            clip.forget()
            raise
        if left:
            clip.forget()
            return None
        classes = model.predictor.spec.classes
        return {
            "clip": self.results.add(clip),
            "model": model.name,
            "classes": list(zip(classes.names, classes.colors, strict=True)),
            "frames": summary.frames,
            "seconds": summary.seconds,
            "backend": summary.backend,
            "notes": summary.notes,
        }


def remove_soon(path: Path, seconds: float = GRACE) -> None:
    """Remove an upload, unless it comes again: Gradio keeps equal files in one place.

    Args:
        path: The file. If it is written again before it is removed, it stays.
        seconds: How long whoever uploaded the same may wait for its turn.
    """

    def remove(seen: int) -> None:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime_ns == seen:
                path.unlink()

    with contextlib.suppress(FileNotFoundError):
        timer = threading.Timer(seconds, remove, [path.stat().st_mtime_ns])
        timer.daemon = True
        timer.start()


def explain(error: AlignSegError, path: Path | None = None) -> Mapping[str, str]:
    """Return the parts of an error for someone who sees the page, but not this machine's files.

    Args:
        error: What was raised.
        path: Where the file lies that it is about. People know it by its name.
    """
    fix = error.fix
    if isinstance(error, SizeError):
        fix = "a picture of another size"
    elif isinstance(error, ImageError | VideoError):
        fix = "another file; JPEG and PNG pictures and MP4 videos are sure to be read"
    parts = {"problem": error.problem, "expected": error.expected, "fix": fix}
    if path is None:
        return parts
    return {key: text.replace(str(path), path.name) for key, text in parts.items()}


def too_many(files: int) -> OptionError:
    """Return the error for more than `MOST_FILES` files at once."""
    return OptionError(
        f"{files} files were dropped at once",
        f"up to {MOST_FILES} at once",
        f"the first {MOST_FILES}, then the others; for whole folders: alignseg predict",
    )
