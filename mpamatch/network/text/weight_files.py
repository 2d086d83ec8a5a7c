"""Files of text towers: found in the user's folder or an installed package, checked, and read without pickle."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mpamatch.errors import BadInput, NotFound, Unavailable
from mpamatch.network.tensor_files import read_tensor_file

EXTRA = "pip install 'mpamatch[text]'"


def in_folder(weights_dir: Path | None, folder: str, names: tuple[str, ...], source: str) -> Path:
    """The first of ``names`` in ``weights_dir/folder``. Raises NotFound saying what to request where."""
    wanted = " or ".join(names)
    if weights_dir is None:
        remedy = f"get {wanted} from {source} and name the folder of weights that holds {folder}/"
        raise NotFound(f"text {folder}", "no folder of weights given", remedy)
    for name in names:
        if (weights_dir / folder / name).is_file():
            return weights_dir / folder / name
    raise NotFound(f"text {folder}", f"{wanted} is missing", f"get it from {source} and put it into {folder}/ there")


def in_package(package: str, file: str, sha256: str | None = None) -> Path:
    """A file of an installed package, which is not imported. Raises NotFound, or BadInput for another checksum."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise NotFound(f"{package}/{file}", "not installed", f"{EXTRA}, or train with text learned or none")
    if sha256 is not None and file_sha256(path) != sha256:
        raise BadInput(str(path), "checksum differs from the record", f"install {package} anew")
    return path


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a safetensors file or of torch's, there without pickle; a ``state_dict`` inside is unpacked.

    Leading ``module.`` of keys goes. Raises BadInput when the file is neither.
    """
    raw = read_tensor_file(path)
    raw = raw.get("state_dict", raw) if isinstance(raw, dict) else {}
    tensors = {str(key).removeprefix("module."): value for key, value in raw.items() if isinstance(value, Tensor)}
    if not tensors:
        raise BadInput(str(path), "holds no tensors", "get the file anew from where it came from")
    return tensors


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], item: str) -> None:
    """Give a module these tensors, float32, none missing and none too many. Raises BadInput."""
    try:
        module.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    except RuntimeError as error:
        wanted = set(module.state_dict())
        odd = sorted(wanted ^ set(state)) or sorted(k for k in wanted if module.state_dict()[k].shape != state[k].shape)
        raise BadInput(item, f"{odd[0]} does not match the architecture", "check which model the file is of") from error


def needed(package: str) -> None:
    """Raises Unavailable when an optional package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise Unavailable(f"package {package}", "not installed", f"{EXTRA}, or train with text learned or none")
