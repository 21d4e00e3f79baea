"""``alignseg demo``: draws streets and segments them with the model in the package."""

import argparse
from pathlib import Path

import numpy as np

from alignseg_infer.arrays import Floats, Image, Labels
from alignseg_infer.cli.arguments.inference import add_runtime_arguments, runtime_options
from alignseg_infer.cli.arguments.values import add_destination
from alignseg_infer.cli.streams import print_message
from alignseg_infer.demo import DEMO, FIRST_HELD_OUT
from alignseg_infer.drawing.masks import add_title, colorize, draw_legend
from alignseg_infer.errors import OptionError
from alignseg_infer.evaluation.metrics import ConfusionMatrix
from alignseg_infer.pixels.images import write_image
from alignseg_infer.predictor import Predictor
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.spec.model import ClassSpec

HELP = "Draw streets, segment them with the model that comes with the package, and write pictures."
EXAMPLE = "Example: alignseg demo, then alignseg eval demo --dataset folder --root demo-output"
SHEET_ROWS = 4  # streets in the overview picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    add_destination(
        parser, "folder to write the results into (default: demo-output)", Path("demo-output")
    )
    parser.add_argument(
        "--streets",
        type=int,
        default=4,
        metavar="N",
        help="number of streets to draw (default: 4)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=FIRST_HELD_OUT,
        metavar="N",
        help="seed of the first street; the model was trained on the seeds 0 to 3999 (default: "
        "%(default)s)",
    )
    add_runtime_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write images, labels, results and an overview, and print how good the masks are."""
    from alignseg_infer.demo.streets.folder import write_streets

    if arguments.streets < 1:
        raise OptionError(f"--streets {arguments.streets}", "1 or more", "--streets 4")
    predictor = Predictor(DEMO, **runtime_options(arguments))
    classes = predictor.spec.classes
    confusion: ConfusionMatrix | None = None
    rows: list[Image] = []
    shown = np.zeros(len(classes.names))
    for files in write_streets(arguments.destination, arguments.seed, arguments.streets):
        result = predictor(files.image)
        result.save(arguments.destination / "results" / files.image.stem)
        one = ConfusionMatrix.of(files.scene.labels, result.labels, len(classes.names))
        confusion = one if confusion is None else confusion + one
        print_message(
            f"{files.image}: {one.pixel_accuracy:.1%} of pixels correct, "
            f"{result.times.total:.0f} ms"
        )
        if len(rows) < SHEET_ROWS:
            rows.append(_draw_row(result, files.scene.labels))
            shown += one.counts.sum(axis=0) + one.counts.sum(axis=1)
    sheet = _draw_sheet(rows, _draw_key(shown / shown.sum(), classes, rows[0].shape[1]))
    path = arguments.destination / "demo.png"
    write_image(path, sheet)
    assert confusion is not None  # there is at least one street
    print_message(
        f"mean IoU {confusion.mean_iou:.1%} over {arguments.streets} streets, on "
        f"{predictor.backend}"
    )
    print_message(str(path))
    return 0


def _draw_row(result: Segmentation, truth: Labels) -> Image:
    """Put the street, the overlay of the predicted labels, and the true labels side by side."""
    return np.hstack((result.image, result.overlay(0.6), colorize(truth, result.classes)))


def _draw_key(shares: Floats, classes: ClassSpec, width: int) -> Image:
    """Draw the classes of the predicted and true labels that are shown, the largest first."""
    present = [label for label in np.argsort(-shares, kind="stable") if shares[label]]
    return draw_legend(classes, width, {classes.names[label]: shares[label] for label in present})


def _draw_sheet(rows: list[Image], key: Image) -> Image:
    titles = ("street (drawn)", "demo model", "true labels")
    width = rows[0].shape[1] // len(titles)
    blank: Image = np.empty((0, width, 3), np.uint8)
    heading = np.hstack([add_title(blank, title) for title in titles])
    return np.vstack([heading, *rows, key])
