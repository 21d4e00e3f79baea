"""Streets as files: images and labels, as ``alignseg eval --dataset folder`` reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alignseg_infer.arrays import Size
from alignseg_infer.demo.streets.street import Scene, Street
from alignseg_infer.files import require_writable_folder
from alignseg_infer.pixels.images import write_image


class StreetFiles(NamedTuple):
    """One street on the disk.

    Attributes:
        image: PNG, BGR.
        labels: 8-bit gray PNG, training ids of Cityscapes.
        scene: What is in them.
    """

    image: Path
    labels: Path
    scene: Scene


def written_streets(
    folder: Path, first: int, count: int, size: Size = (256, 512)
) -> Iterator[StreetFiles]:
    """Draws streets and writes ``images/street-SEED.png`` and ``labels/street-SEED.png`` each.

    Args:
        folder: Made if need be.
        first: Seed of the first street; the others count up from it.
        count: How many.
        size: Image (height, width).

    Raises:
        OutputError: They cannot be written.
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
