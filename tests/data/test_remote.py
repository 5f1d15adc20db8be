import contextlib
import socket
import threading
import time

import pytest

from gapless.data.manifest import remote_records
from gapless.data.remote import fetch, open_shard
from gapless.data.stream import ShardReader
from gapless.errors import DataError
from tests.data.test_shards import pairs, write_tar

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@contextlib.contextmanager
def answers(*scripts):
    """A server that, one connection after the other, sends bytes and waits seconds; the address and what was asked."""
    listening = socket.create_server(("127.0.0.1", 0))
    asked, ended = [], threading.Event()

    def serve():
        for script in scripts:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    asked.append(connection.recv(65536))
                    for step in script:
                        if isinstance(step, bytes):
                            connection.sendall(step)
                        elif ended.wait(step):
                            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        ended.set()
        listening.close()
        thread.join(2)


def test_a_server_that_goes_silent(tmp_path):
    data = write_tar(tmp_path / "0.tar", pairs(0, 6)).read_bytes()
    for script in ([b"", 60], [HEAD, 60], [HEAD + data[:9000], 60], [HEAD, *[b"x" * 50, 0.05] * 100]):
        with answers(script) as (url, _):
            raws = list(ShardReader(timeout=0.3, typical=6)(f"{url}/0.tar"))
        bad = [raw for raw in raws if hasattr(raw, "reason")]
        assert len(raws) == 6
        assert len(bad) == (3 if len(script[0]) > 9000 else 6)
        assert bad[-1].key == f"{url}/0.tar"
        assert "0.3 s (data.timeout)" in bad[-1].detail


def test_a_server_that_stays_silent_is_not_waited_for_at_each_shard():
    with answers(*[[b"", 60]] * 3) as (url, _):
        reader = ShardReader(timeout=0.2, typical=1)
        assert [len(list(reader(f"{url}/{k}.tar"))) for k in range(2)] == [1, 1]
        with pytest.raises(DataError, match="2.tar: no answer in 0.2 s .* the 2 shards before"):
            list(reader(f"{url}/2.tar"))


def test_a_command_that_goes_silent(tmp_path):
    path = write_tar(tmp_path / "0.tar", pairs(0, 3))
    began = time.monotonic()
    for command, good in (
        (f"cat {path}", 3),
        ("sleep 60", 0),
        (f"cat {path}; sleep 60", 3),
        ("exec 1>&-; sleep 60", 0),
    ):
        raws = list(ShardReader(timeout=0.3, typical=3)(f"pipe:{command}"))
        assert sum(hasattr(raw, "image") for raw in raws) == good
        assert command == f"cat {path}" or "0.3 s (data.timeout)" in raws[-1].detail
    assert time.monotonic() - began < 30
    (bad,) = ShardReader()("pipe:exit 7")
    assert bad.detail == "the command ended with exit code 7"


def test_passing_troubles_are_waited_for_and_others_are_not(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    busy, good = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"
    with answers([busy], [busy], [good]) as (url, asked):
        assert fetch(f"{url}/x y?s=1", 60) == b"ab"
    assert asked[-1].startswith(b"GET /x%20y?s=1 HTTP/1.1\r\n")
    assert pauses == [1, 2]
    with answers([b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"]) as (url, _):
        assert fetch(f"{url}/x", 60) is None
    with pytest.raises(DataError, match=r"data\.path: http://127\.0\.0\.1:1/x: .*refused"):
        fetch("http://127.0.0.1:1/x", 60)


def test_a_password_in_the_address_is_sent_and_a_redirection_goes_to_no_file(tmp_path):
    (tmp_path / "secret").write_text("secret")
    away = f"HTTP/1.1 302 Found\r\nLocation: file://{tmp_path}/secret\r\nContent-Length: 0\r\n\r\n".encode()
    with (
        answers([away]) as (url, asked),
        pytest.raises(OSError, match="unknown url type: file|Found"),
        open_shard(url.replace("//", "//me:a%20b@") + "/0.tar", 5) as file,
    ):
        assert file.read() != b"secret"
    assert b"Authorization: Basic bWU6YSBi\r\n" in asked[0]


def test_what_lies_beside_remote_shards():
    def records(text):
        missing = [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"]
        good = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text]
        with answers(missing, missing, good) as (url, _):
            return [r.samples for r in remote_records([f"{url}/0.tar?k=1", f"{url}/1.tar"], 5).values()]

    assert records(b'{"0.tar": 5}') == [5]
    for wrong in (
        b'{"0.tar": -5}',
        b'{"0.tar": "5"}',
        b'{"0.tar": 1e400}',
        b'{"0.tar": true}',
        b'{"0.tar": 10000001}',
        b'{"0.tar": 5',
    ):
        with pytest.raises(DataError, match=r"sizes\.json") as caught:
            records(wrong)
        assert "\n" not in str(caught.value)
    unfinished = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with (
        answers([b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"], [unfinished]) as (url, _),
        pytest.raises(DataError, match="has not finished these shards"),
    ):
        remote_records([f"{url}/0.tar"], 5)
