"""Images in files: only below the permitted folders, only ordinary files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streaming.catalogue.images.local_files import read_file
from streaming.errors import ImageError


def test_a_file_below_a_root_is_read_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert read_file(str(tmp_path / "a"), roots=[tmp_path.resolve()], max_bytes=3) == b"abc"
    assert read_file(str(tmp_path / "a"), roots=None, max_bytes=3) == b"abc"
    with pytest.raises(ImageError, match="is larger than 2 bytes"):
        read_file(str(tmp_path / "a"), roots=None, max_bytes=2)


def test_a_symbolic_link_does_not_lead_out_of_the_roots(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_bytes(b"abc")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ImageError, match="outside the folders"):
        read_file(str(tmp_path / "in" / "link"), roots=[(tmp_path / "in").resolve()], max_bytes=3)


def test_no_read_waits_for_the_writer_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        read_file(str(tmp_path / "pipe"), roots=None, max_bytes=3)


def test_a_missing_file_is_a_permanent_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no such file") as raised:
        read_file(str(tmp_path / "none"), roots=None, max_bytes=3)
    assert not raised.value.retryable
