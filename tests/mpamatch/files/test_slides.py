import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput
from mpamatch.files import slides
from mpamatch.files.images import encode_png, read_image, read_window
from mpamatch.files.slide_by_rasterio import RasterSlide
from mpamatch.files.slide_by_tiffslide import TiffSlide
from mpamatch.files.slides import WholeImage, open_slide, overview, read_tile, slide_size
from tests.mpamatch.files.slide_files import halved, tissue, write_pyramid, write_svs

IMAGE = tissue(1504, 1904)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tif", IMAGE)


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_svs(tmp_path_factory.mktemp("slides") / "slide.svs", IMAGE, compression="deflate")


def test_a_pyramid_tells_its_levels_and_its_scale(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        assert isinstance(slide, RasterSlide)
        assert slide_size(slide) == (1504, 1904)
        assert [(v.width_px, v.height_px, v.y_factor) for v in slide.levels] == [
            (1504, 1904, 1.0),
            (752, 952, 2.0),
            (376, 476, 4.0),
        ]
        assert slide.um_per_px == pytest.approx(0.25, rel=1e-6)


def test_an_svs_tells_its_levels_and_leaves_label_and_macro_out(svs: Path) -> None:
    with open_slide(svs) as slide:
        assert isinstance(slide, TiffSlide)
        assert [(v.width_px, v.height_px) for v in slide.levels] == [(1504, 1904), (376, 476)]
        assert slide.um_per_px == 0.25


@pytest.mark.parametrize("name", ["pyramid", "svs"])
def test_a_tile_at_scale_one_is_the_pixels_of_level_0(name: str, request: pytest.FixtureRequest) -> None:
    with open_slide(request.getfixturevalue(name)) as slide:
        assert (read_tile(slide, Box(301, 402, 256, 300), 1.0) == IMAGE[402:702, 301:557]).all()


@pytest.mark.parametrize("name", ["pyramid", "svs"])
@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_a_tile_at_a_whole_scale_is_the_mean_of_its_pixels(
    name: str, scale: float, request: pytest.FixtureRequest
) -> None:
    wanted = halved(IMAGE) if scale == 2 else halved(halved(IMAGE))
    side, x, y = 512, 400, 800
    place = np.s_[int(y / scale) : int((y + side) / scale), int(x / scale) : int((x + side) / scale)]
    with open_slide(request.getfixturevalue(name)) as slide:
        tile = read_tile(slide, Box(x, y, side, side), scale)
    assert tile.shape == (side / scale, side / scale, 3)
    assert np.abs(tile.astype(int) - wanted[place]).max() <= 1


def test_a_tile_between_two_levels_comes_from_the_finer_one(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = RasterSlide.read
    monkeypatch.setattr(
        RasterSlide, "read", lambda self, box, level: (read.append(level), original(self, box, level))[1]
    )
    with open_slide(pyramid) as slide:
        tile = read_tile(slide, Box(300, 400, 900, 900), 3.0)
    assert read == [1]
    wanted = np.asarray(Image.fromarray(IMAGE[400:1300, 300:1200]).resize((300, 300), Image.Resampling.BOX))
    assert np.abs(tile.astype(int) - wanted).mean() < 2


def test_a_tile_at_the_odd_end_of_a_level_has_its_full_size(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        assert read_tile(slide, Box(992, 1392, 512, 512), 2.0).shape == (256, 256, 3)


def test_jpeg_2000_that_gdal_cannot_decode_is_read(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "j2k.svs", IMAGE, compression=33005)
    with pytest.raises(BadInput):
        read_image(path)
    with open_slide(path) as slide:
        tile = read_tile(slide, Box(500, 500, 256, 256), 1.0)
    assert np.abs(tile.astype(int) - IMAGE[500:756, 500:756]).mean() < 3


@pytest.mark.parametrize("name", ["pyramid", "svs"])
def test_the_small_picture_shows_the_slide(name: str, request: pytest.FixtureRequest) -> None:
    with open_slide(request.getfixturevalue(name)) as slide:
        small = overview(slide, 400, name)
    assert 350 <= small.shape[0] <= 950
    wanted = np.asarray(Image.fromarray(IMAGE).resize(small.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - wanted).mean() < 3


def test_the_label_of_the_glass_is_never_taken_for_tissue(svs: Path) -> None:
    """GDAL numbers the label and the macro picture among the overviews."""
    small = read_window(svs, Box(0, 0, 1504, 1904), out_width_px=150, out_height_px=190)
    assert (small[..., 1] > 50).all()


def test_a_slide_is_read_window_by_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "one-level.tif", IMAGE, levels=1)
    monkeypatch.setattr(slides, "_STRIP_PX", 150_000)
    windows: list[int] = []
    original = RasterSlide.read
    monkeypatch.setattr(
        RasterSlide, "read", lambda self, box, level: (windows.append(box.area_px), original(self, box, level))[1]
    )
    with open_slide(path, budget_px=400_000) as slide:
        assert overview(slide, 200, "x").shape == (190, 150, 3)
        read_tile(slide, Box(0, 0, 512, 512), 1.0)
    assert len(windows) > 10
    assert max(windows) <= 400_000


def test_what_has_no_tiles_is_read_whole_and_under_the_budget(tmp_path: Path) -> None:
    png = tmp_path / "plain.png"
    png.write_bytes(encode_png(IMAGE))
    striped = tmp_path / "striped.tif"
    tifffile.imwrite(striped, IMAGE, photometric="rgb", rowsperstrip=16)
    for path in (png, striped):
        with open_slide(path) as slide:
            assert isinstance(slide, WholeImage)
            assert (read_tile(slide, Box(10, 20, 30, 40), 1.0) == IMAGE[20:60, 10:40]).all()
            assert slide.um_per_px is None
        with pytest.raises(BadInput, match="pixels"), open_slide(path, budget_px=100_000):
            pass


def test_print_resolutions_are_no_scale(tmp_path: Path) -> None:
    path = tmp_path / "dpi.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", tile=(256, 256), resolution=(300, 300), resolutionunit="INCH")
    with open_slide(path) as slide:
        assert slide.um_per_px is None


def test_text_that_calls_itself_a_slide_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_text("<VRTDataset rasterXSize='10' rasterYSize='10'></VRTDataset>")
    with pytest.raises(BadInput, match="first bytes"), open_slide(path):
        pass


@pytest.mark.parametrize("kept", [8, 200, 40_000])
@pytest.mark.parametrize("name", ["pyramid", "svs"])
def test_a_slide_cut_short_is_one_clear_line(
    name: str, kept: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole: Path = request.getfixturevalue(name)
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(BadInput, match=whole.name) as told:
        _read_all(path, 400_000_000)
    assert "\n" not in str(told.value)


def _read_all(path: Path, budget_px: int) -> None:
    with open_slide(path, budget_px=budget_px) as slide:
        overview(slide, 400, str(path))
        read_tile(slide, Box(0, 0, 1504, 1904), 1.0)


def _with_tag(source: Path, path: Path, code: int, value: int) -> Path:
    """A copy whose first directory says something else in one of its tags (LONG or SHORT)."""
    shutil.copy(source, path)
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags[code]
        offset, kind = tag.valueoffset, "<I" if tag.dtype == 4 else "<H"
    data = bytearray(path.read_bytes())
    data[offset : offset + struct.calcsize(kind)] = struct.pack(kind, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["pyramid", "svs"])
@pytest.mark.parametrize(("code", "value"), [(322, 65_520), (256, 60_000), (257, 60_000)])
def test_a_header_that_claims_too_much_is_refused_before_anything_is_decoded(
    name: str, code: int, value: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole: Path = request.getfixturevalue(name)
    path = _with_tag(whole, tmp_path / whole.name, code, value)
    with pytest.raises(BadInput):
        _read_all(path, 10_000_000)


def test_a_slide_larger_than_any_is_refused(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "SLIDE_BUDGET_PX", 1_000_000)
    with pytest.raises(BadInput, match="more than any slide"), open_slide(pyramid):
        pass


def test_a_slide_without_a_small_level_that_is_too_large_to_scan_is_refused(
    pyramid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slides, "SCAN_BUDGET_PX", 100_000)
    with open_slide(pyramid) as slide, pytest.raises(BadInput, match="smaller levels"):
        overview(slide, 1000, "slide")


@pytest.mark.shared
def test_the_published_svs_and_the_pyramid_made_from_it_show_the_same(shared_dir: Path) -> None:
    tiles = []
    for name in ("CMU-1-Small-Region.svs", "CMU-1-Small-Region-pyramid.tiff"):
        with open_slide(shared_dir / "data" / "wsi" / name) as slide:
            assert slide_size(slide) == (2220, 2967)
            assert slide.um_per_px == pytest.approx(0.499, abs=1e-4)
            tiles.append(read_tile(slide, Box(1000, 1900, 1024, 1024), 2.0).astype(int))
    svs, pyramid = tiles

    def apart(dx: int, dy: int) -> float:
        """Grey levels between the two when one is moved."""
        moved = np.roll(pyramid, (dy, dx), axis=(0, 1))
        return float(np.abs(svs - moved)[2:-2, 2:-2].mean())

    # The levels were made in different ways: they must lie on each other better than a pixel aside.
    assert apart(0, 0) < 8
    assert min(apart(*move) for move in ((1, 0), (-1, 0), (0, 1), (0, -1))) > 1.2 * apart(0, 0)
