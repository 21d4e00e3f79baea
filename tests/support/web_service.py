"""The example web service, started on a port of its own on loopback."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.support.waiting import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
EXAMPLES = str(ROOT / "examples")
UVICORN = ("uvicorn", "--app-dir", EXAMPLES, "web_service:app", "--fd", "{socket}")
GUNICORN = (
    *("gunicorn", "--chdir", EXAMPLES, "--preload", "-k", "uvicorn_worker.UvicornWorker"),
    *("-b", "fd://{socket}", "web_service:app"),
)


@contextlib.contextmanager
def serve(command: Sequence[str], log: Path) -> Iterator[int]:
    """Run a server with `command` in this block, and check that it ends when it is told to.

    Args:
        command: The module of the server and its options; ``{socket}`` is the listening socket.
        log: Where its output goes.

    Yields:
        The port.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("w") as file:
        words = [word.format(socket=listener.fileno()) for word in command]
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            yield listener.getsockname()[1]
            process.terminate()
            process.wait(PATIENCE)
            assert eventually(lambda: not _group_lives(process.pid)), log.read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def post(
    port: int, body: bytes | Iterable[bytes], reply: str = "labels"
) -> tuple[int, str | None, bytes]:
    """Send an image file to /segment; return the status, the type of the content, and the content.

    The listening socket takes connections before the server does, so none has to be tried again.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", f"/segment?reply={reply}", body)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
