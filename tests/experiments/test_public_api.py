"""Every public name exists, and importing the package loads no heavy library."""

import subprocess
import sys

import pytest

import experiments


@pytest.mark.parametrize("name", experiments.__all__)
def test_every_public_name_is_importable(name: str) -> None:
    assert getattr(experiments, name).__name__ == name


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Decider'"):
        experiments.Decider  # noqa: B018


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, experiments, experiments.errors; print(*{'sqlalchemy', 'numpy', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
