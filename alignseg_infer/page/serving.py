"""Binding the page's address, and serving it until the process is told to end."""

import asyncio
import contextlib
import errno
import importlib.util
import ipaddress
import logging
import os
import re
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alignseg_infer.choices import check_kinds
from alignseg_infer.errors import INSTALL_PAGE, MissingDependencyError, OptionError
from alignseg_infer.files.writing import temporary_folder
from alignseg_infer.page.work import MOST_FILES, MOST_MEGABYTES, Model, Page

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 7860
MOST_PORT = 65535
MOST_UPLOADED = 4 << 30  # bytes of all files that lie in the folder, or are on their way there
MOST_IN_UPLOAD = (MOST_FILES * MOST_MEGABYTES + 1) << 20  # bytes of one request
MOST_ASKED = 1 << 20  # bytes of any other request
LONGEST_PAUSE = 30.0  # seconds in which nothing of an upload comes
LONGEST_GOODBYE = 2  # seconds for requests that are still running
SWITCHES = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "GRADIO_SSR_MODE": "False",
}
# Nothing may come from, or go to, another machine. Gradio evaluates code and styles of its own.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'self'"
)


@check_kinds
def bind(host: str = HOST, port: int = PORT) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        OptionError: The address cannot be used, or another program uses it.
    """
    if not 0 <= port <= MOST_PORT:  # getaddrinfo takes 65536 for 0
        raise _port_error(port, "there is no such port")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind)
    except (OSError, OverflowError, UnicodeError) as error:
        raise OptionError(
            f"host={host} is not an address: {error}",
            "a name or address of this machine",
            f"host={HOST}",
        ) from error
    try:
        if os.name == "posix":  # on Windows it would allow two programs at one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        raise _address_error(host, port, error) from error
    return listening


def _address_error(host: str, port: int, error: OSError | OverflowError) -> OptionError:
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        return OptionError(
            f"port={port} is in use by another program",
            "a port that is free, or 0 for any that is free",
            "port=0",
        )
    if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        expected = "a name or address of this machine"
        return OptionError(
            f"host={host} is not an address of this machine", expected, f"host={HOST}"
        )
    return _port_error(port, str(error))


def _port_error(port: int, reason: str) -> OptionError:
    return OptionError(
        f"port={port} cannot be used: {reason}",
        f"a port from 1024 to {MOST_PORT}, or 0 for any that is free",
        f"port={PORT}",
    )


def address_of(listening: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port}/"  # noqa: S104


def is_private(listening: socket.socket) -> bool:
    """Return whether only this machine reaches the address."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def serve(models: Sequence[Model], listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C or a signal; all uploads are gone then.

    Args:
        models: What segments, at least one.
        listening: From `bind`. It is closed at the end.
        ready: Called with the address when the page is about to be served.

    Raises:
        MissingDependencyError: Gradio is not installed.
        KeyboardInterrupt: Ctrl-C was typed.
    """
    if not is_private(listening):
        host = listening.getsockname()[0]
        logger.warning(
            "host=%s: whoever reaches this machine through the network can use the page, without a "
            "password: upload files, and take its processor and memory. Pictures travel "
            "unencrypted. Without host= only this machine reaches it",
            host,
        )
    with listening, temporary_folder() as folder:
        app = make_app(models, folder, private=is_private(listening))
        import uvicorn

        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=LONGEST_GOODBYE, access_log=False
        )
        ready(address_of(listening))
        uvicorn.Server(config).run(sockets=[listening])


def require_gradio() -> None:
    """Check that Gradio is installed, without loading it, which takes seconds.

    Raises:
        MissingDependencyError: It is not.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingDependencyError(
            "the page needs the package gradio, which is not installed",
            "the package gradio",
            INSTALL_PAGE,
        )


def make_app(models: Sequence[Model], folder: Path, *, private: bool) -> Any:
    """Return the page as an ASGI application.

    Args:
        models: What segments.
        folder: For uploads and videos.
        private: Whether only this machine may reach it.

    Raises:
        MissingDependencyError: Gradio is not installed.
    """
    require_gradio()
    os.environ.update(SWITCHES, GRADIO_TEMP_DIR=str(folder))
    import fastapi
    import gradio as gr

    from alignseg_infer.page.blocks import HEAD, STYLE, make_blocks, make_theme
    from alignseg_infer.page.routes import add_routes

    page = Page(models, folder)
    app = fastapi.FastAPI(openapi_url=None)
    add_routes(app, page.results)
    gr.mount_gradio_app(
        app,
        make_blocks(page),
        path="/",
        theme=make_theme(),
        head=HEAD,
        css_paths=STYLE,
        footer_links=[],
        run_history=False,
        pwa=False,
        ssr_mode=False,
        mcp_server=False,
        max_file_size=f"{MOST_MEGABYTES}mb",
    )
    return _Guard(app, folder, private=private)


class _Guard:
    """Keeps the page to itself, and the disk and the memory from being filled.

    Nothing of other machines may be loaded, and a private page does not answer pages of others.

    Args:
        app: The page.
        folder: Where uploads lie.
        private: Whether only this machine may reach it.
    """

    def __init__(self, app: Any, folder: Path, *, private: bool) -> None:
        self._app, self._folder, self._private = app, folder, private
        self._coming: list[int] = []  # bytes of each upload that is on its way

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._private and not _is_own(scope):
            await _refuse(send, 421, "This page is for the machine that serves it.")
        elif not scope["path"].rstrip("/").endswith("/upload"):
            await self._app(scope, _up_to(MOST_ASKED, receive), _adding_policy(send))
        elif (size := _announced_size(scope)) is None:
            await _refuse(send, 411, "An upload has to say how large it is.")
        elif size > MOST_IN_UPLOAD:
            reason = f"Up to {MOST_FILES} files of {MOST_MEGABYTES} MB each are taken at once."
            await _refuse(send, 413, reason)
        elif self._uploaded() + sum(self._coming) + size > MOST_UPLOADED:
            await _refuse(send, 507, "Too many files wait to be segmented. Try again in a minute.")
        else:
            await self._take(size, scope, receive, send)

    async def _take(self, size: int, scope: Any, receive: Any, send: Any) -> None:
        """Take an upload. If it breaks off, Gradio leaves what came until then."""
        self._coming.append(size)
        try:
            await self._app(scope, _without_pause(receive), _adding_policy(send))
        finally:
            self._coming.remove(size)
            if not self._coming:
                for path in self._folder.glob(f"{tempfile.gettempprefix()}*"):
                    with contextlib.suppress(OSError):  # among others, a folder of a video
                        path.unlink()

    def _uploaded(self) -> int:
        """Return the bytes of what has come; what is coming lies directly in the folder."""
        sizes = 0
        for path in self._folder.glob("*/**/*"):
            with contextlib.suppress(OSError):  # it was removed meanwhile
                sizes += path.stat().st_size
        return sizes


def _announced_size(scope: Any) -> int | None:
    """Return the bytes of a request's body; None if it does not say, or in a strange manner."""
    announced = dict(scope["headers"]).get(b"content-length", b"")
    return int(announced) if re.fullmatch(rb"[0-9]{1,15}", announced) else None


def _up_to(limit: int, receive: Any) -> Callable[[], Any]:
    """Return a `receive` that hangs up after `limit` bytes of a request's body."""
    left = limit

    async def receiving() -> Any:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {"type": "http.disconnect"}

    return receiving


def _without_pause(receive: Any) -> Callable[[], Any]:
    """Return a `receive` that hangs up if nothing comes: an upload takes room until it ends."""

    async def receiving() -> Any:
        try:
            return await asyncio.wait_for(receive(), LONGEST_PAUSE)
        except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
            return {"type": "http.disconnect"}

    return receiving


def _is_own(scope: Any) -> bool:
    """Return whether a request names this machine, and comes from a page of it."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    named = [headers.get(b"host", "")]
    if b"origin" in headers:
        named.append(headers[b"origin"].partition("//")[2])
    return all(_is_this_machine(re.sub(r":\d+$", "", name).strip("[]")) for name in named)


def _is_this_machine(name: str) -> bool:
    """Return whether a name can only be this machine; any other may lead here (DNS rebinding)."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


async def _refuse(send: Any, status: int, reason: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": reason.encode()})


def _adding_policy(send: Any) -> Callable[[Any], Any]:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", POLICY.encode())
            message = {**message, "headers": [*message["headers"], policy]}
        await send(message)

    return sending
