"""Stores on the loopback that tests start themselves: an S3 server, a web server that knows ranges."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@contextmanager
def s3_server():
    """An S3 server of moto's; the environment says where it is."""
    import fsspec
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ACCESS_KEY_ID": "me",
            "SECRET_ACCESS_KEY": "hush",
            "DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
        S3FileSystem.clear_instance_cache()
        fsspec.filesystem("s3").mkdir("bkt")
        yield f"http://{host}:{port}"
        S3FileSystem.clear_instance_cache()
    server.stop()


class Web(ThreadingHTTPServer):
    """Serves a folder by ranges; `fails` requests are refused first, `sent` counts bytes, `token` is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.fails, self.sent, self.token, self.ranges = folder, 0, 0, "", True
        self.cuts = 0
        self.at = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name, _, query = self.path.partition("?")
        file, cut = self.server.folder / name.lstrip("/"), 0
        status, body, low = 200, b"", 0
        if self.server.token and f"token={self.server.token}" not in query:
            status = 403
        elif self.server.fails:
            self.server.fails -= 1
            status = 503
        elif not file.is_file():
            status = 404
        else:
            body = whole = file.read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if found and self.server.ranges:
                low, status = int(found[1]), 206
                body = whole[low : int(found[2] or len(whole)) + 1]
            if self.server.cuts and self.command == "GET":
                self.server.cuts -= 1
                cut = 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {low}-{low + len(body) - 1}/{len(whole)}")
        if cut:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) - cut])
            self.server.sent += len(body) - cut
        self.close_connection = bool(cut)

    def log_message(self, *_):
        pass


@contextmanager
def web_server(folder: Path):
    """A web server of a folder."""
    server = Web(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
