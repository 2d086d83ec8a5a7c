from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageOps
from rasterio.io import MemoryFile

from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput
from mpamatch.files.images import encode_png, image_size, read_image, read_window

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def smooth_rgb(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(bands: np.ndarray, **profile: object) -> bytes:
    with MemoryFile() as memory:
        count, height, width = bands.shape
        with memory.open(
            driver="GTiff", width=width, height=height, count=count, dtype=bands.dtype, **profile
        ) as dataset:
            dataset.write(bands)
        return bytes(memory.read())


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(9)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_rgb_comes_back_as_it_was(kind: str) -> None:
    assert np.array_equal(read_image(saved(Image.fromarray(smooth_rgb()), kind)), smooth_rgb())


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_mode_reads_as_pillow_shows_it(mode: str, kind: str) -> None:
    data = saved(Image.fromarray(smooth_rgb()).convert(mode), kind)
    assert np.array_equal(read_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_a_cmyk_tiff_and_a_cmyk_jpeg_are_converted() -> None:
    picture = Image.fromarray(smooth_rgb()).convert("CMYK")
    for kind, tolerance in (("TIFF", 0), ("JPEG", 12)):
        difference = np.abs(read_image(saved(picture, kind)).astype(int) - smooth_rgb())
        assert difference.max() <= tolerance, kind


def test_transparent_pixels_become_white_and_half_transparent_ones_pale() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 1, 3], rgba[:, 2, 3] = 128, 255
    assert read_image(saved(Image.fromarray(rgba), "PNG"))[0, :, 0].tolist() == [255, 127, 0]


def test_a_transparent_palette_entry_becomes_white() -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    data = saved(picture, "PNG", transparency=0)
    assert read_image(data).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_an_internal_tiff_mask_hides_what_it_covers() -> None:
    with MemoryFile() as memory:
        options = {"driver": "GTiff", "width": 4, "height": 4, "count": 3, "dtype": "uint8"}
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), memory.open(**options) as dataset:
            dataset.write(np.zeros((3, 4, 4), np.uint8))
            dataset.write_mask(np.array([[True, False, False, False]] * 4))
        data = bytes(memory.read())
    assert read_image(data)[0, :, 0].tolist() == [0, 255, 255, 255]


def test_sixteen_bits_are_scaled_by_their_full_range_not_by_their_contents() -> None:
    values = np.array([[0, 257, 2570, 65535]], np.uint16)
    assert read_image(tiff(values[None]))[0, :, 0].tolist() == [0, 1, 10, 255]
    assert read_image(saved(Image.fromarray(values), "PNG"))[0, :, 0].tolist() == [0, 1, 10, 255]


def test_twelve_bits_in_sixteen_are_scaled_by_twelve() -> None:
    values = np.array([[0, 4095]], np.uint16)
    assert read_image(tiff(values[None], nbits=12))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_an_exif_turned_image_stands_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(Image.fromarray(smooth_rgb()), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    shown = read_image(data)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).max() <= 16
    assert image_size(data) == (expected.shape[1], expected.shape[0])


def test_a_window_is_the_same_part_of_the_whole_in_every_format() -> None:
    big = smooth_rgb(300, 500)
    box = Box(37, 41, 123, 99)
    for data in (
        saved(Image.fromarray(big), "PNG"),
        saved(Image.fromarray(big).quantize(64), "PNG"),
        tiff(np.moveaxis(big, -1, 0), tiled=True, blockxsize=64, blockysize=64),
    ):
        assert np.array_equal(read_window(data, box), read_image(data)[41:140, 37:160])


def test_a_window_of_a_turned_image_is_cut_after_turning() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = saved(Image.fromarray(smooth_rgb(40, 60)), "TIFF", exif=exif)
    assert np.array_equal(read_window(data, Box(5, 10, 20, 30)), read_image(data)[10:40, 5:25])


def test_a_window_outside_the_image_is_refused() -> None:
    with pytest.raises(BadInput, match="not inside 60 x 40"):
        read_window(encode_png(smooth_rgb()), Box(50, 0, 20, 20))


def test_what_a_file_is_called_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / 'it\'s a "tile" ä 組織 #1?.tif'
    path.write_bytes(encode_png(smooth_rgb()))
    assert np.array_equal(read_image(path), smooth_rgb())
    (tmp_path / "no-suffix").write_bytes(encode_png(smooth_rgb()))
    assert image_size(tmp_path / "no-suffix") == (60, 40)


def test_a_single_pixel_is_an_image() -> None:
    assert read_image(encode_png(np.full((1, 1, 3), 7, np.uint8))).tolist() == [[[7, 7, 7]]]


WHOLE = {kind: saved(Image.fromarray(smooth_rgb(64, 64)), kind) for kind in ("PNG", "JPEG", "TIFF", "BMP")}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_a_truncated_file_is_refused_and_never_filled_up(kind: str, share: float) -> None:
    with pytest.raises(BadInput) as caught:
        read_image(WHOLE[kind][: int(len(WHOLE[kind]) * share)], name="cut.img")
    assert str(caught.value).startswith("cut.img: ")
    assert caught.value.remedy


@pytest.mark.parametrize("kind", WHOLE)
def test_wherever_a_file_is_cut_no_wrong_pixel_comes_out(kind: str) -> None:
    data = WHOLE[kind]
    for length in range(1, len(data), max(1, len(data) // 40)):
        try:
            image = read_image(data[:length])
        except BadInput:
            continue
        assert np.array_equal(image, read_image(data)), length


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(WHOLE["PNG"])
    data[len(data) // 2] ^= 0x10
    with pytest.raises(BadInput, match="damaged"):
        read_image(bytes(data))


VRT = b"""<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename>%s</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"just some words", "not an image"),
        (VRT % b"/etc/hostname", "not an image"),
        (b"<GDAL_WMS></GDAL_WMS>", "not an image"),
        (b"GIF89a" + bytes(40), "not an image"),
        (b"%PDF-1.7 " + bytes(40), "not an image"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"II*\x00" + bytes(4), "damaged"),
    ],
)
def test_what_is_no_image_is_named_with_problem_and_remedy(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "picture.tif"
    path.write_bytes(content)
    for call in (read_image, image_size):
        with pytest.raises(BadInput, match=problem) as caught:
            call(path)
        assert caught.value.item == str(path)
        assert caught.value.remedy


def test_a_vrt_is_not_followed_even_where_its_source_exists(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encode_png(smooth_rgb()))
    trap = tmp_path / "trap.tif"
    trap.write_bytes(VRT % str(tmp_path / "secret.png").encode())
    with rasterio.open(trap) as dataset:
        assert dataset.driver == "VRT", "the trap must be a working one"
    with pytest.raises(BadInput):
        read_image(trap)


@pytest.mark.parametrize(
    "path", ["/vsicurl/http://127.0.0.1:9/x.png", "/vsimem/x.png", "http://127.0.0.1:9/x.png", "zip://x.zip!a.png"]
)
def test_paths_that_gdal_would_fetch_are_refused(path: str) -> None:
    with pytest.raises(BadInput):
        read_image(Path(path))


def test_a_folder_a_pipe_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, problem in ((".", "not a regular"), ("pipe.png", "not a regular"), ("gone.png", "no such file")):
        with pytest.raises(BadInput, match=problem):
            read_image(tmp_path / name)


def test_files_beside_an_image_do_not_change_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(smooth_rgb()))
    (tmp_path / "a.png.aux.xml").write_text("<PAMDataset><PAMRasterBand band='1'><NoDataValue>0</NoDataValue>")
    (tmp_path / "a.png.msk").write_bytes(tiff(np.zeros((1, 40, 60), np.uint8)))
    assert np.array_equal(read_image(path), smooth_rgb())
    white = tmp_path / "b.tif"
    white.write_bytes(tiff(np.full((3, 400, 600), 255, np.uint8)))
    (tmp_path / "b.tif.ovr").write_bytes(tiff(np.zeros((3, 100, 150), np.uint8)))
    assert read_window(white, Box(0, 0, 600, 400), out_width_px=150, out_height_px=100).min() == 255


def test_a_huge_header_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(BadInput, match="40,000,000,000 pixels"):
        read_image(png_header(200_000, 200_000))
    sparse = tiff(np.zeros((1, 1, 1), np.uint8))
    with pytest.raises(BadInput, match="2,400 pixels"):
        read_image(encode_png(smooth_rgb()), budget_px=2399)
    assert read_image(sparse, budget_px=1).shape == (1, 1, 3)


def test_a_tiff_over_the_budget_still_gives_windows_but_not_through_giant_tiles() -> None:
    big = np.moveaxis(smooth_rgb(512, 512), -1, 0)
    tiled = tiff(big, tiled=True, blockxsize=64, blockysize=64)
    assert read_window(tiled, Box(0, 0, 64, 64), budget_px=5000).shape == (64, 64, 3)
    with pytest.raises(BadInput, match="262,144 pixels"):
        read_image(tiled, budget_px=5000)
    with pytest.raises(BadInput, match="internal tiles"):
        read_window(tiff(big, tiled=True, blockxsize=512, blockysize=512), Box(0, 0, 64, 64), budget_px=5000)


@pytest.mark.parametrize("make", [lambda: np.zeros((1, 4, 4), np.float32), lambda: np.zeros((7, 4, 4), np.uint8)])
def test_floats_and_many_channels_are_refused(make: Callable[[], np.ndarray]) -> None:
    with pytest.raises(BadInput, match=r"float32|7 channels"):
        read_image(tiff(make()))


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(smooth_rgb()))
    wrong: list[object] = []

    def read() -> None:
        for _ in range(20):
            try:
                if not np.array_equal(read_image(path), smooth_rgb()):
                    wrong.append("other pixels")
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_only_whole_byte_images_are_written() -> None:
    with pytest.raises(ValueError, match="float64"):
        encode_png(np.zeros((4, 4, 3)))


@pytest.mark.shared
def test_a_slide_and_a_pyramid_are_read_by_window(shared_dir: Path) -> None:
    for name in ("CMU-1-Small-Region.svs", "CMU-1-Small-Region-pyramid.tiff"):
        path = shared_dir / "data" / "wsi" / name
        assert image_size(path) == (2220, 2967)
        small = read_window(path, Box(0, 0, 2220, 2967), out_width_px=224, out_height_px=300)
        assert small.shape == (300, 224, 3)
        assert read_window(path, Box(1000, 1000, 256, 256)).std() > 5
