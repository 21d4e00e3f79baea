"""``alignseg eval``: scores models on labelled images."""

import argparse
import sys

from alignseg_infer.cli.arguments.inference import (
    AT_RUNTIME_HELP,
    add_inference_arguments,
    names_of,
    predictor_options,
    split_runtime,
)
from alignseg_infer.cli.arguments.values import (
    DATASET_HELP,
    ROOT_HELP,
    SPLIT_HELP,
    add_destination,
    choices_of,
    given_place,
)
from alignseg_infer.cli.reports import write_report
from alignseg_infer.cli.streams import print_message, print_report
from alignseg_infer.cli.termination import EXIT_INTERRUPTED
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.evaluation.evaluate import evaluate
from alignseg_infer.files.reading import user_path
from alignseg_infer.files.writing import require_writable_folder
from alignseg_infer.predictor import Predictor

HELP = "Score one or more models on labelled images: IoU, accuracy, boundary F1 and speed."
EXAMPLE = "Example: alignseg eval alignseg.onnx --dataset cityscapes --root DATA -o out/"
# These arguments do not change the scores.
NO_SETTINGS = ("models", "root", "images", "destination", "run", "parser", "debug", "max_pixels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "models",
        nargs="+",
        type=user_path,
        help=f"models to score: .onnx files, engines, checkpoints, or demo{AT_RUNTIME_HELP}",
    )
    parser.add_argument("--dataset", choices=choices_of(Dataset), required=True, help=DATASET_HELP)
    parser.add_argument("--root", type=given_place, required=True, metavar="FOLDER", help=ROOT_HELP)
    parser.add_argument("--split", help=SPLIT_HELP)
    parser.add_argument(
        "--images",
        type=given_place,
        metavar="SOURCE",
        help="use only these images of the dataset: a folder, a glob, a .txt list of paths or "
        "addresses, or an address (default: all)",
    )
    parser.add_argument(
        "--max-images", type=int, metavar="N", help="use only the first N images (default: all)"
    )
    add_destination(
        parser, "folder to write evaluation.json and evaluation.md into", required=False
    )
    add_inference_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the tables, and write them if there is a destination."""
    from alignseg_infer.cli.progress import progress_bar

    data = find_labelled_images(
        Dataset(arguments.dataset),
        arguments.root,
        arguments.split,
        arguments.max_images,
        images=arguments.images,
        max_pixels=arguments.max_pixels,
    )
    names = names_of(arguments.models)
    if arguments.destination:
        require_writable_folder(arguments.destination)
    predictors = {}
    for name, named in names.items():
        path, chosen = split_runtime(named)
        options = predictor_options(arguments) | chosen
        predictors[name] = Predictor(path, **options)
    print_message(f"{data.name}: checking {len(data.pairs)} images and labels", sys.stderr)
    settings = {key: value for key, value in vars(arguments).items() if key not in NO_SETTINGS}
    with progress_bar("images") as progress:
        evaluation = evaluate(predictors, data, settings=settings, progress=progress)
    if evaluation.partial:
        print_message(
            f"interrupted after {evaluation.images} of {evaluation.total} images", sys.stderr
        )
    if arguments.destination:
        contents = {
            "evaluation.json": evaluation.to_json() + "\n",
            "evaluation.md": evaluation.to_markdown(),
        }
        write_report(arguments.destination, contents)
    print_report(evaluation.to_markdown())
    return EXIT_INTERRUPTED if evaluation.partial else 0
