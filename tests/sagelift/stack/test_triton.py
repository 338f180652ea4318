"""Triton's repository and addresses, without its server; tests/integration/test_triton.py starts one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagelift.stack.errors import MissingComponentError, ModelError, StartError
from sagelift.stack.ports import pick_ports
from sagelift.stack.triton import TritonServer, load_model, probe, unload_model


@pytest.fixture
def server(tmp_path: Path) -> TritonServer:
    return TritonServer(tmp_path / "triton", tmp_path / "cache", tmp_path / "models")


def test_a_server_has_no_address_before_it_was_started(server: TritonServer) -> None:
    assert server.address is None
    assert not server.healthy()
    with pytest.raises(StartError, match="no address before it was started"):
        _ = server.grpc


def test_models_are_the_folders_with_a_version(server: TritonServer) -> None:
    for folder in ("itemsage/1", "itemsage/2", "visual/1", "empty", "notes/draft"):
        (server.repository / folder).mkdir(parents=True)
    (server.repository / "file").write_text("")
    assert server.models() == ["itemsage", "visual"]


def test_servers_of_one_folder_share_the_prefix_of_their_shared_memory(tmp_path: Path, server: TritonServer) -> None:
    """The next server removes the segments of one that was killed."""
    same = TritonServer(tmp_path / "triton", tmp_path, tmp_path / "others")
    other = TritonServer(tmp_path / "another", tmp_path, tmp_path / "models")
    assert same.shm_prefix == server.shm_prefix != other.shm_prefix


def test_a_start_without_the_wheel_names_the_missing_component(server: TritonServer) -> None:
    with pytest.raises(MissingComponentError, match="Triton is not ready"):
        server.start()


def test_a_port_without_a_server_is_not_live_and_loads_no_model() -> None:
    (port,) = pick_ports(1)
    address = f"127.0.0.1:{port}"
    assert not probe(address, timeout=5)
    for change, verb in ((load_model, "load"), (unload_model, "unload")):
        with pytest.raises(ModelError, match=f"Triton could not {verb} model 'itemsage': "):
            change(address, "itemsage")
