from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.labelstudio import rle as module
from backend.labelstudio.rle import decode_rle, encode_rle
from mpamatch.errors import BadInput

SDK_PYTHON = Path(__file__).resolve().parents[3] / ".venv-label-studio" / "bin" / "python"
masks = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))
alphas = arrays(
    np.uint8, st.tuples(st.integers(1, 25), st.integers(1, 25)), elements=st.sampled_from([0, 1, 127, 128, 255])
)


def pack(values: list[tuple[int, list[int]]], count: int, sizes: tuple[int, ...] = (3, 4, 8, 16)) -> list[int]:
    """A reference packer in text: tokens are (field, values); one value with a count below zero repeats."""
    bits = f"{count:032b}" + "00111" + "".join(f"{s - 1:04b}" for s in sizes)
    for field, token in values:
        repeated = token[0] < 0
        length = -token[0] if repeated else len(token)
        listed = token[1:] if repeated else token
        bits += ("1" if repeated else "0") + f"{field:02b}" + f"{length - 1:0{sizes[field]}b}"
        bits += "".join(f"{v:08b}" for v in listed)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@settings(max_examples=300, deadline=None)
@given(masks)
def test_a_mask_survives_encoding(mask):
    encoded = encode_rle(mask)
    alpha = decode_rle(encoded, mask.shape[1], mask.shape[0])
    assert (alpha == mask * np.uint8(255)).all()
    assert alpha.dtype == np.uint8


@settings(max_examples=200, deadline=None)
@given(alphas)
def test_soft_edges_survive_encoding(alpha):
    assert (decode_rle(encode_rle(alpha), alpha.shape[1], alpha.shape[0]) == alpha).all()


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.zeros((8, 8), bool), [0, 0, 1, 0, 57, 27, 254, 255, 0, 0]),
        (np.ones((8, 8), bool), [0, 0, 1, 0, 57, 27, 254, 255, 255, 0]),
        (np.ones((130, 130), bool), [0, 1, 8, 16, 57, 27, 255, 255, 255, 255, 225, 1, 255, 224]),
    ],
)
def test_known_masks_have_known_bytes(mask, expected):
    assert encode_rle(mask) == expected
    assert encode_rle(mask * np.uint8(255)) == expected


@pytest.mark.shared
def test_the_recorded_vectors_are_met_byte_for_byte(recorded):
    for vector in recorded("rle-vectors"):
        width, height = vector["width"], vector["height"]
        if "browser_rle" in vector:
            alpha = decode_rle(vector["browser_rle"], width, height)
            assert int((alpha > 0).sum()) == vector["pixels_alpha_gt_0"]
            assert int((alpha >= 128).sum()) == vector["pixels_alpha_ge_128"]
            assert len(np.unique(alpha)) == vector["distinct_alpha"]
            continue
        rows = vector["mask_rows"]
        whole = np.ones((height, width), bool)
        mask = whole if rows == "all #" else np.array([[c == "#" for c in row] for row in rows])
        assert encode_rle(mask) == vector["sdk_mask2rle"], vector["name"]
        assert (decode_rle(vector["sdk_mask2rle"], width, height) == mask * np.uint8(255)).all()


def referee_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    yy, xx = np.mgrid[:300, :300]
    found = [
        rng.random((h, w)) < p for h, w, p in [(1, 1, 1), (3, 5, 0.5), (64, 64, 0.5), (97, 33, 0.02), (40, 200, 0.98)]
    ]
    found += [(yy - 150) ** 2 + (xx - 150) ** 2 < 120**2, np.zeros((300, 300), bool), np.ones((200, 400), bool)]
    found += [np.ones((128, 128), bool), np.arange(16384).reshape(128, 128) < 16383]
    # Lengths around every border between field sizes, and around the longest run.
    for length in (1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 32768, 32769):
        row = np.zeros((1, length + 2), bool)
        row[0, 1 : length + 1] = True
        found.append(row)
    return found


@pytest.mark.labelstudio
def test_the_official_sdk_writes_the_same_bytes_and_reads_ours(tmp_path):
    if not SDK_PYTHON.exists():
        pytest.skip("no .venv-label-studio: run `make setup`")
    cases = [{"mask": m.astype(int).tolist(), "ours": encode_rle(m)} for m in referee_masks()]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    script = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import mask2rle, decode_rle
out = []
for case in json.load(open(sys.argv[1])):
    mask = np.array(case["mask"], dtype=np.uint8) * 255
    alpha = np.reshape(decode_rle(case["ours"]), (*mask.shape, 4))[:, :, 3]
    out.append({"rle": mask2rle(mask), "read": bool((alpha == mask).all())})
json.dump(out, open(sys.argv[2], "w"))
"""
    subprocess.run([SDK_PYTHON, "-c", script, tmp_path / "cases.json", tmp_path / "out.json"], check=True, timeout=120)
    for case, answer in zip(cases, json.loads((tmp_path / "out.json").read_text()), strict=True):
        assert case["ours"] == answer["rle"]
        assert answer["read"]


def test_listed_values_are_read_token_by_token():
    # Two pixels (1, 2, 3, 200) and (9, 9, 9, 9): four listed values, then a run.
    data = pack([(0, [1, 2, 3, 200]), (0, [-4, 9])], 8)
    assert decode_rle(data, 2, 1).tolist() == [[200, 9]]
    data = pack([(1, [-4, 9]), (2, [1, 2, 3, 200])], 8)
    assert decode_rle(data, 2, 1).tolist() == [[9, 200]]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_mixture_of_tokens_and_field_sizes_reads_as_the_plain_definition_says(data):
    sizes = tuple(data.draw(st.lists(st.integers(1, 16), min_size=4, max_size=4)))
    width, height = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    left, tokens, values = width * height * 4, [], []
    while left:
        field = data.draw(st.integers(0, 3))
        length = data.draw(st.integers(1, min(left, 1 << sizes[field], 40)))
        if data.draw(st.booleans()):
            value = data.draw(st.integers(0, 255))
            tokens.append((field, [-length, value]))
            values += [value] * length
        else:
            listed = data.draw(st.lists(st.integers(0, 255), min_size=length, max_size=length))
            tokens.append((field, listed))
            values += listed
        left -= length
    alpha = decode_rle(pack(tokens, len(values), sizes), width, height)
    assert alpha.reshape(-1).tolist() == values[3::4]


def test_sizes_come_from_the_header():
    assert decode_rle(pack([(0, [-8, 255])], 8, sizes=(5, 5, 5, 5)), 2, 1).tolist() == [[255, 255]]


def test_zeros_after_the_last_value_do_not_count():
    assert decode_rle([*encode_rle(np.ones((3, 3), bool)), 0, 0, 0, 0], 3, 3).all()


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_list_that_is_cut_short_is_refused(cut):
    with pytest.raises(BadInput):
        decode_rle(encode_rle(np.eye(8, dtype=bool))[:-cut], 8, 8)


def test_a_run_over_the_last_pixel_is_refused():
    with pytest.raises(BadInput, match="last pixel"):
        decode_rle(pack([(2, [-9, 255])], 8), 2, 1)
    with pytest.raises(BadInput, match="last pixel"):
        decode_rle(pack([(0, [1, 2, 3, 4, 5]), (0, [-4, 9])], 8), 2, 1)


def test_another_size_is_refused_and_both_are_named():
    with pytest.raises(BadInput, match="256 values, not 9 x 8 x 4"):
        decode_rle(encode_rle(np.ones((8, 8), bool)), 9, 8)


def test_another_word_size_is_refused():
    data = encode_rle(np.ones((8, 8), bool))
    data[4] = 0x7F  # 16 bits per value
    with pytest.raises(BadInput, match="16 bits"):
        decode_rle(data, 8, 8)


@pytest.mark.parametrize("rle", [[], [0], [256] * 10, [-1] * 10, ["a"] * 10, "AAAA", None, 7, [1.5] * 10, {"a": 1}])
def test_what_is_no_list_of_bytes_is_refused(rle):
    with pytest.raises(BadInput):
        decode_rle(rle, 8, 8)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 6), st.integers(1, 6))
def test_garbage_is_refused_or_read_but_never_breaks(noise, width, height):
    head = (width * height * 4).to_bytes(4, "big") + bytes([57, 27])
    for data in (noise, head + noise):
        try:
            alpha = decode_rle(list(data), width, height)
        except BadInput:
            continue
        assert alpha.shape == (height, width)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (1 << 20, 1 << 20)])
def test_an_impossible_size_is_refused_before_anything_is_allocated(size):
    with pytest.raises(BadInput):
        decode_rle(encode_rle(np.ones((8, 8), bool)), *size)


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2, 2), bool), np.zeros((2, 2)), np.zeros((0, 3), bool), np.zeros(5, bool)]
)
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(BadInput):
        encode_rle(mask)


def test_a_view_with_strides_encodes_like_its_copy_and_is_not_modified():
    base = np.random.default_rng(0).random((40, 60)) > 0.5
    before = base.copy()
    view = base[::2, ::-3]
    assert encode_rle(view) == encode_rle(view.copy())
    assert encode_rle(base.T) == encode_rle(np.ascontiguousarray(base.T))
    assert (base == before).all()


def test_many_drawn_runs_and_few_take_different_ways_to_the_same_pixels():
    busy = np.random.default_rng(1).random((120, 120)) > 0.5
    assert np.count_nonzero(np.diff(busy.reshape(-1).astype(int)) == 1) > 2000
    assert (decode_rle(encode_rle(busy), 120, 120) == busy * np.uint8(255)).all()


def test_both_readers_agree_on_masks():
    mask = np.random.default_rng(2).random((50, 70)) > 0.7
    data = bytes(encode_rle(mask))
    sizes = module._read_header(data, 70, 50)
    quick, general = module._read_repeats(data, sizes, mask.size * 4), module._read_any(data, sizes, mask.size * 4)
    assert quick is not None
    assert (module._alpha(quick, mask.size) == module._alpha(general, mask.size)).all()
