"""`mpamatch predict`: a model over a folder of images; class maps, confidences and regions to review."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpamatch.cli.chosen_model import HELP as MODEL_HELP
from mpamatch.cli.chosen_model import choose_model
from mpamatch.cli.lifetime import use_threads
from mpamatch.cli.weights_option import AllowHub, WeightsDir
from mpamatch.errors import BadInput, MpamatchError

if TYPE_CHECKING:
    from mpamatch.domain.classes import ClassSet
    from mpamatch.domain.regions import Region

_FOLDER = {"file_okay": False, "exists": True}


def predict(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    images: Annotated[Path, typer.Option(help="A folder of images.", **_FOLDER)],
    out: Annotated[Path, typer.Option(help="Where classes/, confidence/ and regions.geojson go.", file_okay=False)],
    tau: Annotated[float | None, typer.Option(min=0, max=1, help="Regions are below it; the recipe's tau.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    weights_dir: WeightsDir = None,
    allow_hub: AllowHub = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Predict every image of a folder.

    Writes OUT/classes/NAME.png (class ids in the classes' colours), OUT/confidence/NAME.png (0..255 for 0..1) at the
    image's own size, and OUT/regions.geojson: outlines of uncertain regions in pixels, origin top left. An image that
    cannot be read is named and left out; the exit code is then 1.
    """
    from mpamatch.cli.progress import progress_bar
    from mpamatch.files.folders import scan_folder
    from mpamatch.inference import Predictor
    from mpamatch.network.weights import load_model

    use_threads(threads)
    loaded = load_model(choose_model(model), weights_dir=weights_dir, allow_hub=allow_hub)
    predictor, classes = Predictor(loaded), loaded.config.classes
    threshold = loaded.config.recipe.tau if tau is None else tau
    scan = scan_folder(images)
    if not scan.items:
        raise BadInput(str(images), "holds no image", "check the path")
    problems = list(scan.problems)
    features: list[dict[str, Any]] = []
    done = 0
    with progress_bar() as bar:
        for item in bar.track(scan.items, description="predicting"):
            name = item.image.relative_to(images.resolve())
            try:
                features += _predict_one(predictor, item.image, name, out, classes, threshold)
                done += 1
            except MpamatchError as error:
                problems.append(str(error))
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    collection = {"type": "FeatureCollection", "features": features}
    (out / "regions.geojson").write_text(json.dumps(collection) + "\n", encoding="utf-8")
    result = {"images": done, "regions": len(features), "out": str(out), "problems": problems}
    print(json.dumps(result) if as_json else f"{done} images, {len(features)} regions below {threshold} in {out}")
    if done < len(scan.items):
        raise typer.Exit(1)


def _predict_one(
    predictor: Any, path: Path, name: Path, out: Path, classes: ClassSet, tau: float
) -> list[dict[str, Any]]:
    import numpy as np

    from mpamatch.domain.looks import regions_of
    from mpamatch.files.images import read_image
    from mpamatch.files.masks import write_mask
    from mpamatch.files.rasters import encode_raster

    image = read_image(path)
    look = predictor.look(image)
    class_map = look.probabilities.argmax(axis=0).astype(np.uint8)
    confidence = np.rint(look.probabilities.max(axis=0) * 255).astype(np.uint8)
    rasters: Mapping[str, bytes] = {
        "classes": write_mask(class_map, [c.colour for c in classes.classes]),
        "confidence": encode_raster(confidence),
    }
    for kind, content in rasters.items():
        target = out / kind / name.with_name(name.name + ".png" if name.suffix.lower() != ".png" else name.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    found = regions_of(look, image, tau, reduction=predictor.reduction(image))
    return [_feature(region, name, classes) for region in found]


def _feature(region: Region, name: Path, classes: ClassSet) -> dict[str, Any]:
    rings: Sequence[Sequence[Sequence[float]]] = [[[x, y] for x, y in ring] for ring in region.rings]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "image": name.as_posix(),
            "area_px": region.area_px,
            "uncertainty": region.uncertainty,
            "margin": region.margin,
            "impurity": region.impurity,
            "disagreement": region.disagreement,
            "mean_confidence": region.mean_confidence,
            "predicted_class": classes.names[region.predicted_class],
        },
    }
