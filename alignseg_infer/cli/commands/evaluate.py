"""``alignseg eval``: models against labelled images."""

import argparse
import sys
from pathlib import Path

from alignseg_infer.cli.arguments.inference import (
    add_inference_arguments,
    names_of,
    predictor_from,
)
from alignseg_infer.cli.arguments.values import add_destination, choices_of
from alignseg_infer.cli.reports import write_report
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.evaluation.evaluate import evaluate
from alignseg_infer.files import require_writable_folder

HELP = "Score models on labelled images: IoU, accuracy, boundary F1, speed; several side by side."
EXAMPLE = "Example: alignseg eval alignseg.onnx --dataset cityscapes --root DATA -o out/"
EXIT_INTERRUPTED = 130
NO_SETTINGS = (
    "models",
    "root",
    "destination",
    "run",
    "parser",
    "debug",
)  # of no influence on the scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument(
        "models", nargs="+", type=Path, help="exported .onnx files, checkpoints, or demo"
    )
    parser.add_argument("--dataset", choices=choices_of(Dataset), required=True, help="the layout")
    parser.add_argument("--root", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--split", help="train, val or test (default: val; a folder has none)")
    parser.add_argument("--max-images", type=int, metavar="N", help="use only the first N images")
    add_destination(parser, "folder for evaluation.json and evaluation.md", required=False)
    add_inference_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluates, prints the tables, and writes them if asked to."""
    from alignseg_infer.cli.progress import progress_bar

    data = find_labelled_images(
        Dataset(arguments.dataset), arguments.root, arguments.split, arguments.max_images
    )
    names = names_of(arguments.models)
    if arguments.destination:
        require_writable_folder(arguments.destination)
    predictors = {name: predictor_from(arguments, path) for name, path in names.items()}
    print(f"{data.name}: checking {len(data.pairs)} images and labels", file=sys.stderr)
    settings = {key: value for key, value in vars(arguments).items() if key not in NO_SETTINGS}
    with progress_bar("images") as progress:
        evaluation = evaluate(predictors, data, settings=settings, progress=progress)
    if evaluation.partial:
        print(f"interrupted after {evaluation.images} of {evaluation.total}", file=sys.stderr)
    if arguments.destination:
        contents = {
            "evaluation.json": evaluation.to_json() + "\n",
            "evaluation.md": evaluation.to_markdown(),
        }
        write_report(arguments.destination, contents)
    print(evaluation.to_markdown(), end="")
    return EXIT_INTERRUPTED if evaluation.partial else 0
