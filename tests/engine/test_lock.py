"""One group of processes at a time in a folder."""

import fcntl
import os
import socket

import pytest

from gapless.engine import lock
from gapless.engine.lock import locked
from gapless.errors import DataError


def test_a_lock_says_whose_it_is_and_folders_that_stay_empty_go_again(tmp_path):
    folder = tmp_path / "runs" / "mine"
    (tmp_path / "kept").mkdir()
    with locked(folder):
        assert (folder / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    with locked(tmp_path / "kept"):
        pass
    assert os.listdir(tmp_path / "kept") == []  # it was there before
    with locked(folder):
        (tmp_path / "runs" / "other").touch()
    assert os.listdir(tmp_path / "runs") == ["other"]
    with locked(folder):
        (folder / "config.yaml").touch()
    assert sorted(os.listdir(folder)) == ["config.yaml", "lock"]


@pytest.mark.parametrize(("text", "owner"), [("process 7 on x", "process 7 on x"), ("", "another process")])
def test_a_folder_in_use_names_its_owner(tmp_path, monkeypatch, text, owner):
    (tmp_path / "lock").write_text(text)
    asked = []

    def held(file, how):
        asked.append(how)
        raise BlockingIOError

    monkeypatch.setattr(lock.fcntl, "lockf", held)
    with pytest.raises(DataError) as error, locked(tmp_path):
        pass
    assert str(error.value) == f"{tmp_path} is in use by {owner}; stop it, or give this run another name"
    assert asked == [fcntl.LOCK_EX | fcntl.LOCK_NB]
    assert (tmp_path / "lock").read_text() == text


def test_a_file_system_without_locks_is_no_end(tmp_path, monkeypatch, caplog):
    def fails(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", fails)
    with locked(tmp_path):
        (tmp_path / "work").touch()
    output = f"{tmp_path} cannot be locked (No locks available): let no other process train there"
    assert caplog.messages == [output]
