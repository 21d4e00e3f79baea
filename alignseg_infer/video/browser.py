"""A page on this machine that shows a video in the browser, as a stream of JPEG pictures."""

import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from alignseg_infer.arrays import Image
from alignseg_infer.errors import DeviceError
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.video.display import Pace

LOOPBACK = "127.0.0.1"
BOUNDARY = "picture"
LONGEST_GOODBYE = 1.0  # seconds until browsers have the last picture
LONGEST_WAIT = 0.5  # seconds; on Windows, Ctrl-C cannot interrupt an endless wait
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>alignseg video</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="dark">
<style>body{margin:0;background:#0b0f19;color:#e5e7eb;font:16px system-ui,sans-serif;display:grid;
min-height:100vh;place-items:center}main{display:grid;gap:.8rem;justify-items:center;padding:1rem}
img{max-width:100%;max-height:85vh;border-radius:.4rem}button{font:inherit;color:#fff;border:0;
background:#0f766e;border-radius:.4rem;padding:.5rem 1.2rem;cursor:pointer}</style>
<main><img src="/stream" alt="The segmented video"><button>End</button></main>
<script>const button = document.querySelector("button"), ended = () => {
  clearInterval(asking); button.replaceWith("The video has ended."); };
const asking = setInterval(() => fetch("/").catch(ended), 1000);
button.onclick = () => fetch("/end", {method: "POST"}).catch(() => 0).then(ended);
</script></html>"""


class BrowserDisplay:
    """A `Display` that is a page. Its button ends the video.

    A video with times of its own begins when somebody looks, who sees it up to its last picture. A
    browser that goes away, or is slow, holds up nothing.

    Raises:
        DeviceError: No port is free.
    """

    def __init__(self) -> None:
        self._pace = Pace()
        self._changed = threading.Condition()
        self._picture: Image | None = None
        self._number = 0
        self._viewers = 0
        self._ended = threading.Event()
        self._watched = threading.Event()
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        except OSError as error:
            raise DeviceError(
                f"no page can be served at {LOOPBACK}: {error}", "a free port", "show='window'"
            ) from error
        self._server.daemon_threads = True
        self.address = f"http://{LOOPBACK}:{self._server.server_port}/"
        self.where = f"{self.address}, to open in a browser; Ctrl-C ends it"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def show(self, picture: Image, due: Fraction | None) -> bool:
        """Show the next picture; return whether to go on."""
        while due is not None and not self._watched.wait(LONGEST_WAIT):
            if self._ended.is_set():
                return False
        if self._ended.wait(self._pace.seconds_until(due)):
            return False
        with self._changed:
            self._picture, self._number = picture, self._number + 1
            self._changed.notify_all()
        return True

    def close(self) -> None:
        """End the page."""
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._viewers == 0, LONGEST_GOODBYE)
        self._server.shutdown()
        self._server.server_close()

    def _next(self, number: int) -> tuple[int, Image] | None:
        """Return the first picture after `number`, and its number; None at the end."""
        with self._changed:
            while self._number == number and not self._ended.is_set():
                self._changed.wait(LONGEST_WAIT)
            if self._picture is None or self._number == number:
                return None
            return self._number, self._picture

    def _count_viewer(self, change: int) -> None:
        with self._changed:
            self._viewers += change
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        display = self

        class Handler(BaseHTTPRequestHandler):
            """Answers one browser."""

            def do_GET(self) -> None:
                """Send the page or the stream."""
                if not self._is_own():
                    self.send_error(421)
                elif self.path == "/stream":
                    self._send_stream()
                elif self.path == "/":
                    self._begin("text/html; charset=utf-8")
                    self.wfile.write(PAGE.encode())
                else:
                    self.send_error(404)

            def do_POST(self) -> None:
                """End the video."""
                if self.path != "/end" or not self._is_own():
                    self.send_error(404)
                    return
                display._ended.set()
                self._begin("text/plain")

            def _is_own(self) -> bool:
                """Return whether the address is ours: a foreign page may lead another one here."""
                own = f"{LOOPBACK}:{display._server.server_port}"
                allowed = (own, own.replace(LOOPBACK, "localhost"))
                origin = self.headers.get("Origin", f"http://{own}").removeprefix("http://")
                return self.headers.get("Host") in allowed and origin in allowed

            def _begin(self, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "no-store")
                self.end_headers()

            def _send_stream(self) -> None:
                """Send pictures. Browsers show one when they read the boundary behind it."""
                display._count_viewer(+1)
                display._watched.set()
                number = 0
                try:
                    self._begin(f"multipart/x-mixed-replace; boundary={BOUNDARY}")
                    self.wfile.write(f"--{BOUNDARY}\r\n".encode())
                    while (found := display._next(number)) is not None:
                        number, picture = found
                        jpeg = encode_image(picture, ".jpg")
                        head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode())
                except OSError:  # the browser went away
                    return
                finally:
                    display._count_viewer(-1)

            def log_message(self, format: str, *values: object) -> None:
                """Print nothing."""

        return Handler
