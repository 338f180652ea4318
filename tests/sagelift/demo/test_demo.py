"""The demo keeps away from a real installation, and from a demo that is running."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagelift.demo.config import DemoConfig
from sagelift.demo.demo import Demo
from sagelift.settings import load_settings
from sagelift.stack import components
from sagelift.stack.errors import AlreadyRunningError
from sagelift.stack.status import SupervisorLock


def test_the_demo_ignores_external_services_and_has_its_own_state(tmp_path: Path) -> None:
    settings = load_settings(state_dir=tmp_path, kafka={"bootstrap_servers": "shop:9092"}, triton={"url": "shop:8001"})
    demo = Demo(settings, DemoConfig())
    assert demo.state == demo.settings.state == tmp_path / "demo"
    assert not demo.settings.kafka.bootstrap_servers
    assert not demo.settings.triton.url
    assert demo.settings.database_url != settings.database_url


def test_a_running_demo_is_not_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "fetch_all", lambda cache, say: None)
    (tmp_path / "demo").mkdir()
    lock = SupervisorLock(tmp_path / "demo")
    lock.acquire()
    (tmp_path / "demo" / "precious").write_text("data of the running demo")
    with pytest.raises(AlreadyRunningError, match="a demo is already running"):
        Demo(load_settings(state_dir=tmp_path), DemoConfig()).run()
    assert (tmp_path / "demo" / "precious").exists()
    lock.release()
