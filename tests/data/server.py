"""Shards behind a local http server."""

import contextlib
import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.data.test_shards import pairs, write_tar


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Write six shards of seven pairs and their sizes to a folder, and serve it; the address."""
    for k in range(6):
        write_tar(folder / f"{k}.tar", pairs(7 * k, 7))
    sizes = {"samples": 42, "shards": [{"name": f"{k}.tar", "samples": 7} for k in range(6)]}
    (folder / "shards.json").write_text(json.dumps(sizes))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()
