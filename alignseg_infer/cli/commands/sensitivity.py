"""``alignseg sensitivity``: measures what INT8 costs, block by block."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alignseg_infer.arrays import Image
from alignseg_infer.cli.arguments.int8 import add_calibration_arguments, calibration_options_from
from alignseg_infer.cli.arguments.values import (
    DATASET_HELP,
    ROOT_HELP,
    SPLIT_HELP,
    THREADS_HELP,
    add_destination,
    choices_of,
    given_place,
)
from alignseg_infer.cli.reports import write_report
from alignseg_infer.cli.streams import print_report
from alignseg_infer.datasets.labelled import Dataset, LabelledImages, find_labelled_images
from alignseg_infer.demo import model_path
from alignseg_infer.errors import OptionError
from alignseg_infer.files.reading import user_path
from alignseg_infer.files.writing import require_writable_folder, temporary_folder
from alignseg_infer.packages import require_export_packages, require_packages

if TYPE_CHECKING:
    from alignseg_infer.export.int8.sensitivity import Sensitivity

HELP = (
    "Quantise one block of a model at a time, as for TensorRT, and rank the blocks by how much "
    "the labels change."
)
EXAMPLE = "Example: alignseg sensitivity alignseg.onnx --calibration IMAGES -o out/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model", type=user_path, help="model to measure: an exported float32 .onnx file, or demo"
    )
    add_destination(
        parser, "folder to write sensitivity.json, sensitivity.md and sensitivity.png into"
    )
    parser.add_argument(
        "--blocks",
        choices=("stage", "block"),
        default="stage",
        help="what to quantise at a time: stage takes each whole stage of the backbone, such as "
        "layer3; block takes each residual block (default: stage)",
    )
    add_calibration_arguments(
        parser.add_argument_group("calibration options"),
        "images to calibrate with, and to compare labels on if there is no --dataset",
        required=True,
    )
    _add_dataset_arguments(parser)
    parser.add_argument("--threads", type=int, metavar="N", help=THREADS_HELP)


def _add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "dataset options", "labelled images to compare on, as for alignseg eval"
    )
    group.add_argument("--dataset", choices=choices_of(Dataset), help=DATASET_HELP)
    group.add_argument("--root", type=given_place, metavar="FOLDER", help=ROOT_HELP)
    group.add_argument("--split", help=SPLIT_HELP)
    group.add_argument(
        "--max-images",
        type=int,
        metavar="N",
        help="use only the first N labelled images (default: all)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and write it with its chart."""
    require_export_packages(model_path(arguments.model))
    require_packages(("matplotlib",), "pip install matplotlib")  # now, not after measuring
    labelled = _find_labelled(arguments)
    require_writable_folder(arguments.destination)
    sensitivity = _measure(arguments, labelled)
    _write(sensitivity, arguments.destination)
    print_report(sensitivity.to_markdown())
    return 0


def _find_labelled(arguments: argparse.Namespace) -> LabelledImages | None:
    if arguments.dataset is None and arguments.root is None:
        return None
    if arguments.dataset is None or arguments.root is None:
        raise OptionError(
            "only one of --dataset and --root was given",
            "both, or neither of them",
            "--dataset cityscapes --root DATA",
        )
    dataset = Dataset(arguments.dataset)
    return find_labelled_images(
        dataset,
        arguments.root,
        arguments.split,
        arguments.max_images,
        max_pixels=arguments.max_pixels,
    )


def _measure(arguments: argparse.Namespace, labelled: LabelledImages | None) -> "Sensitivity":
    from alignseg_infer.cli.progress import progress_bar
    from alignseg_infer.datasets.image_sets import choose_images
    from alignseg_infer.export.graph.onnx_file import load_graph
    from alignseg_infer.export.int8.calibration import calibrate_ranges
    from alignseg_infer.export.int8.convolutions import Grain
    from alignseg_infer.export.int8.effect import EffectMeter
    from alignseg_infer.export.int8.sensitivity import measure_sensitivity

    path, options = model_path(arguments.model), calibration_options_from(arguments)
    graph = load_graph(path)
    images = choose_images(
        arguments.calibration, arguments.max_calibration_images, arguments.max_pixels
    )
    with progress_bar("calibration images") as progress:
        ranges = calibrate_ranges(path, images, options, progress)
    with temporary_folder() as folder:
        with progress_bar("images segmented in FP32") as progress:
            meter = EffectMeter(
                path,
                images,
                folder,
                labelled=labelled,
                size=options.size,
                threads=options.threads,
                progress=progress,
            )
        with progress_bar("blocks measured in INT8") as progress:
            grain = Grain(arguments.blocks)
            return measure_sensitivity(graph, ranges, meter, grain=grain, progress=progress)


def _write(sensitivity: "Sensitivity", folder: Path) -> None:
    from alignseg_infer.drawing.figures import pixels_of
    from alignseg_infer.export.int8.sensitivity_picture import sensitivity_figure

    contents: dict[str, str | Image] = {
        "sensitivity.json": sensitivity.to_json() + "\n",
        "sensitivity.md": sensitivity.to_markdown(),
        "sensitivity.png": pixels_of(sensitivity_figure(sensitivity)),
    }
    write_report(folder, contents)
