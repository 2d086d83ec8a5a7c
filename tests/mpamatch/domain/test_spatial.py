import numpy as np
import pytest

from mpamatch.domain.spatial import MARGIN_TILES, TilePlan, plan_tiles


def _tissue(width: int, height: int) -> np.ndarray:
    return np.ones((height // 8, width // 8), bool)


def _ends(plan: TilePlan, axis: str) -> tuple[float, float, float]:
    """The end of the train part, the start and the end of the audit part."""

    def end(t: object) -> float:
        box = t.box  # type: ignore[attr-defined]
        return box.y_px + box.height_px if axis == "y" else box.x_px + box.width_px

    train = [t for t in plan.tiles if t.split is None]
    audit = [t for t in plan.tiles if t.split == "audit"]
    start = min(t.box.y_px if axis == "y" else t.box.x_px for t in audit)
    return max(end(t) for t in train), start, max(end(t) for t in audit)


@pytest.mark.parametrize(("width", "height", "axis"), [(2000, 6000, "y"), (7000, 2500, "x"), (2220, 2967, "y")])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_single_slide_is_parted_at_its_far_end_with_a_margin(
    width: int, height: int, axis: str, scale: float
) -> None:
    tile_px = 512
    plan = plan_tiles((width, height), _tissue(width, height), tile_px=tile_px, scale=scale, alone=True)
    train_end, audit_start, audit_end = _ends(plan, axis)
    assert audit_start - train_end >= MARGIN_TILES * tile_px * scale
    assert audit_end == max(width, height)
    assert (audit_end - audit_start) / audit_end >= 0.19
    assert plan.note is not None
    assert f"{axis} = {audit_start} px" in plan.note


def test_the_audit_block_holds_a_fifth_of_the_tissue_wherever_that_lies() -> None:
    tissue = _tissue(2048, 8192)
    tissue[512:] = False
    plan = plan_tiles((2048, 8192), tissue, tile_px=512, scale=1.0, alone=True)
    audit = sum(t.tissue_share * t.box.area_px for t in plan.tiles if t.split == "audit")
    assert audit / (tissue.sum() * 64) >= 0.15


def test_other_groups_leave_a_slide_whole() -> None:
    plan = plan_tiles((2048, 4096), _tissue(2048, 4096), tile_px=512, scale=1.0)
    assert plan.note is None
    assert {t.split for t in plan.tiles} == {None}
    assert len(plan.tiles) == 32


@pytest.mark.parametrize("size", [(700, 700), (1024, 1024)])
def test_a_slide_of_a_few_tiles_is_not_parted(size: tuple[int, int]) -> None:
    tissue = _tissue(*size)
    tissue[tissue.shape[0] // 3 :] = size == (700, 700)
    plan = plan_tiles(size, tissue, tile_px=512, scale=1.0, alone=True)
    assert {t.split for t in plan.tiles} == {None}


def test_only_tiles_with_a_tenth_of_tissue_are_taken() -> None:
    tissue = np.zeros((128, 128), bool)
    tissue[:20, :64] = True
    tissue[64:70, :64] = True
    plan = plan_tiles((1024, 1024), tissue, tile_px=512, scale=1.0)
    assert [(t.box.x_px, t.box.y_px) for t in plan.tiles] == [(0, 0)]
    assert plan.tiles[0].tissue_share == pytest.approx(20 / 64)


def test_what_is_one_tile_is_taken_whatever_it_shows() -> None:
    plan = plan_tiles((700, 500), np.zeros((50, 70), bool), tile_px=512, scale=1.0, alone=True)
    assert len(plan.tiles) == 1


def test_two_files_of_one_slide_are_parted_alike() -> None:
    rng = np.random.default_rng(1)
    noise = [_tissue(2220, 2967) & (rng.random((370, 277)) > 0.02) for _ in range(2)]
    plans = [plan_tiles((2220, 2967), tissue, tile_px=512, scale=1.0, alone=True) for tissue in noise]
    assert [(t.box, t.split) for t in plans[0].tiles] == [(t.box, t.split) for t in plans[1].tiles]
