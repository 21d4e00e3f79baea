"""Checks and times the CUDA kernels and the network around them, and prints Markdown.

    python3 -m tests.benchmarks.kernels [--tables add,labels] [-o FILE]

Needs a GPU, PyTorch for CUDA, and cuda-python with NVRTC, which compiles the kernels; nvidia-ml-py
reports clocks and power. gpu_timing.py says how times are measured. Bytes are what must be read and
written once; bandwidth is compared with a device copy in the same table. Errors are relative to
float64 (L2); for labels they are the share of pixels that differ, for inputs they are grey levels,
and for confidence they are levels out of 255. The exit status is 1 if a row fails or is wrong.
"""

import argparse
import dataclasses
import gc
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from alignseg_infer.cuda.plans import ARGMAX_THREADS, PREPROCESS_THREADS, SAMPLE_THREADS
from tests.benchmarks.gpu_image_tables import input_tables, label_tables
from tests.benchmarks.gpu_network_tables import network_tables
from tests.benchmarks.gpu_rig import cuda_rig, machine
from tests.benchmarks.gpu_sampling_tables import add_tables, form_tables, sample_tables
from tests.benchmarks.gpu_timing import COPY, Rig, Table, describe, report, run_once
from tests.support.host_entries import ENTRIES

THREADS = {"upsample_argmax": ARGMAX_THREADS, "preprocess": PREPROCESS_THREADS}
TABLES: dict[str, Callable[[Rig], Iterator[Table]]] = {
    "add": add_tables,
    "forms": form_tables,
    "labels": label_tables,
    "inputs": input_tables,
    "sample": sample_tables,
    "networks": network_tables,
}
RESOURCES = "resources"  # not a table of times
CHOICES = (*TABLES, RESOURCES)
ALL_BUT_NETWORKS = ",".join(name for name in CHOICES if name != "networks")


def sections(rig: Rig, arguments: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    """Yield each table in Markdown, and whether all of its rows are right."""
    for name in arguments.tables:
        if name == RESOURCES:
            if not arguments.once:
                yield resources_report(rig)
            continue
        for table in guard_tables(TABLES[name](rig)):
            if isinstance(table, Exception):
                yield f"{name}: FAILED {describe(table)}", False
                continue
            chosen = pick_rows(table, arguments.only, copy=not arguments.once)
            if chosen is not None:
                yield (run_once if arguments.once else report)(rig, chosen)
            del table, chosen
            gc.collect()
            rig.release()


def guard_tables(tables: Iterator[Table]) -> Iterator[Table | Exception]:
    """Yield the tables; if one cannot be made, yield the error and stop."""
    try:
        yield from tables
    except Exception as error:
        yield error


def pick_rows(table: Table, pattern: str | None, *, copy: bool) -> Table | None:
    """Return the table with the rows that `pattern` picks, and the copy; None without rows."""
    rows = [row for row in table.rows if row.name != COPY]
    rows = [row for row in rows if re.search(pattern or "", f"{table.title}: {row.name}")]
    copies = [row for row in table.rows if row.name == COPY and copy]
    return dataclasses.replace(table, rows=[*copies, *rows]) if rows else None


def resources_report(rig: Rig) -> tuple[str, bool]:
    """Return a table of registers, spills and occupancy of each kernel."""
    lines = [
        "| kernel | registers | local bytes (spills) | shared bytes | blocks/SM | threads/SM |",
        "|---|---|---|---|---|---|",
    ]
    right = True
    for source, (_, names, _) in ENTRIES.items():
        threads = THREADS.get(source, SAMPLE_THREADS)
        for name in names:
            try:
                *values, blocks = rig.resources(source, name, threads)
                cells = [*map(str, values), str(blocks), str(blocks * threads)]
            except Exception as error:
                cells, right = [f"FAILED {describe(error)}", *[""] * 4], False
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines), right


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--tables",
        type=table_names,
        default=ALL_BUT_NETWORKS,
        help=f"comma-separated names of {', '.join(CHOICES)} (default: all but networks)",
    )
    parser.add_argument("--only", metavar="PATTERN", help="regular expression that selects rows")
    parser.add_argument("--rounds", type=int, default=30, help="how often a row is timed")
    parser.add_argument(
        "--warm", type=float, default=1.0, help="seconds of warm-up before each table"
    )
    parser.add_argument(
        "--once", action="store_true", help="run each row once after a warm-up, for a profiler"
    )
    parser.add_argument("--machine", action="store_true", help="describe the machine, and stop")
    parser.add_argument("--commit", help="what is measured (default: ALIGNSEG_COMMIT, or git's)")
    parser.add_argument("-o", "--destination", type=Path, help="file to write the text to as well")
    return parser


def table_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in CHOICES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown table {', '.join(unknown)}; choose from {', '.join(CHOICES)}"
        )
    return names


def benchmark(rig: Rig, arguments: argparse.Namespace, first: str) -> int:
    """Print and write what was asked for; return 1 if any of it is wrong."""
    texts, right, shown = [first], True, 0
    write(texts, arguments.destination)
    for text, alright in sections(rig, arguments):
        texts.append(text)
        right, shown = right and alright, shown + 1
        write(texts, arguments.destination)
    if not shown and not arguments.machine:
        print(f"no row matches {arguments.only!r}", file=sys.stderr)
        return 1
    return 0 if right else 1


def write(texts: Sequence[str], output: Path | None) -> None:
    """Print the last text, and write all of them to the file."""
    print(texts[-1], end="\n\n", flush=True)
    if output is not None:
        output.write_text("\n\n".join(texts) + "\n", encoding="utf-8")


def main() -> int:
    """Run what was asked for."""
    options = parser()
    arguments = options.parse_args()
    if not torch.cuda.is_available():
        options.error("PyTorch sees no CUDA device; run this on a GPU")
    if arguments.machine:
        arguments.tables = []
    torch.backends.cudnn.benchmark = True
    rig = cuda_rig(rounds=arguments.rounds, warm_seconds=arguments.warm)
    return benchmark(rig, arguments, machine(arguments.commit))


if __name__ == "__main__":
    sys.exit(main())
