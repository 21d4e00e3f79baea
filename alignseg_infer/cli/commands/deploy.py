"""``alignseg deploy``: writes the folder that another program takes a model from."""

import argparse
from typing import Any

from alignseg_infer.cli.deploying import cpp

HELP = "Write what another program needs to run a model, such as Triton Inference Server."
EXAMPLE = "Example: alignseg deploy triton alignseg.onnx -o repository/"
CONSUMERS: dict[str, Any] = {"cpp": cpp}  # a module of cli/deploying/ for each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments: a consumer, and its own arguments."""
    consumers = parser.add_subparsers(metavar="CONSUMER", required=True)
    for name, module in CONSUMERS.items():
        consumer = consumers.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=module.EXAMPLE
        )
        module.add_arguments(consumer)
        consumer.set_defaults(write=module.run, parser=consumer)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder for the chosen consumer."""
    code: int = arguments.write(arguments)
    return code
