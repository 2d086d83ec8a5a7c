"""Published weight files: from a local file first, from the hub only when that is allowed, and nothing in them runs.

A file is safetensors, or torch's format read without leave to build objects. Its keys must be the architecture's,
one for one; what a record documents (a prefix, a classifier) is all that is taken off.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor, nn

from mpamatch.errors import BadInput, NotFound, Unavailable
from mpamatch.network.encoders.records import EncoderRecord
from mpamatch.network.encoders.tokens import Published
from mpamatch.network.tensor_files import read_tensor_file

SUFFIXES = (".safetensors", ".pth", ".bin")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SHOWN = 3


def locate_weights(record: EncoderRecord, weights_dir: Path | None, *, allow_hub: bool = False) -> Path:
    """The file of the record's published weights: a local one first, the hub's only where that is allowed.

    Raises NotFound in one line that says where to ask and where to put the file, Unavailable when the hub is silent.
    """
    path = find_weights(record, weights_dir)
    if path is None:
        path = _from_hub(record) if allow_hub and record.hub_id else _missing(record, weights_dir)
    return path


def load_published(record: EncoderRecord, vit: nn.Module, path: Path) -> Published:
    """Give ``vit`` the tensors of a file, in float32; where they came from and a hash of them. Raises BadInput."""
    state = fitting_state(record, read_state(path), vit, path)
    vit.load_state_dict(state, strict=True, assign=True)
    return Published(f"{record.hub_id or record.name} ({path.name})", digest_of(state))


def find_weights(record: EncoderRecord, weights_dir: Path | None) -> Path | None:
    """The local file of an encoder: ``weights_dir`` itself when it is a file, else NAME.safetensors, .pth or .bin."""
    if weights_dir is None:
        return None
    if weights_dir.is_file():
        return weights_dir
    if not weights_dir.is_dir():
        raise NotFound(f"weights {weights_dir}", "no such file or folder", "give a folder of weight files, or one file")
    return next((p for s in SUFFIXES if (p := weights_dir / f"{record.name}{s}").is_file()), None)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by key. Raises BadInput when it holds anything else or is damaged."""
    state = read_tensor_file(path)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise BadInput(str(path), "holds more than tensors by name", "give the vendor's file of weights alone")
    return state


def fitting_state(record: EncoderRecord, raw: dict[str, Tensor], vit: nn.Module, path: Path) -> dict[str, Tensor]:
    """The file's tensors under the module's keys. Raises BadInput with what is missing, unexpected or misshapen."""
    state = {key.removeprefix(record.file_prefix): tensor.float() for key, tensor in raw.items()}
    state = {key: tensor for key, tensor in state.items() if not key.startswith(record.file_extra or ("\0",))}
    wanted = vit.state_dict()
    odd = [
        *_listed("missing", sorted(set(wanted) - set(state))),
        *_listed("unexpected", sorted(set(state) - set(wanted))),
        *_listed("of another shape", sorted(k for k in wanted if k in state and wanted[k].shape != state[k].shape)),
    ]
    if odd:
        raise BadInput(str(path), f"does not fit encoder {record.name}: {'; '.join(odd)}", _where(record))
    return state


def digest_of(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values, the same for every format of file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _listed(word: str, keys: list[str]) -> list[str]:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return [f"{len(keys)} {word} ({', '.join(keys[:_SHOWN])}{more})"] if keys else []


def _where(record: EncoderRecord) -> str:
    if record.hub_id is None:
        return "ask whoever gave the record for its file"
    page = f"https://huggingface.co/{record.hub_id}"
    return f"request access at {page}" if record.gated else f"fetch the file from {page}"


def _missing(record: EncoderRecord, weights_dir: Path | None) -> Path:
    place = f"{weights_dir}/{record.name}" if weights_dir else f"DIR/{record.name}"
    give = "" if weights_dir else " and give --weights-dir DIR (MPAMATCH_WEIGHTS_DIR for an installation)"
    problem = f"its weights are not here ({record.licence_text}{', gated' if record.gated else ''})"
    raise NotFound(
        f"encoder {record.name}", problem, f"{_where(record)}, put it as {place}.safetensors, .pth or .bin{give}"
    )


def _from_hub(record: EncoderRecord) -> Path:
    """The vendor's file from the hub's cache or the hub: a file alone, never code."""
    import huggingface_hub
    from huggingface_hub import errors

    assert record.hub_id is not None
    for name in _HUB_FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(record.hub_id, name))
        except errors.EntryNotFoundError as error:
            # Not being online is said by a child of this error.
            if isinstance(error, errors.LocalEntryNotFoundError):
                raise _hub_silent(record, error) from error
        except errors.RepositoryNotFoundError as error:  # also when access was not granted
            problem = "the hub does not give its weights to this account"
            remedy = f"{_where(record)} and sign in (`hf auth login`), or put the file into --weights-dir"
            raise NotFound(f"encoder {record.name}", problem, remedy) from error
        except (errors.HfHubHTTPError, OSError) as error:
            raise _hub_silent(record, error) from error
    raise NotFound(f"encoder {record.name}", f"{record.hub_id} holds no {' or '.join(_HUB_FILES)}", _where(record))


def _hub_silent(record: EncoderRecord, error: Exception) -> Unavailable:
    said = str(error).strip().partition("\n")[0]
    return Unavailable(f"encoder {record.name}", f"the hub does not answer: {said}", "put the file into --weights-dir")
