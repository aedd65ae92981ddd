import subprocess
import sys

import pytest

from shared.errors import ModelError
from worker.models.conse.wheels import wheel_file


def test_file_of_a_package() -> None:
    assert wheel_file("skimage", "data/chelsea.png").read_bytes().startswith(b"\x89PNG")


def test_package_is_not_imported() -> None:
    code = "import sys; from worker.models.conse.wheels import wheel_file; "
    code += "wheel_file('skimage', 'data/chelsea.png');"
    subprocess.run([sys.executable, "-c", code + "assert 'skimage' not in sys.modules"], check=True)


def test_missing_package() -> None:
    with pytest.raises(ModelError, match=r"needs the package not_there: pip install 'rt-embed\[demo\]'"):
        wheel_file("not_there", "a")


def test_missing_file() -> None:
    with pytest.raises(ModelError, match=r"skimage has no data/nothing\.png"):
        wheel_file("skimage", "data/nothing.png")
