"""Fetching product images from files and http, several at once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from streaming.catalogue.images.fetch import FetchedImage, ImageFetcher
from streaming.errors import ImageError
from tests.streaming.catalogue.images.web import PICTURE, Server, picture, refused, send

# --- Files ---


def test_a_file_is_read_by_path_and_by_file_link_with_the_hash_of_its_bytes(
    fetcher: ImageFetcher, tmp_path: Path
) -> None:
    path = tmp_path / "a picture.jpg"
    path.write_bytes(PICTURE)
    by_path, by_link = fetcher.fetch(str(path)), fetcher.fetch(path.as_uri())
    assert by_path.content_hash == by_link.content_hash == hashlib.sha256(PICTURE).hexdigest()
    assert (by_path.pixels == by_link.pixels).all()


def test_only_files_below_the_roots_are_read_through_any_link(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.jpg").write_bytes(PICTURE)
    (tmp_path / "in" / "in.jpg").write_bytes(PICTURE)
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    with ImageFetcher(root=tmp_path / "in") as fetcher:
        assert fetcher.fetch(str(tmp_path / "in" / "in.jpg"))
        for name in ("out.jpg", "in/../out.jpg", "in/link.jpg"):
            refused(fetcher, f"{tmp_path}/{name}", "outside the folders")
        refused(fetcher, f"file://{tmp_path}/in/%2e%2e/out.jpg", "outside the folders")


def test_a_link_without_a_readable_file_is_refused_without_waiting(fetcher: ImageFetcher, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(fetcher, str(tmp_path / "none.jpg"), "there is no such file")
    refused(fetcher, str(tmp_path), "directory")
    refused(fetcher, str(tmp_path / "pipe"), "not a regular file")
    refused(fetcher, str(tmp_path / "loop"), "cannot be read")
    refused(fetcher, "/dev/zero", "not a regular file")
    refused(fetcher, "/a\x00b", "cannot be read")
    refused(fetcher, "file://server/share.jpg", "on another machine")
    refused(fetcher, "ftp://shop.example/a.jpg", "scheme 'ftp'")
    refused(fetcher, "http://[broken/a.jpg", "is not a valid link")


def test_a_file_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    with ImageFetcher(max_bytes=len(PICTURE)) as exact, ImageFetcher(max_bytes=len(PICTURE) - 1) as less:
        assert exact.fetch(str(tmp_path / "a.jpg"))
        refused(less, str(tmp_path / "a.jpg"), "is larger than")


# --- Many; messages ---


def test_several_images_are_returned_in_the_order_of_their_links_with_errors_in_place(
    fetcher: ImageFetcher, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(picture(format="PNG"))
    server.answers["/b.jpg"] = send()
    server.answers["/c.jpg"] = send(503)
    result = fetcher.fetch_many(
        [str(tmp_path / "a.png"), "/none.jpg", f"{server.url}/b.jpg", f"{server.url}/c.jpg"]
        + [str(tmp_path / "a.png")] * 20
    )
    assert [type(item) for item in result] == [FetchedImage, ImageError, FetchedImage, ImageError] + [FetchedImage] * 20
    assert isinstance(result[2], FetchedImage)
    assert result[2].content_hash == hashlib.sha256(PICTURE).hexdigest()


def test_a_message_names_the_link_without_its_secrets(fetcher: ImageFetcher, server: Server) -> None:
    server.answers["/a.jpg?signature=secret"] = send(404)
    with pytest.raises(ImageError) as caught:
        fetcher.fetch(f"http://user:secret@127.0.0.1:{server.port}/a.jpg?signature=secret")
    assert str(caught.value) == f"http://127.0.0.1:{server.port}/a.jpg?…: the server answered 404"


@pytest.mark.parametrize("name", ["max_bytes", "timeout", "max_pixels"])
def test_a_limit_of_zero_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be > 0"):
        ImageFetcher(**{name: 0})
