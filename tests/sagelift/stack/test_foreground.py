"""`sagelift up` ends at a signal, with the exit code of that signal, and stops everything first."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A stack with external services, which nothing has to be started for.
SCRIPT = """
import sys
from pathlib import Path
from sagelift.stack.foreground import run
from sagelift.stack.stack import LocalStack, StackOptions, WorkerSpec
options = StackOptions(
    "127.0.0.1:9", triton_url="127.0.0.1:9", kafka_answers=lambda _: True, triton_answers=lambda _: True
)
stack = LocalStack(Path(sys.argv[1]), Path(sys.argv[1]), options)
worker = WorkerSpec("sleeper", [sys.executable, "-c", "import time; time.sleep(3600)"])
sys.exit(run(stack, workers=lambda _: [worker], say=lambda line: print(line, flush=True)))
"""


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)], ids=str
)
def test_a_signal_ends_the_stack_with_its_exit_code(number: signal.Signals, exit_code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "The stack is up. Ctrl-C stops it.\n"
        assert (tmp_path / "stack.json").exists()
        process.send_signal(number)
        assert process.wait(30) == exit_code
    assert not (tmp_path / "stack.json").exists()
