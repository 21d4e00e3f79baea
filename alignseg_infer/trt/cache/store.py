"""The folder of engines that were built for ``.onnx`` files: find, build once, list, clear.

Each engine has a folder, named by its key, with three files: the plan, its facts, and a record of
what the engine depends on. The record is written last, so an engine that was not finished has none.
An engine is used only if all three belong together and to its key; otherwise it is built again. A
lock file beside the folder makes all others wait for the one process that builds. The operating
system frees the lock of a process that died. Lock files are never deleted, since a process that
waits for a deleted one would not see the next.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from alignseg_infer.errors import (
    AlignSegError,
    EngineError,
    OutputError,
)
from alignseg_infer.files import caches
from alignseg_infer.files.caches import FOLDER_VARIABLE
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.files.writing import require_writable_folder, write_atomically
from alignseg_infer.trt.cache.needs import Needs
from alignseg_infer.trt.engine_file import EngineFacts, read_facts

PLAN, RECORD = "model.engine", "needs.json"
SECONDS_A_DAY = 86400
_CHOOSE_FOLDER = (
    f"export {FOLDER_VARIABLE}=FOLDER, a folder on a disk with room; alignseg cache clear makes "
    "room where it is"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedEngine:
    """An engine in the cache.

    Attributes:
        plan: The plan file.
        model: Name of the ``.onnx`` file that it was built for.
        facts: The engine's facts; None for what is damaged or was not finished.
        size: Bytes that it takes.
        used: When it was last used, in seconds since 1970.
    """

    plan: Path
    model: str
    facts: EngineFacts | None
    size: int
    used: float


def cache_folder() -> Path:
    """Return the folder of the engine cache, which may not exist yet; see `files.caches`."""
    return caches.cache_folder("engines")


def find_or_build(needs: Needs, model: str, build: Callable[[Path], object]) -> tuple[Path, bool]:
    """Return the plan file of the engine with these needs; build it if the cache does not have it.

    Args:
        needs: What the engine depends on.
        model: Name of the ``.onnx`` file, for people.
        build: Writes and verifies an engine, with its facts, at the path of the plan file.

    Returns:
        The plan file, and whether it was built now.

    Raises:
        OutputError: The folder cannot be written to, or its disk is full.
        AlignSegError: What `build` raises.
    """
    folder = cache_folder() / needs.key
    if _fault(folder, needs) is None:  # this needs no permission to write
        return _use(folder), False
    with _locked(folder):
        fault = _fault(folder, needs)
        if fault is None:  # another process has built it
            return _use(folder), False
        if folder.exists():
            logger.warning("the engine in %s is built again: %s", folder, fault)
        _build(folder, needs, model, build)
    return folder / PLAN, True


def cached_engines() -> list[CachedEngine]:
    """Return what is in the cache, the last used first."""
    folder = cache_folder()
    entries = folder.iterdir() if folder.is_dir() else ()
    found = [_describe(entry) for entry in entries if caches.KEY.fullmatch(entry.name)]
    return sorted(filter(None, found), key=lambda engine: -engine.used)


def clear_cache(older_than: float | None = None) -> tuple[list[CachedEngine], list[CachedEngine]]:
    """Remove engines from the cache.

    Args:
        older_than: Remove only those that were not used for this many days; None for all.

    Returns:
        The engines that were removed, and those that stay because they are being built.

    Raises:
        OutputError: They cannot be removed.
    """
    before = None if older_than is None else time.time() - older_than * SECONDS_A_DAY
    removed, busy = [], []
    for engine in cached_engines():
        if before is not None and engine.used > before:
            continue
        try:
            with _locked(engine.plan.parent, wait=False):
                _remove(engine.plan.parent)
            removed.append(engine)
        except filelock.Timeout:
            busy.append(engine)
    return removed, busy


def _fault(folder: Path, needs: Needs) -> str | None:
    """Return why the engine in `folder` cannot be used for these needs, or None if it can."""
    try:
        record = _read_record(folder)
        if record.get("needs") != json.loads(needs.to_json()):
            return "it was built for something else"
        facts = read_facts(folder / PLAN)
        if (facts.sha256, _hash_spec(facts)) != (
            record.get("engine_sha256"),
            record.get("spec_sha256"),
        ):
            return "its facts belong to another engine"
        if facts.sha256 != sha256_of(folder / PLAN):
            return "the plan file has changed"
    except (OSError, ValueError) as error:
        return f"it is not complete ({error})"
    except EngineError as error:
        return error.problem
    return None


def _hash_spec(facts: EngineFacts) -> str:
    """Return a hash of how images are prepared and labels named, which `verify` leaves as it is."""
    return hashlib.sha256(facts.spec.to_json().encode()).hexdigest()


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{RECORD} is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"{RECORD} holds no object")  # noqa: TRY004 - callers catch ValueError
    return record


def _use(folder: Path) -> Path:
    """Note that the engine is used now, if the folder can be written to."""
    with contextlib.suppress(OSError):
        os.utime(folder / RECORD)
    return folder / PLAN


def _build(folder: Path, needs: Needs, model: str, build: Callable[[Path], object]) -> None:
    _remove(folder)
    plan = folder / PLAN
    try:
        build(plan)
        record = {
            "needs": json.loads(needs.to_json()),
            "model": model,
            "engine_sha256": read_facts(plan).sha256,
            "spec_sha256": _hash_spec(read_facts(plan)),
        }
        with write_atomically(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OutputError as error:
        raise _not_kept(error) from error
    finally:
        if not (folder / RECORD).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of an engine's folder.

    Raises:
        OutputError: There can be no lock here.
        filelock.Timeout: Another process holds it, and `wait` is false.
    """
    try:
        require_writable_folder(folder.parent)
    except OutputError as error:
        raise _not_kept(error) from error
    lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        _acquire(lock, wait)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, filelock.Timeout):
            raise
        raise OutputError(
            f"{folder.parent} cannot be locked: {error}",
            "a folder on a disk that has file locks",
            _CHOOSE_FOLDER,
        ) from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: filelock.BaseFileLock, wait: bool) -> None:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if not wait:
            raise
        logger.info("another process builds this engine; waiting for it")
        lock.acquire()


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        problem = f"{folder} cannot be removed: {error.strerror or error}"
        raise OutputError(problem, "a folder of yours", _CHOOSE_FOLDER) from error


def _not_kept(error: OutputError) -> OutputError:
    if "temporary folder" in error.problem:  # it is full, not the cache
        return error
    problem = f"the engine cannot be kept in the cache: {error.problem}"
    return OutputError(problem, error.expected, _CHOOSE_FOLDER)


def _describe(folder: Path) -> CachedEngine | None:
    """Return what a folder in the cache holds; None for a file, or what is being removed."""
    try:
        size = sum(file.stat().st_size for file in folder.iterdir())
        marks = [folder / RECORD, folder]
        used = next(mark.stat().st_mtime for mark in marks if mark.exists())
    except (OSError, StopIteration):
        return None
    try:
        model, facts = str(_read_record(folder)["model"]), read_facts(folder / PLAN)
    except (OSError, ValueError, KeyError, AlignSegError):
        return CachedEngine(folder / PLAN, "?", None, size, used)
    return CachedEngine(folder / PLAN, model, facts, size, used)
