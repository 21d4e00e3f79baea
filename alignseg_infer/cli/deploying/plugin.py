"""The argument for plugins, where another program loads them."""

import argparse

from alignseg_infer.files.reading import user_path


def add_registering_plugin(parser: argparse.ArgumentParser) -> None:
    """Define ``--plugin``, which has no default: the library goes into the folder."""
    parser.add_argument(
        "--plugin",
        type=user_path,
        metavar="LIBRARY",
        help="for a model with the sampler plugin: the library that registers its plugins when it "
        "is loaded (in a checkout, plugins/build/libalignseg_plugin_at_load.so)",
    )
