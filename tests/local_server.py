"""A web server on this machine that serves one file, and misbehaves in the ways that are asked."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalServer:
    """Serves `content` at any path but /gone, with ranges, and notes what was asked for.

    Attributes:
        content: the file.
        etag: its ETag, None for none; a server with one honours If-Range.
        modified: its Last-Modified, None for none.
        ranges: whether ranges are served.
        breaks_after: the next answer's body ends after so many bytes.
        stalls_after: the next answer's body stops there, until `go_on` is set.
        claims: what Content-Length says instead of the truth; 0 leaves it out.
        code: an error that every answer is.
        redirects: where to send on, by path.
        headers: more headers of every file.
        asked: the (Range, If-Range) of each request.
    """

    def __init__(self, content):
        self.content, self.etag, self.modified, self.ranges = content, None, None, True
        self.breaks_after = self.stalls_after = self.claims = self.code = None
        self.redirects, self.headers, self.asked = {}, {}, []
        self.go_on = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def do_HEAD(self):
                server.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.url = f"{self.address}/file.bin"
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def close(self):
        self.go_on.set()
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler):
        self.asked.append((handler.headers.get("Range"), handler.headers.get("If-Range")))
        if handler.path in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[handler.path])
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        if self.code or handler.path == "/gone":
            return handler.send_error(self.code or 404)
        start = self.start_of(*self.asked[-1])
        if start and start >= len(self.content):
            return self.refuse_range(handler)
        return self.send(handler, start)

    def refuse_range(self, handler):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(self.content)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def start_of(self, wanted, condition):
        outdated = condition is not None and condition not in (self.etag, self.modified)
        if not wanted or not self.ranges or outdated:
            return 0
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    def send(self, handler, start):
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        own = {"ETag": self.etag, "Last-Modified": self.modified, **self.headers}
        for name, value in own.items():
            if value:
                handler.send_header(name, value)
        if start:
            rest = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
            handler.send_header("Content-Range", rest)
        length = len(body) if self.claims is None else self.claims
        if length:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        cut, self.breaks_after = self.breaks_after, None
        stall, self.stalls_after = self.stalls_after, None
        handler.wfile.write(body[: stall if cut is None else cut])
        if stall is not None:
            handler.wfile.flush()
            self.go_on.wait(10)
