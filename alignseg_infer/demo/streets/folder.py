"""Writing streets as files: images and labels that ``alignseg eval --dataset folder`` reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alignseg_infer.arrays import Size
from alignseg_infer.demo.streets.street import Scene, Street
from alignseg_infer.files.writing import require_writable_folder
from alignseg_infer.pixels.images import write_image


class StreetFiles(NamedTuple):
    """The files of one street.

    Attributes:
        image: Path of the image, a PNG.
        labels: Path of the labels, an 8-bit gray PNG with training ids of Cityscapes.
        scene: What the files hold.
    """

    image: Path
    labels: Path
    scene: Scene


def write_streets(
    folder: Path, first: int, count: int, size: Size = (256, 512)
) -> Iterator[StreetFiles]:
    """Draw streets and write ``images/street-SEED.png`` and ``labels/street-SEED.png`` for each.

    Args:
        folder: Where to write; it is created if it does not exist.
        first: Seed of the first street; the seeds of the others count up from it.
        count: How many streets to write.
        size: (height, width) of the images.

    Yields:
        The files of each street, once they are written.

    Raises:
        OutputError: The files cannot be written.
        OptionError, SizeError: `first` or `size` cannot be used.
    """
    for subfolder in ("images", "labels"):
        require_writable_folder(folder / subfolder)
    for seed in range(first, first + count):
        scene = Street(seed).scene(size=size)
        name = f"street-{seed}.png"
        files = StreetFiles(folder / "images" / name, folder / "labels" / name, scene)
        for path, pixels in ((files.image, scene.image), (files.labels, scene.labels)):
            write_image(path, pixels)
        yield files
