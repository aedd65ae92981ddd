"""Files that come inside installed packages: the demonstration's weights and pictures."""

from importlib.util import find_spec
from pathlib import Path

from shared.errors import ModelError


def wheel_file(package: str, name: str) -> Path:
    """Return the path of `name` inside `package`, which is not imported. Raises ModelError when it is
    absent."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ModelError(f"the demonstration needs the package {package}: pip install 'rt-embed[demo]'")
    path = Path(folders[0]) / name
    if not path.is_file():
        raise ModelError(f"the package {package} has no {name}")
    return path
