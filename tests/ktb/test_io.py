from __future__ import annotations

import errno
import pwd
from pathlib import Path

import pytest

from ktb.errors import ConfigError
from ktb.io import absent, atomic_file, expanded, files_below, is_link_loop, leads_back, path_given


def test_atomic_file_leaves_the_old_or_the_new(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_midway():
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_too_is_there_whole_or_not(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bundle"

    def fail_midway() -> None:
        with atomic_file(path) as temporary:
            if kind == "folder":
                temporary.mkdir()
                (temporary / "half").touch()
            else:
                temporary.touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    assert list(tmp_path.iterdir()) == []


# What libraries raise when the disk is full. The numbers are those of this system.
FULL = {
    "the system": OSError(errno.ENOSPC, "No space left on device"),
    "NumPy": OSError("10000 requested and 109 written"),
    "safetensors": type("SafetensorError", (Exception,), {})(
        f"Error while serializing: I/O error: No space left on device (os error {errno.ENOSPC})"
    ),
}


@pytest.mark.parametrize("library", FULL)
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, library: str) -> None:
    path = tmp_path / "x"

    def fail_midway() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise FULL[library]

    with pytest.raises(OSError, match="No space left on device") as caught:
        fail_midway()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_fails_names_the_copy(tmp_path: Path) -> None:
    """shutil.copyfile names the original first, which is not at fault."""
    path = tmp_path / "x"
    with pytest.raises(OSError, match="No space") as caught, atomic_file(path) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", "/original", None, str(temporary))
    assert caught.value.filename == str(path)


def test_a_file_of_a_folder_is_named_where_it_would_have_been(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(OSError, match="No space") as caught, atomic_file(path) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary / "a" / "b.bin"))
    assert caught.value.filename == str(path / "a" / "b.bin")


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "字" * 83 + ".json", "x" * 255])
def test_a_name_may_be_as_long_as_the_file_system_lets_it(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert temporary.suffix == ".tmp"
        assert temporary.name.startswith(f".{name[:40]}~")
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [(name, "whole")]


def test_the_home_is_found_without_a_variable_of_that_name_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/data") == Path("/home/me/data")
    assert expanded("~root/x") == Path(pwd.getpwnam("root").pw_dir, "x")
    assert expanded("a/~/b") == Path("a/~/b")
    assert expanded("~nobody_here/x") == Path("~nobody_here/x")


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "file").touch()
    assert is_link_loop(tmp_path / "a")
    assert is_link_loop(tmp_path / "a" / "below")
    assert not is_link_loop(tmp_path / "file")
    assert not is_link_loop(tmp_path / "nowhere")
    assert absent(tmp_path / "a", "no such file") == "a circle of symbolic links (a symlink loop)"
    assert absent(tmp_path / "nowhere", "no such file") == "no such file"


def test_a_link_that_leads_back_to_a_folder_around_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "self").symlink_to("self")
    (tmp_path / "beside").symlink_to(tmp_path / "a")
    assert leads_back(tmp_path / "a" / "b" / "up")
    assert leads_back(tmp_path / "a" / "b" / "self")
    assert not leads_back(tmp_path / "beside")
    assert not leads_back(tmp_path / "a" / "b")
    # Nor is what lies beside the folder searched taken in by way of one.
    for name in ("a/1.png", "a/b/2.png", "other/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "out").symlink_to(tmp_path)
    (tmp_path / "a" / "aside").symlink_to(tmp_path / "other")
    below = [file.relative_to(tmp_path / "a").as_posix() for file in files_below(tmp_path / "a")]
    assert sorted(file for file in below if file.endswith(".png")) == ["1.png", "aside/3.png", "b/2.png"]


@pytest.mark.parametrize("value", [None, 3, 2.5, True, b"x", ["a"], {}, object()])
def test_what_is_no_path_is_named_with_its_argument(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^source=.*: expected a path, as text or pathlib.Path$"):
        path_given("source", value)


def test_what_a_program_gives_as_a_path() -> None:
    assert path_given("source", "a/b") == "a/b"
    assert path_given("source", Path("a/b")) == Path("a/b")
    with pytest.raises(ConfigError, match="^source is empty, which would mean the current folder"):
        path_given("source", " ")
