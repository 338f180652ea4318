"""The public names of the package are there, and importing it is cheap."""

import subprocess
import sys

import pytest

import analysis


def test_every_public_name_is_importable() -> None:
    assert {"analyze", "Mean", "UserTable"} <= set(analysis.__all__)
    for name in analysis.__all__:
        assert getattr(analysis, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        getattr(analysis, "analyse")  # noqa: B009


def test_importing_the_package_imports_no_heavy_library() -> None:
    program = "import analysis, sys; print({'numpy', 'sqlalchemy', 'scipy'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "set()"
