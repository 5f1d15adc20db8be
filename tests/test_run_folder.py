import contextlib
import errno
import hashlib
import os
from pathlib import Path
from unittest import mock

import pytest
from safetensors import SafetensorError

from gapless.errors import DataError
from gapless.run_folder import checksum, export_of, rewritten, write_text, write_whole, written_into


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "first")
    with write_whole(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
        assert temporary.parent == path.parent
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_folder_replaces_another_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for names in (["a", "b"], ["c"]):
        with write_whole(folder) as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).touch()
    assert os.listdir(folder) == ["c"]
    assert os.listdir(tmp_path) == ["folder"]


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, SafetensorError("No space left on device"), KeyError("x")])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "first")
    if isinstance(error, KeyError):
        with pytest.raises(KeyError):
            _half_written(path, error)
    else:
        with pytest.raises(DataError, match=r"file.txt cannot be written \(No space left on device\)"):
            _half_written(path, error)
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["file.txt"]


def _half_written(path: Path, error: Exception) -> None:
    with write_whole(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "target.txt", tmp_path / "link.txt"
    write_text(target, "first")
    link.symlink_to(target)
    write_text(link, "second")
    assert link.is_symlink()
    assert target.read_text() == "second"


def test_what_a_name_points_to_is_on_the_disk_before_the_name(tmp_path: Path) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    with (
        mock.patch("os.fsync", lambda fd: (events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd))),
        mock.patch.object(Path, "replace", lambda a, b: (events.append(f"{a.name} > {b.name}"), replace(a, b))),
        write_whole(tmp_path / "folder") as temporary,
    ):
        temporary.mkdir()
        (temporary / "a").write_text("a")
    assert events == ["a", ".tmp_folder", ".tmp_folder > folder", tmp_path.name]


def test_a_folder_that_was_between_its_two_renames_is_back(tmp_path: Path) -> None:
    (tmp_path / ".old_folder").mkdir()
    (tmp_path / ".old_folder" / "mine").write_text("mine")
    with pytest.raises(KeyError), write_whole(tmp_path / "folder"):
        raise KeyError
    assert (tmp_path / "folder" / "mine").read_text() == "mine"
    assert os.listdir(tmp_path) == ["folder"]


def test_what_is_not_replaced_stays_in_a_rewritten_folder_and_is_never_written_through(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.ours", "deep/a.ours", "b.mine"):
        (folder / name).write_text(name)
    (folder / "nowhere").symlink_to("not-there")
    with contextlib.suppress(KeyError), rewritten(folder, lambda path: path.suffix == ".ours") as place:
        write_text(place / "b.mine", "other")
        raise KeyError
    assert (folder / "b.mine").read_text() == "b.mine"
    with rewritten(folder, lambda path: path.suffix == ".ours") as place:
        write_text(place / "c.ours", "new")
    assert sorted(os.listdir(folder)) == ["b.mine", "c.ours", "deep", "nowhere"]
    assert (folder / "deep" / "a.ours").read_text() == "deep/a.ours"


def test_files_that_are_written_together_take_their_places_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with written_into(folder) as temporary:
        (temporary / "a").write_text("first")
        (temporary / "inner").mkdir()
        (temporary / "inner" / "old").touch()
    (folder / "mine").touch()
    with written_into(folder) as temporary:
        assert (folder / "a").read_text() == "first"
        (temporary / "a").write_text("second")
        (temporary / "inner").mkdir()
        (temporary / "inner" / "new").touch()
    assert sorted(os.listdir(folder)) == ["a", "inner", "mine"]
    assert (folder / "a").read_text() == "second"
    assert os.listdir(folder / "inner") == ["new"]
    with pytest.raises(DataError, match=r"folder cannot be written \(No space left on device\)"):
        _half_written_into(folder)
    assert sorted(os.listdir(folder)) == ["a", "inner", "mine"]
    assert (folder / "a").read_text() == "second"


def _half_written_into(folder: Path) -> None:
    with written_into(folder) as temporary:
        (temporary / "a").write_text("half")
        raise FULL


def test_files_that_are_written_together_are_on_the_disk_before_they_have_their_names(tmp_path: Path) -> None:
    (tmp_path / ".tmp_files").mkdir()
    (tmp_path / ".tmp_files" / "of-a-killed-process").touch()
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    with (
        mock.patch("os.fsync", lambda fd: (events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd))),
        mock.patch.object(Path, "replace", lambda a, b: (events.append(f"> {b.name}"), replace(a, b))),
        written_into(tmp_path) as temporary,
    ):
        (temporary / "a").write_text("a")
    assert events == ["a", ".tmp_files", "> a", tmp_path.name]
    assert os.listdir(tmp_path) == ["a"]


def test_the_export_of_a_run_is_known_by_its_file(tmp_path: Path) -> None:
    assert export_of(tmp_path, "captioner.json") == tmp_path
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "captioner.json").touch()
    assert export_of(tmp_path, "captioner.json") == tmp_path / "export"
    assert export_of(tmp_path, "open_clip_config.json") == tmp_path


def test_a_checksum_is_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"ab" * 2**20)
    assert checksum(path) == hashlib.sha256(b"ab" * 2**20).hexdigest()
