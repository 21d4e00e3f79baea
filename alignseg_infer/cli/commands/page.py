"""``alignseg page``: a page for the browser, on which models segment what is dropped on it."""

import argparse
from functools import partial

from alignseg_infer.cli.arguments.inference import (
    add_inference_arguments,
    names_of,
    predictor_from,
)
from alignseg_infer.cli.arguments.values import MODEL_HELP
from alignseg_infer.cli.streams import print_message
from alignseg_infer.files.reading import user_path

HELP = "Try models in the browser: drop pictures or videos on a page, or use the camera."
EXAMPLE = "Example: alignseg page demo, then open the address that it prints. Ctrl-C ends it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "models", nargs="+", type=user_path, help=f"{MODEL_HELP}; several are shown side by side"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve the page at; with 0.0.0.0 the whole network can use it without a "
        "password (default: 127.0.0.1, which only this machine can reach)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=7860,
        metavar="N",
        help="port to serve the page at; 0 for any that is free (default: 7860)",
    )
    add_inference_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until it is told to end."""
    from alignseg_infer.backends import open_backend
    from alignseg_infer.page.serving import bind, require_gradio, serve
    from alignseg_infer.page.work import Model

    require_gradio()
    listening = bind(arguments.host, arguments.port)
    with listening:
        models = [
            Model(
                name,
                predictor_from(arguments, path),
                partial(
                    open_backend,
                    path,
                    device=arguments.device,
                    threads=arguments.threads,
                    runtime=arguments.runtime,
                ),
                arguments.size,
            )
            for name, path in names_of(arguments.models).items()
        ]
        serve(models, listening, _print_address)
    return 0


def _print_address(address: str) -> None:
    print_message(f"the page is at {address}\n  Ctrl-C ends it")
