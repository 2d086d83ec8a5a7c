import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from backend.actions.export_masks import export_masks
from backend.actions.import_masks import files_of, import_masks
from backend.actions.register_images import RegisterItem, register
from backend.store import masks, projects
from backend.store.tables import Mask, Tile
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.files.images import encode_png, read_image
from mpamatch.files.rasters import decode_raster, encode_raster
from tests.builders import Installation, installation, picture
from tests.coco_runs import decode_runs
from tests.mpamatch.files.slide_files import tissue, write_pyramid

pytestmark = pytest.mark.database

NAMES = ("background", "gland", "stroma")
FORMS = ("png", "geojson")


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Three classes; two small pictures, and a slide whose last row of tiles is lower than the others."""
    found = installation(database_url, tmp_path, train=0, audit=0)
    policy = Policy(debounce_s=0, tile_px=256, tile_um_per_px=0.5)
    with found.database.transaction() as session:
        found.project_id = projects.create(
            session, title="Three classes", classes=ClassSet.from_names(NAMES), policy=policy, seed=1
        ).id
    for number in range(2):
        (tmp_path / f"small {number}.png").write_bytes(encode_png(picture(number)))
    slide = write_pyramid(tmp_path / "slide.tif", tissue(1024, 1300), um_per_px=0.25)
    items = [
        RegisterItem(tmp_path / "small 0.png", "a", split="train"),
        RegisterItem(tmp_path / "small 1.png", "b", split="audit"),
        RegisterItem(slide, "c", split="train"),
    ]
    report = register(found.database, found.blobs, found.project_id, items)
    assert not report.problems
    return found


def ragged(tile: Tile, seed: int, *, unknown: bool = True) -> np.ndarray:
    """A mask of three classes with holes, corners that touch, and parts that nobody looked at."""
    width, height = tile.size_px
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 4)
    found = np.digitize(rough, np.quantile(rough, [0.4, 0.7, 0.85])).astype(np.uint8)
    found[found == 3] = 255 if unknown else 0
    return found


def give(made: Installation, tile: Tile, mask: np.ndarray, origin: str = "annotated") -> None:
    blob = made.blobs.put(encode_raster(mask))
    share = float((mask != 255).mean())
    with made.database.transaction() as session:
        masks.append(session, tile_id=tile.id, origin=origin, blob=blob, reviewed_share=share)


def give_all(made: Installation, *, skip: int = 1) -> dict[int, np.ndarray]:
    """Masks for all tiles but the first few of the slide, by tile."""
    tiles = made.tiles()
    chosen = [*tiles[:2], *tiles[2 + skip :]]
    given = {t.id: ragged(t, t.id) for t in chosen}
    for tile in chosen:
        give(made, tile, given[tile.id])
    return given


def forget(made: Installation) -> None:
    with made.database.transaction() as session:
        session.query(Mask).delete()


def current(made: Installation) -> dict[int, np.ndarray]:
    with made.database.transaction() as session:
        return {m.tile_id: decode_raster(made.blobs.get(m.blob)) for m in masks.current(session, made.project_id)}


def same(found: dict[int, np.ndarray], wanted: dict[int, np.ndarray]) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[k], wanted[k]) for k in wanted)


def _out(made: Installation, form: str, name: str = "out", **options: object) -> Path:
    out = made.folder / name
    report = export_masks(made.database, made.blobs, made.project_id, out, form=form, **options)  # type: ignore[arg-type]
    assert not report.problems
    return out


def _in(made: Installation, *paths: Path):  # type: ignore[no-untyped-def]
    return import_masks(made.database, made.blobs, made.project_id, files_of(list(paths)))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_exported_and_imported_is_the_same_bit_for_bit(made: Installation, form: str) -> None:
    given = give_all(made)
    assert len({t.size_px for t in made.tiles() if t.scale == 2.0}) > 1
    out = _out(made, form)
    forget(made)
    report = _in(made, out)
    assert (report.masks, report.unchanged, report.problems) == (len(given), 0, [])
    assert same(current(made), given)


@pytest.mark.parametrize("form", FORMS)
def test_importing_what_counts_already_changes_nothing(made: Installation, form: str) -> None:
    given = give_all(made)
    report = _in(made, _out(made, form))
    assert (report.masks, report.unchanged) == (0, len(given))
    with made.database.transaction() as session:
        assert {m.origin for m in session.query(Mask)} == {"annotated"}


@pytest.mark.parametrize("form", FORMS)
def test_background_and_what_nobody_looked_at_stay_apart(made: Installation, form: str) -> None:
    """With two classes too, where 0 and 255 alone are often two classes."""
    tile = made.tiles()[0]
    mask = np.full(tile.size_px[::-1], 255, np.uint8)
    mask[10:30, 5:50] = 0
    give(made, tile, mask)
    out = _out(made, form)
    forget(made)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.classes = ClassSet.from_names(NAMES[:2]).to_json()
    assert _in(made, out).masks == 1
    assert same(current(made), {tile.id: mask})


def test_an_imported_mask_is_a_new_version_that_counts(made: Installation) -> None:
    tile = made.tiles()[0]
    first, second = ragged(tile, 1), ragged(tile, 2)
    give(made, tile, first)
    out = _out(made, "png")
    give(made, tile, second)
    for _ in range(2):
        _in(made, out)
    with made.database.transaction() as session:
        rows = session.query(Mask).order_by(Mask.version).all()
        assert [(m.version, m.origin) for m in rows] == [(1, "annotated"), (2, "annotated"), (3, "imported")]
        assert projects.get(session, made.project_id).ranked_model_id is None
    assert same(current(made), {tile.id: first})


def test_png_palettes_show_the_colours_of_the_classes(made: Installation) -> None:
    give_all(made)
    out = _out(made, "png", pictures=True)
    with Pillow.open(out / "small 0.png") as file:
        assert file.mode == "P"
        palette = np.array(file.getpalette()).reshape(-1, 3)
    colours = [f"#{bytes(c.astype(np.uint8)).hex()}" for c in palette[:3]]
    assert colours == [c.colour for c in ClassSet.from_names(NAMES).classes]
    assert palette[255].tolist() == [255, 255, 255]
    names = {p.name for p in out.glob("*.png")}
    assert names == {p.name for p in (out / "pictures").iterdir()}
    tile = made.tiles()[-1]
    name = f"slide_{tile.x_px}-{tile.y_px}-{tile.width_px}-{tile.height_px}.png"
    assert (read_image(out / "pictures" / name) == read_image(made.blobs.get(tile.png_blob))).all()


def test_a_whole_slide_as_one_png_comes_back_where_tiles_do_not_lie_over_each_other(made: Installation) -> None:
    wanted = {}
    for tile in made.tiles():
        if tile.width_px == 512 and tile.y_px in (0, 512):
            wanted[tile.id] = ragged(tile, tile.id)
            give(made, tile, wanted[tile.id])
    out = _out(made, "png", whole=True)
    with Pillow.open(out / "slide.png") as file:
        assert file.size == (512, 650)
    forget(made)
    _in(made, out)
    found = current(made)
    assert same({k: found[k] for k in wanted}, wanted)


def test_only_the_origins_that_were_asked_for_are_exported(made: Installation) -> None:
    first, second = made.tiles()[:2]
    give(made, first, ragged(first, 1), "annotated")
    give(made, first, ragged(first, 2), "confirmed")
    give(made, second, ragged(second, 3), "imported")
    assert {p.name for p in _out(made, "png", "a", origins=["confirmed"]).iterdir()} == {"small 0.png"}
    assert {p.name for p in _out(made, "png", "b", origins=["imported"]).iterdir()} == {"small 1.png"}
    assert not (made.folder / "c").exists() or not any((made.folder / "c").iterdir())
    report = export_masks(
        made.database, made.blobs, made.project_id, made.folder / "c", form="png", origins=["annotated"]
    )
    assert (report.images, report.files) == (0, [])


def test_geojson_is_what_qupath_reads(made: Installation) -> None:
    given = give_all(made)
    out = _out(made, "geojson")
    values = json.loads((out / "slide.geojson").read_text())
    assert values["type"] == "FeatureCollection"
    names = {f["properties"]["classification"]["name"] for f in values["features"]}
    assert names == {"gland", "stroma", "Region*"}
    gland = ClassSet.from_names(NAMES).classes[1]
    for feature in values["features"]:
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")
        assert feature["properties"]["objectType"] == "annotation"
        assert len(feature["id"]) == 36
        if feature["properties"]["classification"]["name"] == "gland":
            assert bytes(feature["properties"]["classification"]["color"]).hex() == gland.colour[1:]
    ids = [f["id"] for f in values["features"]]
    assert len(set(ids)) == len(ids)
    assert len(given) == len({f["properties"]["metadata"]["tile"] for f in values["features"]}) + 2
    again = json.loads((_out(made, "geojson", "again") / "slide.geojson").read_text())
    assert [f["id"] for f in again["features"]] == ids


def test_objects_without_reviewed_areas_review_the_tiles_that_they_touch(made: Installation) -> None:
    tiles = [t for t in made.tiles() if t.scale == 2.0]
    file = made.folder / "slide.geojson"
    ring = [[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [_feature("gland", ring)]}))
    assert _in(made, file).masks == 1
    mask = np.zeros((256, 256), np.uint8)
    mask[50:150, 50:150] = 1
    assert same(current(made), {tiles[0].id: mask})


def _feature(name: object, ring: list[list[float]], **metadata: str) -> dict[str, object]:
    properties: dict[str, object] = {"objectType": "annotation", "metadata": metadata}
    if name is not None:
        properties["classification"] = {"name": name}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def test_an_outline_drawn_beyond_its_tile_is_cut_and_said(made: Installation) -> None:
    tile = next(t for t in made.tiles() if t.scale == 2.0)
    word = f"{tile.x_px},{tile.y_px},{tile.width_px},{tile.height_px}"
    file = made.folder / "slide.geojson"
    ring = [[100, 100], [800, 100], [800, 300], [100, 300], [100, 100]]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [_feature("gland", ring, tile=word)]}))
    report = _in(made, file)
    assert report.masks == 1
    assert "1 objects reach beyond" in report.notes[0]


SQUARE = [[1, 1], [9, 1], [9, 9], [1, 9], [1, 1]]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("small 0", {"type": "FeatureCollection", "features": [_feature("lymph", SQUARE)]}, "unknown class 'lymph'"),
        ("small 0", {"type": "FeatureCollection", "features": [_feature(None, SQUARE)]}, "1 objects have no class"),
        ("small 0", {"type": "FeatureCollection", "features": []}, "holds no object"),
        ("small 0", {"type": "Topology"}, "no GeoJSON FeatureCollection"),
        ("small 0", [_feature("gland", [[0, 0], [900, 0], [900, 900], [0, 0]])], "its image has 64 x 64 px"),
        ("small 0", [_feature("gland", [[0, 0], [1, 1]])], "outline is damaged"),
        ("small 0", [{**_feature("gland", SQUARE), "geometry": {"type": "Point", "coordinates": [1, 1]}}], "no area"),
        ("absent", [_feature("gland", SQUARE)], "no image of the project has this name"),
    ],
)
def test_a_bad_geojson_is_one_clear_line_and_the_rest_goes_on(
    made: Installation, name: str, values: object, said: str
) -> None:
    folder = made.folder / "in"
    folder.mkdir()
    (folder / f"{name}.geojson").write_text(json.dumps(values))
    (folder / "small 1.geojson").write_text(json.dumps([_feature("gland", SQUARE)]))
    report = _in(made, folder)
    assert report.masks == 1
    assert len(report.problems) == 1
    assert said in report.problems[0]
    assert "\n" not in report.problems[0]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": NaN}', "\xff"])
def test_what_is_no_json_is_one_clear_line(made: Installation, text: str) -> None:
    file = made.folder / "small 0.geojson"
    file.write_bytes(text.encode("latin-1"))
    assert "is no JSON" in _in(made, file).problems[0]


def test_a_png_of_another_size_or_with_an_unknown_class_is_one_clear_line(made: Installation) -> None:
    tile = made.tiles()[0]
    folder = made.folder / "in"
    folder.mkdir()
    (folder / "small 0.png").write_bytes(encode_raster(np.zeros((20, 30), np.uint8)))
    (folder / "small 1.png").write_bytes(encode_raster(np.full((64, 64), 7, np.uint8)))
    (folder / f"{tile.image_id}.png").write_bytes(encode_raster(np.ones((64, 64), np.uint8)))
    report = _in(made, folder)
    assert report.masks == 1
    assert sorted(line.split(": ")[1] for line in report.problems) == [
        "30 x 20 px, not 64 x 64; export it at the size of its image",
        "values 7 with 3 classes; store class ids (0, 1, ...), 255 for no supervision; for instances or 0/255 say"
        " --foreground",
    ]


def test_two_images_of_one_name_keep_their_masks_apart(made: Installation) -> None:
    folder = made.folder / "other"
    folder.mkdir()
    (folder / "small 0.png").write_bytes(encode_png(picture(9)))
    register(made.database, made.blobs, made.project_id, [RegisterItem(folder / "small 0.png", "d", split="train")])
    wanted = {t.id: ragged(t, t.id) for t in made.tiles() if t.scale == 1.0}
    for tile in made.tiles():
        if tile.id in wanted:
            give(made, tile, wanted[tile.id])
    out = _out(made, "png")
    forget(made)
    _in(made, out)
    assert same(current(made), wanted)
    shutil.copy(out / "small 1.png", made.folder / "small 0.png")
    assert "no image of the project has this name" in _in(made, made.folder / "small 0.png").problems[0]


def test_coco_is_exact_and_keeps_what_nobody_looked_at_out_of_the_background(made: Installation) -> None:
    given = give_all(made)
    values = json.loads((_out(made, "coco", pictures=True) / "annotations.json").read_text())
    assert {c["id"]: c["name"] for c in values["categories"]} == {1: "gland", 2: "stroma", 255: "not reviewed"}
    assert {i["id"] for i in values["images"]} == set(given)
    for image in values["images"]:
        assert (made.folder / "out" / "pictures" / image["file_name"]).is_file()
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for one in values["annotations"]:
            if one["image_id"] != image["id"]:
                continue
            where = decode_runs(one["segmentation"]["counts"], *one["segmentation"]["size"])
            assert one["area"] == where.sum()
            rows, columns = np.nonzero(where)
            assert one["bbox"] == [
                columns.min(),
                rows.min(),
                columns.max() - columns.min() + 1,
                rows.max() - rows.min() + 1,
            ]
            assert one["iscrowd"] == (one["category_id"] == 255)
            mask[where] = one["category_id"]
        assert np.array_equal(mask, given[image["id"]])


def _painted(features: list[dict[str, object]], name: str, size: tuple[int, int]) -> np.ndarray:
    """Objects of a class on level 0, by Pillow: shares no code with the product."""
    canvas = Pillow.new("1", size)
    draw = ImageDraw.Draw(canvas)
    for feature in features:
        properties, geometry = feature["properties"], feature["geometry"]
        if properties["classification"]["name"] != name:  # type: ignore[index]
            continue
        assert geometry["type"] == "Polygon"  # type: ignore[index]
        outer, *holes = geometry["coordinates"]  # type: ignore[index]
        # Pillow fills both ends of a row: pixel edges are moved in by half a pixel.
        for ring, value in ((outer, 1), *((hole, 0) for hole in holes)):
            draw.polygon([(x - 0.5, y - 0.5) for x, y in ring], fill=value)
    return np.asarray(canvas)


@pytest.mark.shared
@pytest.mark.parametrize("um_per_px", [0.5, 1.0, 1.37])
def test_exported_outlines_lie_on_the_tissue_of_the_published_pyramid(
    database_url: str, tmp_path: Path, shared_dir: Path, um_per_px: float
) -> None:
    """Dark pixels of each tile's picture become its mask; the outlines, painted on level 0 by another program, must
    lie on the dark pixels of level 0, as yet another program reads them."""
    policy = Policy(debounce_s=0, tile_px=512, tile_um_per_px=um_per_px)
    made = installation(database_url, tmp_path, train=0, audit=0, policy=policy)
    path = shared_dir / "data" / "wsi" / "CMU-1-Small-Region-pyramid.tiff"
    register(made.database, made.blobs, made.project_id, [RegisterItem(path, "a", split="train")])
    covered = np.zeros((2967, 2220), bool)
    for tile in made.tiles():
        covered[tile.y_px : tile.y_px + tile.height_px, tile.x_px : tile.x_px + tile.width_px] = True
        give(made, tile, (_smooth(read_image(made.blobs.get(tile.png_blob)), 4 / tile.scale) < 190).astype(np.uint8))
    out = _out(made, "geojson")
    features = json.loads((out / "CMU-1-Small-Region-pyramid.geojson").read_text())["features"]
    selected = _painted(features, "gland", (2220, 2967)) & covered
    level0 = tifffile.imread(path, key=0)
    dark = (_smooth(level0, 4) < 190) & covered
    iou = (selected & dark).sum() / (selected | dark).sum()
    assert dark.mean() > 0.1
    assert iou > 0.95
    moved = np.roll(selected, (24, 24), axis=(0, 1))
    assert (moved & dark).sum() / (moved | dark).sum() < iou - 0.1


def _smooth(image: np.ndarray, sigma_px: float) -> np.ndarray:
    return ndimage.gaussian_filter(image.astype(float).mean(axis=2), sigma_px, mode="nearest")
