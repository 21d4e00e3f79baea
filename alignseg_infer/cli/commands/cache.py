"""``alignseg cache``: lists and clears what takes long to make, such as engines."""

import argparse
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignseg_infer.cli.streams import print_message
from alignseg_infer.errors import OptionError
from alignseg_infer.files import caches

if TYPE_CHECKING:
    from alignseg_infer.trt.cache.store import CachedEngine

HELP = (
    "List or clear cached results that take long to make: engines built for .onnx files, such as "
    "by alignseg predict --runtime tensorrt, calibrations for INT8, models that OpenVINO compiled, "
    "checks of bfloat16, and the choices of alignseg tune."
)
OTHERS = {  # besides engines
    caches.CALIBRATIONS: "calibrations",
    caches.COMPILED: "compiled models",
    caches.CHECKS: "bfloat16 checks",
    caches.CHOICES: "tuned choices",
}
SECONDS_A_DAY = 86400
EXAMPLE = "Example: alignseg cache clear --older-than 30"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "action",
        choices=["list", "clear"],
        help="list shows the cache, most recently used first; clear empties it",
    )
    parser.add_argument(
        "--older-than",
        type=float,
        metavar="DAYS",
        help="with clear, remove only what has not been used for this many days (default: all)",
    )


def run(arguments: argparse.Namespace) -> int:
    """List or remove what is kept, and print how much room it takes or took."""
    from alignseg_infer.trt.cache.store import cache_folder, cached_engines, clear_cache

    days = arguments.older_than
    if arguments.action == "list" and days is not None:
        raise OptionError(
            "--older-than with list", "--older-than with clear", "alignseg cache list"
        )
    if days is not None and not days >= 0:
        raise OptionError(f"--older-than {days:g}", "0 days or more", "--older-than 30")
    if arguments.action == "list":
        for engine in cached_engines():
            print_message(_describe(engine))
        print_message(_sum_up("engines", cached_engines(), f"in {cache_folder()}"))
        for kind, what in OTHERS.items():
            print_message(_sum_up(what, caches.kept_files(kind), f"in {caches.cache_folder(kind)}"))
        return 0
    removed, busy = clear_cache(days)
    print_message(_sum_up("engines", removed, f"removed from {cache_folder()}"))
    _clear_others(days)
    if busy:
        print_message(_sum_up("engines", busy, "left, since another process builds them"))
    return 0


def _clear_others(days: float | None) -> None:
    before = math.inf if days is None else time.time() - days * SECONDS_A_DAY
    for kind, what in OTHERS.items():
        old = [file for file in caches.kept_files(kind) if file.used <= before]
        for file in old:
            caches.remove_file(file)
        print_message(_sum_up(what, old, f"removed from {caches.cache_folder(kind)}"))


def _describe(engine: "CachedEngine") -> str:
    used = time.strftime("%Y-%m-%d", time.localtime(engine.used))
    size = f"{engine.size / 1e6:.1f} MB, used {used}"
    facts = engine.facts
    if facts is None or facts.spec.export is None:
        return f"not complete: it is being built, or will be built again; {size}\n  {engine.plan}"
    verified = "verified" if facts.verification else "not verified"
    if facts.verification and not facts.verification.vouches_for(facts.spec.export.precision):
        verified += f" with a gate of {facts.verification.required_agreement:.1%} only"
    gpu = f" on {facts.gpu.name}" if facts.gpu else ""
    return (
        f"{engine.model}: {facts.spec.export.precision}, {facts.flavour} "
        f"{facts.tensorrt_version}{gpu}, {facts.profile.minimum} to {facts.profile.maximum}, "
        f"{verified}; {size}\n  {engine.plan}"
    )


def _sum_up(what: str, things: "Sequence[CachedEngine | caches.KeptFile]", where: str) -> str:
    size = sum(thing.size for thing in things) / 1e6
    return f"{len(things)} {what if len(things) != 1 else what[:-1]}, {size:.1f} MB, {where}"
