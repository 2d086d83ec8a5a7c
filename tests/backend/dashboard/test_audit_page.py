"""What the pages say of whether it works: of a project with figures, of one without, and of one with an alarm."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Picture

from backend.actions.audit_tau import audit_tau
from backend.dashboard.reliability_chart import reliability_chart
from backend.store import predictions, projects
from mpamatch.domain.reliability import Bin
from mpamatch.files.rasters import decode_raster
from tests.audited_project import audited
from tests.backend.dashboard.test_pages import PROJECT, Tags, Visit, plain
from tests.builders import Installation
from tests.dashboard_project import HOSTILE

pytestmark = pytest.mark.database


def test_a_project_with_figures_shows_them_all(visit: Visit, made: Installation) -> None:
    """One project for all pages: it takes seconds to make."""
    audited(made)
    client = visit(made.folder)
    _the_diagram_and_the_table_hold_the_same_figures(client, made)
    _the_page_says_what_each_class_would_need_and_what_audit_tiles_say_of_it(client, made)
    _advice_stands_beside_the_learning_curve_and_is_no_order(client, made)
    _people_have_costs_and_agreement(client, made)
    _uncertainty_is_clear_where_the_model_is_sure_and_hidden_where_it_may_not_be_seen(client, made)


def _the_diagram_and_the_table_hold_the_same_figures(client: TestClient, made: Installation) -> None:
    with made.database.transaction() as session:
        found = audit_tau(session, projects.get(session, made.project_id))
    for query, of in (("", found.audit[0]), ("?class=1", found.audit[2])):
        text = client.get(f"{PROJECT}/audit{query}").text
        drawn = text.split('<svg class="chart square"')[1].split("</svg>")[0]
        held = [b for b in of.bins if b.pixels]
        assert drawn.count('<circle class="bin"') == drawn.count('<rect class="pixels"') == len(held) > 4
        assert drawn.count('class="whisker"') == len([b for b in held if b.bounds])
        table = plain(text.split("Table of confidence")[1].split("</table>")[0])
        for one in held:
            assert one.confidence is not None
            assert one.acceptance is not None
            row = f"{one.low:g} to {one.high:g} {one.share:.1%} {one.confidence:.1%} {one.acceptance:.1%}"
            assert row.replace("%", " %") in table
    assert client.get(f"{PROJECT}/audit?class=2").status_code == 404
    assert client.get(f"{PROJECT}/audit?class=x").status_code == 404


def _the_page_says_what_each_class_would_need_and_what_audit_tiles_say_of_it(
    client: TestClient, made: Installation
) -> None:
    with made.database.transaction() as session:
        found = audit_tau(session, projects.get(session, made.project_id))
    assert found.held_tiles == 10
    background, judged = found.advice[0], found.judged[0]
    assert background.tau is not None
    assert judged is not None
    assert judged.acceptance is not None
    page = client.get(f"{PROJECT}/audit").text
    text = plain(page)
    table = plain(page.split("Table of thresholds")[1].split("</table>")[0])
    row = re.search(r"audit background (.+?) gland", table)
    assert row is not None
    assert f" {background.tau:g} " in row[1]
    assert f"{judged.acceptance:.1%}".replace("%", " %") in row[1]
    assert "No sign that the models confirm themselves" in text
    assert "10 labelled tiles of 10 groups" in text


def test_an_alarm_is_said_on_the_audit_page_and_on_the_ring(visit: Visit, made: Installation) -> None:
    audited(made, alarm=True)
    client = visit(made.folder)
    text = client.get(f"{PROJECT}/audit").text
    assert "Alarm: the models may be confirming themselves" in text
    assert '<section class="troubles" aria-labelledby="drift">' in text
    ring = plain(client.get(PROJECT).text)
    assert "The rest goes on: models grow surer while people agree with them less: over 2 champions" in ring
    for path in ("/audit", "/audit?class=1", "/people"):  # names are text here too
        text = client.get(f"{PROJECT}{path}").text
        assert HOSTILE not in text
        assert not [a for _, a in Tags(text).found if "style" in a or any(n.startswith("on") for n in a)]


def test_without_figures_every_part_says_what_it_waits_for_and_the_queue_its_depth_and_age(
    visit: Visit, made: Installation
) -> None:
    client = visit(made.folder)
    text = plain(client.get(f"{PROJECT}/audit").text)
    assert "Too early to say: it takes two champions that saw the same audit tiles." in text
    assert "Nothing to compare yet" in text
    assert "1 prediction not counted yet" in text
    text = plain(client.get(f"{PROJECT}/queue").text)
    assert "Depth and age" in text
    assert re.search(r"by score \d+ \d+ in Label Studio, \d+ behind; the oldest registered ", text)
    assert re.search(r"Ranked (just now|\d+ (s|min) ago)", text)
    assert "Depth and age" not in client.get(f"{PROJECT}/queue?page=2").text


def _advice_stands_beside_the_learning_curve_and_is_no_order(client: TestClient, made: Installation) -> None:
    ring = plain(client.get(PROJECT).text)
    assert (
        "Too early to say: 2 verdicts with bounds on a model with more labels than the one before, 3 are needed."
        in ring
    )
    text = client.get(f"{PROJECT}/audit").text
    table = plain(text.split("brought and cost")[1].split("</table>")[0])
    assert "m3 kept out m2 18 → 27" in table
    assert "m2 m1 9 → 18" in table
    assert "−0.040 −0.060 to −0.020" in table


def _people_have_costs_and_agreement(client: TestClient, made: Installation) -> None:
    text = plain(client.get(f"{PROJECT}/people").text)
    assert re.search(r"everybody \d+ \d+\.\d \d\.\d\d \d+ s fitted", text)
    assert "annotator 2 " in text
    assert "labels with a time: as for all" in text
    assert re.search(r"annotator 1, annotator 2 7 0 0\.9\d\d ", text)


def _uncertainty_is_clear_where_the_model_is_sure_and_hidden_where_it_may_not_be_seen(
    client: TestClient, made: Installation
) -> None:
    labelled, blind = made.tiles("audit")[-1], made.tiles("audit")[1]
    response = client.get(f"{PROJECT}/tiles/{labelled.id}/uncertainty.png")
    drawn = np.array(Picture.open(io.BytesIO(response.content)))
    assert drawn.shape == (64, 64, 4)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        stored = predictions.of(session, labelled.id, champion.id)
    assert stored is not None
    confidence = decode_raster(made.blobs.get(stored.confidence_blob))
    assert drawn[..., 3][confidence == confidence.max()].max() < 40
    order = np.argsort(confidence, axis=None, kind="stable")
    assert (np.diff(drawn[..., 3].ravel()[order].astype(int)) <= 0).all()  # the surer, the clearer
    assert drawn[..., 3].max() > 150
    assert client.get(f"{PROJECT}/tiles/{blind.id}/uncertainty.png").status_code == 404
    page = client.get(f"{PROJECT}/tiles/{labelled.id}").text
    assert f'src="{PROJECT}/tiles/{labelled.id}/uncertainty.png"' in page
    assert "uncertainty.png" not in client.get(f"{PROJECT}/tiles/{blind.id}").text


def _bin(low: float, high: float, said: float, accepted: float, share: float) -> Bin:
    return Bin(low, high, 100, share, said, accepted, (accepted - 0.05, accepted), None)


def test_the_diagrams_axes_begin_where_its_figures_do() -> None:
    chart = reliability_chart(
        [_bin(0.5, 0.6, 0.55, 0.6, 0.5), _bin(0.9, 1.0, 0.95, 0.9, 0.5)], 0.95, width=380, height=380
    )
    assert chart is not None
    assert [t.text for t in chart.across] == ["0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]
    low, high = chart.points
    assert low.x == pytest.approx(chart.left + 0.1 * (chart.right - chart.left), abs=0.1)
    assert low.y == pytest.approx(chart.bottom - 0.2 * (chart.bottom - chart.top), abs=0.1)
    assert chart.tau == pytest.approx(high.x, abs=0.1)
    assert chart.columns[0].height == chart.columns[1].height > 0
    wide = reliability_chart([_bin(0.5, 0.6, 0.55, 0.3, 1.0)], 0.95, width=380, height=380)
    assert wide is not None
    assert wide.across[0].text == "0.0"
    assert reliability_chart([], 0.95, width=380, height=380) is None


def test_the_first_page_works_it_out_twice_a_minute_at_most(made: Installation) -> None:
    from backend.dashboard.told import Knowing

    clock = iter([0.0, 29.0, 31.0])
    knowing = Knowing(clock=lambda: next(clock))
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        first = knowing.of(session, project)
        assert knowing.of(session, project) is first
        assert knowing.of(session, project) is not first
