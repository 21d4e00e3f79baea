"""The command ``alignseg``. Each of its commands parses, calls the library, and prints.

Results go to stdout; progress and errors go to stderr. The exit code is 0 after success, 1 after an
`AlignSegError`, 2 after wrong usage, 130 after Ctrl-C, and 143 after SIGTERM.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from alignseg_infer.backends.engine_order import building_engines_with
from alignseg_infer.cli.arguments.inference import build_with_bars
from alignseg_infer.cli.commands import (
    adopt,
    batch,
    bench,
    cache,
    demo,
    deploy,
    doctor,
    evaluate,
    export_onnx,
    export_trt,
    inspect_model,
    offsets,
    page,
    predict,
    sensitivity,
    tune,
    verify,
    video,
)
from alignseg_infer.cli.streams import (
    discard_stdout,
    make_streams_safe,
    naming_stdout,
    print_message,
    print_report,
)
from alignseg_infer.cli.termination import (
    EXIT_INTERRUPTED,
    FIRST_EXIT_CODE,
    interrupted_by_signals,
)
from alignseg_infer.cli.translation import translate, translate_error
from alignseg_infer.cli.usage import CommandParser, require_order
from alignseg_infer.errors import AlignSegError

Run: TypeAlias = Callable[[argparse.Namespace], int]

COMMANDS = {
    "demo": demo,
    "predict": predict,
    "batch": batch,
    "video": video,
    "page": page,
    "eval": evaluate,
    "bench": bench,
    "tune": tune,
    "inspect": inspect_model,
    "doctor": doctor,
    "export-onnx": export_onnx,
    "export-trt": export_trt,
    "adopt": adopt,
    "deploy": deploy,
    "verify": verify,
    "offsets": offsets,
    "sensitivity": sensitivity,
    "cache": cache,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``alignseg`` and return its exit code."""
    make_streams_safe()
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks how a command line may go on
        _print_completions(parser)
    typed = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(typed)
    if arguments.version:
        from alignseg_infer.cli.versions import version_text

        print_report(version_text(verbose=arguments.verbose))
        return 0
    if arguments.verbose:
        parser.error("--verbose needs --version")
    if "run" not in arguments:  # like pip: who types the name alone asks what there is
        parser.print_help()
        return 0
    require_order(arguments, typed)
    return run_reporting_errors(arguments.run, arguments)


def make_parser() -> CommandParser:
    """Return the parser of ``alignseg`` and its commands."""
    parser = CommandParser(
        prog="alignseg", description="Export, verify and run AlignSeg segmentation models."
    )
    _add_version(parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=module.EXAMPLE
        )
        module.add_arguments(command)
        _add_debug(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def main_of(module_name: str, argv: Sequence[str] | None = None) -> int:
    """Run one command as a script, such as ``export/to_onnx.py``, and return its exit code."""
    make_streams_safe()
    module = COMMANDS[module_name]
    parser = CommandParser(description=module.HELP, epilog=module.EXAMPLE)
    module.add_arguments(parser)
    _add_debug(parser)
    parser.set_defaults(parser=parser)
    return run_reporting_errors(module.run, parser.parse_args(argv))


def run_reporting_errors(run: Run, arguments: argparse.Namespace) -> int:
    """Run a command; turn errors and signals into a message in its words, and an exit code."""
    _log_to_stderr(arguments.parser)
    signals: list[int] = []
    try:  # a signal may arrive as soon as it is waited for, and until it no longer is
        with building_engines_with(build_with_bars), interrupted_by_signals(signals):
            code = run(arguments)
            with naming_stdout():
                sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        code = 1
    except (KeyboardInterrupt, Exception) as error:
        code = _report(error, arguments)
    return FIRST_EXIT_CODE + signals[0] if signals and code == EXIT_INTERRUPTED else code


def _report(error: BaseException, arguments: argparse.Namespace) -> int:
    """Print what ended a command, and return its exit code; raise what is nobody's mistake."""
    if isinstance(error, KeyboardInterrupt):
        print_message("interrupted", sys.stderr)
        return EXIT_INTERRUPTED
    if not isinstance(error, AlignSegError):
        raise error
    translate_error(error, arguments.parser)
    if arguments.debug:
        raise error
    print_message(f"error: {error}", sys.stderr)
    return 1


def _print_completions(parser: argparse.ArgumentParser) -> None:
    """Print how the command line that a shell shows may go on, and exit."""
    try:
        import argcomplete
    except ImportError:
        sys.exit(1)  # the shell then completes names of files
    argcomplete.autocomplete(parser)


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="with --version, also show the versions of all runtimes, the CPU, the GPU and its "
        "driver",
    )


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


class _StderrHandler(logging.Handler):
    """Writes to the current `sys.stderr`, in the words of the command that runs."""

    parser: argparse.ArgumentParser
    said: frozenset[str]

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message, unless it is about things that earlier ones were about."""
        about: frozenset[str] = getattr(record, "about", frozenset())
        if about and about <= self.said:
            return
        self.said |= about
        print_message(translate(self.format(record), self.parser), sys.stderr)


def _log_to_stderr(parser: argparse.ArgumentParser) -> None:
    logger = logging.getLogger("alignseg_infer")
    if not logger.handlers:
        logger.addHandler(_StderrHandler())
    for handler in logger.handlers:
        if isinstance(handler, _StderrHandler):  # may come from an earlier run in this process
            handler.parser, handler.said = parser, frozenset()
    logger.setLevel(logging.INFO)
