import io
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from mpamatch.errors import BadInput, MpamatchError, NotFound, Unavailable
from mpamatch.network.encoders import build_encoder, encoder_record
from mpamatch.network.encoders.records import EncoderRecord
from mpamatch.network.encoders.tokens import TokenEncoder
from tests.mpamatch.network.small_vit import small_vit, vendor_state, write_weights

pytestmark = pytest.mark.torch
OPEN = small_vit(gated=False)


def _built(record: EncoderRecord, place: Path | None, *, hub: bool = False) -> TokenEncoder:
    encoder = build_encoder(record, pretrained=True, weights_dir=place, allow_hub=hub)
    assert isinstance(encoder, TokenEncoder)
    return encoder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_file_in_the_folder_or_the_file_itself_is_loaded_whatever_its_format(tmp_path: Path, suffix: str) -> None:
    state = vendor_state(OPEN)
    file = tmp_path / f"small-vit{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    for place in (tmp_path, file):
        encoder = _built(OPEN, place)
        assert all(torch.equal(t, state[key]) for key, t in encoder.vit.state_dict().items())
        assert encoder.published is not None
        assert encoder.published.origin == f"someone/small-vit (small-vit{suffix})"
    again = _built(OPEN, write_weights(tmp_path / "other", OPEN))
    assert again.published is not None
    assert again.published.sha256 == encoder.published.sha256
    other = _built(OPEN, write_weights(tmp_path / "another", OPEN, seed=6))
    assert other.published is not None
    assert other.published.sha256 != encoder.published.sha256


def test_keys_that_do_not_fit_are_counted_and_named(tmp_path: Path) -> None:
    state = vendor_state(OPEN)
    state["surplus"] = torch.zeros(1)
    del state["norm.bias"]
    state["norm.weight"] = torch.zeros(7)
    save_file(state, tmp_path / "small-vit.safetensors")
    wanted = r"1 missing \(norm.bias\); 1 unexpected \(surplus\); 1 of another shape \(norm.weight\)"
    with pytest.raises(BadInput, match=wanted):
        _built(OPEN, tmp_path)


def test_a_documented_prefix_and_classifier_are_taken_off_and_no_other(tmp_path: Path) -> None:
    state = {f"backbone.{key}": tensor for key, tensor in vendor_state(OPEN).items()}
    save_file(state | {"head.weight": torch.zeros(3)}, tmp_path / "small-vit.safetensors")
    _built(small_vit(file_prefix="backbone.", file_extra=("head.",)), tmp_path)
    with pytest.raises(BadInput, match=r"unexpected \(head.weight\)"):
        _built(small_vit(file_prefix="backbone."), tmp_path)
    with pytest.raises(BadInput, match="missing"):
        _built(small_vit(file_extra=("head.",)), tmp_path)


def test_a_missing_file_says_in_one_line_where_to_ask_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        build_encoder(encoder_record("uni"), pretrained=True, weights_dir=None)
    said = str(caught.value)
    assert "\n" not in said
    for part in ("CC-BY-NC-ND-4.0, gated", "https://huggingface.co/MahmoodLab/UNI", "DIR/uni.safetensors"):
        assert part in said
    with pytest.raises(NotFound, match=f"{tmp_path}/small-vit.safetensors"):
        _built(OPEN, tmp_path)
    with pytest.raises(NotFound, match="no such file or folder"):
        _built(OPEN, tmp_path / "nowhere")


def test_the_hub_is_asked_only_when_allowed_and_for_a_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(vendor_state(OPEN), tmp_path / "pytorch_model.bin")
    asked = []

    def give(repository: str, name: str) -> str:
        asked.append((repository, name))
        if name == "model.safetensors":
            raise errors.EntryNotFoundError("no such file")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    with pytest.raises(NotFound):
        _built(OPEN, None)
    assert not asked
    _built(OPEN, None, hub=True)
    assert asked == [("someone/small-vit", "model.safetensors"), ("someone/small-vit", "pytorch_model.bin")]


def _refusal(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "no\nand more")
    return error


@pytest.mark.parametrize(
    ("kind", "raised", "said"),
    [
        (errors.GatedRepoError, NotFound, "request access at https://huggingface.co/someone/small-vit and sign in"),
        (errors.LocalEntryNotFoundError, Unavailable, "does not answer: no;"),
        (ConnectionError, Unavailable, "does not answer"),
    ],
)
def test_a_hub_that_refuses_or_is_silent_is_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], raised: type[MpamatchError], said: str
) -> None:
    def fail(*arguments: object) -> str:
        raise _refusal(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(raised) as caught:
        _built(small_vit(), None, hub=True)
    assert "\n" not in str(caught.value)
    assert said in str(caught.value)


class Touch:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.mark,)  # type: ignore[return-value]


def test_a_pickle_in_a_weight_file_is_refused_and_never_run(tmp_path: Path) -> None:
    mark, saved = tmp_path / "it ran", io.BytesIO()
    torch.save({"norm.weight": Touch(mark)}, saved)
    for content in (saved.getvalue(), pickle.dumps(Touch(mark), protocol=2), b"", b"\0" * 40):
        (tmp_path / "small-vit.bin").write_bytes(content)
        with pytest.raises(BadInput, match="plain weight file"):
            _built(OPEN, tmp_path)
    assert not mark.exists()
    torch.save({"state_dict": vendor_state(OPEN)}, tmp_path / "small-vit.bin")
    with pytest.raises(BadInput, match="more than tensors"):
        _built(OPEN, tmp_path)
