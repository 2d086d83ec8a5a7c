from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mpamatch.errors import BadInput
from mpamatch.files.masks import read_mask, write_mask
from mpamatch.files.rasters import decode_raster, encode_raster


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(*values: int) -> bytes:
    return saved(Image.fromarray(np.array([values], np.uint8)))


def palette(*indices: int, colours: tuple[int, ...]) -> Image.Image:
    picture = Image.fromarray(np.array([indices], np.uint8))
    picture.putpalette(list(colours))
    return picture


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_of_an_indexed_file_the_indices_count_whatever_the_colours(kind: str) -> None:
    data = saved(palette(0, 2, 1, colours=(255, 255, 255, 9, 9, 9, 7, 200, 1)), kind)
    assert read_mask(data, class_count=3).tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_one_bit_masks_are_zero_and_one(kind: str) -> None:
    data = saved(Image.fromarray(np.array([[False, True, True]])), kind)
    assert read_mask(data, class_count=2).tolist() == [[0, 1, 1]]


def test_grey_values_are_class_ids_and_255_is_no_supervision() -> None:
    assert read_mask(grey(0, 1, 2, 255), class_count=3).tolist() == [[0, 1, 2, 255]]
    assert read_mask(grey(0, 1, 255), class_count=2).tolist() == [[0, 1, 255]]


def test_zero_and_255_alone_are_two_classes_but_only_where_there_are_two() -> None:
    assert read_mask(grey(0, 255, 0), class_count=2).tolist() == [[0, 1, 0]]
    assert read_mask(grey(0, 255, 0), class_count=3).tolist() == [[0, 255, 0]]


def test_all_255_stays_without_supervision_unless_foreground_is_said() -> None:
    assert read_mask(grey(255, 255), class_count=2).tolist() == [[255, 255]]
    assert read_mask(grey(255, 255), class_count=2, foreground=True).tolist() == [[1, 1]]


def test_instances_are_foreground_only_when_said() -> None:
    with pytest.raises(BadInput, match="values 2, 17 with 2 classes") as caught:
        read_mask(grey(0, 1, 2, 17), class_count=2, name="m.png")
    assert "--foreground" in caught.value.remedy
    assert read_mask(grey(0, 1, 2, 17), class_count=2, foreground=True).tolist() == [[0, 1, 1, 1]]


def test_sixteen_bit_instances_do_not_wrap_around() -> None:
    data = saved(Image.fromarray(np.array([[0, 256, 512]], np.uint16)), "TIFF")
    assert read_mask(data, class_count=2, foreground=True).tolist() == [[0, 1, 1]]
    with pytest.raises(BadInput, match="256, 512"):
        read_mask(data, class_count=2)


def test_equal_channels_are_a_mask_and_colours_are_not() -> None:
    ids = np.array([[0, 1, 2]], np.uint8)
    assert read_mask(saved(Image.fromarray(np.dstack([ids] * 3))), class_count=3).tolist() == ids.tolist()
    with pytest.raises(BadInput, match="coloured"):
        read_mask(saved(Image.fromarray(np.dstack([ids, ids, ids[:, ::-1]]))), class_count=3)


def test_a_mask_of_another_size_names_both_sizes() -> None:
    with pytest.raises(BadInput, match="3 x 1 px, its image 4 x 1"):
        read_mask(grey(0, 1, 1), class_count=2, expected_size=(4, 1))
    assert read_mask(grey(0, 1, 1), class_count=2, expected_size=(3, 1)).shape == (1, 3)


def test_a_jpeg_is_no_mask() -> None:
    with pytest.raises(BadInput, match="JPEG"):
        read_mask(saved(Image.new("L", (8, 8)), "JPEG"), class_count=2)


def test_damaged_and_missing_masks_are_named(tmp_path: Path) -> None:
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8)))
    with pytest.raises(BadInput, match="damaged"):
        read_mask(whole[: len(whole) // 2], class_count=2)
    with pytest.raises(BadInput, match="no such file"):
        read_mask(tmp_path / "gone.png", class_count=2)


def test_a_written_mask_shows_its_colours_and_reads_as_ids() -> None:
    mask = np.array([[0, 1, 255, 3]], np.uint8)
    data = write_mask(mask, ["#000000", "#d62728"])
    assert read_mask(data, class_count=4).tolist() == mask.tolist()
    assert Image.open(io.BytesIO(data)).convert("RGB").getpixel((1, 0)) == (0xD6, 0x27, 0x28)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 255)))
def test_rasters_survive_the_way_to_bytes_and_back(raster: np.ndarray) -> None:
    data = encode_raster(raster)
    assert np.array_equal(decode_raster(data), raster)
    assert encode_raster(raster.copy()) == data
    assert np.array_equal(read_mask(data, class_count=256), raster)


@pytest.mark.parametrize("data", [b"", b"nonsense", encode_raster(np.eye(40, dtype=np.uint8))[:60], grey(1)[:30]])
def test_what_is_no_raster_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        decode_raster(data)


def test_a_coloured_png_is_no_raster() -> None:
    with pytest.raises(BadInput, match="RGB"):
        decode_raster(saved(Image.new("RGB", (3, 3))))


def test_an_indexed_mask_of_zero_and_255_is_read_literally() -> None:
    mask = np.array([[0, 255, 0]], np.uint8)
    assert read_mask(write_mask(mask), class_count=2).tolist() == [[0, 255, 0]]
    assert read_mask(write_mask(mask), class_count=2, foreground=True).tolist() == [[0, 1, 0]]
