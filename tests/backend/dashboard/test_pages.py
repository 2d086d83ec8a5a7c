"""What the pages say, of an empty and of a full project; names of people's things are text wherever they stand."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Picture
from sqlalchemy import select

from backend.store import projects
from backend.store.sessions import Database
from backend.store.tables import Model, Project, Run
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from tests.builders import Installation
from tests.dashboard_project import HOSTILE, HOSTILE_FILE, KEY, LABEL_STUDIO, paths

pytestmark = pytest.mark.database
Visit = Callable[..., TestClient]
PROJECT = f"/projects/{KEY}"
LOADING = {"src", "srcset", "poster", "action", "data"}
EMPTY_PATHS = ["", "/queue", "/queue?stratum=audit", "/runs", "/people", "/audit"]


class Tags(HTMLParser):
    """Every tag with its attributes, as a browser would read them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def plain(text: str) -> str:
    """The text of a page without tags, in single spaces."""
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def empty(database_url: str, title: str = "Empty one") -> None:
    database = Database(database_url)
    with database.transaction() as session:
        classes = ClassSet.from_names(["background", "gland"])
        projects.create(session, title=title, classes=classes, policy=Policy(), seed=1)
    database.close()


def test_without_a_project_the_first_page_says_how_to_make_one(visit: Visit, tmp_path: Path) -> None:
    assert "mpamatch register" in visit(tmp_path).get("/").text


@pytest.mark.parametrize("path", EMPTY_PATHS)
def test_every_page_of_an_empty_project_opens(visit: Visit, database_url: str, tmp_path: Path, path: str) -> None:
    empty(database_url)
    response = visit(tmp_path).get(f"/projects/empty-one{path}")
    assert response.status_code == 200
    assert "Empty one" in response.text


def test_the_first_page_is_the_only_project_or_a_list(visit: Visit, database_url: str, made: Installation) -> None:
    client = visit(made.folder)
    assert client.get("/").headers["location"] == PROJECT
    empty(database_url)
    text = client.get("/").text
    assert f'href="{PROJECT}"' in text
    assert 'href="/projects/empty-one"' in text


def test_every_page_of_a_full_project_opens_and_takes_nothing_from_elsewhere(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    for path in paths(made):
        response = client.get(path)
        assert response.status_code == 200, path
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        for tag, attributes in Tags(response.text).found:
            loaded = {
                v for n, v in attributes.items() if n in LOADING or (n == "href" and tag in ("link", "use", "image"))
            }
            assert all(value.startswith("/") and not value.startswith("//") for value in loaded), (path, tag, loaded)
            assert "style" not in attributes, (path, tag)
            assert not [name for name in attributes if name.startswith("on")], (path, tag)
            if tag == "a":
                assert attributes["href"].startswith(("/", "#", f"{LABEL_STUDIO}/projects/7/")), attributes
        style = [t for t, _ in Tags(response.text).found if t == "style"]
        assert style == []


def test_every_address_that_a_page_names_is_there(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    named = set()
    for path in paths(made):
        for tag, attributes in Tags(client.get(path).text).found:
            value = attributes.get("src") or (attributes.get("href") if tag in ("a", "link", "image") else None)
            if value is not None and value.startswith("/"):
                named.add(value)
    assert len(named) > 50
    assert {path: client.get(path).status_code for path in named if client.get(path).status_code != 200} == {
        "/": 303,
    }


def test_titles_classes_files_and_problems_are_text(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    seen = ""
    for path in [*paths(made), "/projects/unknown-<b>", f"{PROJECT}/queue?stratum=<b>"]:
        text = client.get(path).text
        seen += text
        assert HOSTILE not in text, path
        assert "onerror" not in {name for _, attributes in Tags(text).found for name in attributes}, path
        assert "<b>" not in text
        scripts = [attributes for tag, attributes in Tags(text).found if tag == "script"]
        assert all(set(one) == {"src", "defer"} for one in scripts), path
    assert "&lt;script&gt;window.hit=1&lt;/script&gt;" in seen
    assert HOSTILE_FILE.replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;") in seen


def test_an_address_of_label_studio_that_is_none_becomes_no_link(visit: Visit, made: Installation) -> None:
    with made.database.transaction() as session:
        session.get_one(Project, made.project_id).ls_url = "javascript:alert(1)//"
    client = visit(made.folder)
    for path in paths(made):
        links = [attributes["href"] for tag, attributes in Tags(client.get(path).text).found if tag == "a"]
        assert all(link.startswith(("/", "#")) for link in links), path


def test_the_ring_tells_its_numbers_and_its_trouble(visit: Visit, made: Installation) -> None:
    text = plain(visit(made.folder).get(PROJECT).text)
    for said in (
        "Run 4 is training",
        "Step 120 of 300, about 1 min 35 s left.",
        "prediction 35 / 35 tiles seen by m2",
        "head 1 / 50",
        "annotation 3 1 skipped",
        "mask 3 2 train, 1 audit",
        "gate 2 / 3 candidates promoted",
        "1 image set aside",
        "1 annotation set aside",
        "1 webhook not applied yet",
        f"Label Studio at {LABEL_STUDIO} does not answer",
    ):
        assert said in text, said
    assert text.index("Holds up work") < text.index("The rest goes on")


def test_the_curve_marks_each_verdict_and_the_table_holds_the_same_figures(visit: Visit, made: Installation) -> None:
    text = visit(made.folder).get(PROJECT).text
    wide = text.split('<svg class="chart wide"')[1].split("</svg>")[0]
    assert wide.count('<circle class="promoted"') == 2
    assert wide.count('<path class="rejected"') == 1
    assert wide.count('class="whisker"') == 1
    table = plain(text.split("<tbody>")[1].split("</tbody>")[0])
    assert table.startswith(
        "m3 kept out 0.800 0.840 −0.040 −0.070 to −0.010 15 27 m2 serves promoted, provisional 0.870"
    )


def test_a_page_refreshes_only_when_asked_to_and_only_in_ways_that_are_offered(
    visit: Visit, made: Installation
) -> None:
    client = visit(made.folder)
    assert 'http-equiv="refresh"' not in client.get(PROJECT).text
    assert '<meta http-equiv="refresh" content="10">' in client.get(f"{PROJECT}?refresh=10").text
    for other in ("0", "1", "x", "10;url=//evil.example"):
        assert 'http-equiv="refresh"' not in client.get(PROJECT, params={"refresh": other}).text


def test_a_tile_says_why_it_stands_where_it_stands(visit: Visit, made: Installation) -> None:
    tile = made.tiles("train")[5]
    client = visit(made.folder)
    text = client.get(f"{PROJECT}/tiles/{tile.id}").text
    words = plain(text)
    assert re.search(r"Rank \d+ of \d+", words)
    assert "confidence 0.60 below 0.95 over 400 px" in words
    assert "1 gland &lt;script&gt;window.hit=1&lt;/script&gt; 400 0.60 0.50 0.20 0.30 0.00" in words
    assert "Open task 150 in Label Studio" in words
    assert "M10.0 10.0 30.0 10.0 30.0 30.0 10.0 30.0 10.0 10.0 Z" in text


def test_an_audit_tile_shows_no_suggestion_before_it_is_labelled(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    labelled, blind = made.tiles("audit")[:2]
    assert "no suggestion is shown" in client.get(f"{PROJECT}/tiles/{blind.id}").text
    assert client.get(f"{PROJECT}/tiles/{blind.id}/prediction.png").status_code == 404
    assert client.get(f"{PROJECT}/tiles/{labelled.id}/prediction.png").status_code == 200


def test_pictures_are_the_tile_a_small_one_and_transparent_outlines(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    at = f"{PROJECT}/tiles/{made.tiles('train')[0].id}"
    whole = Picture.open(io.BytesIO(client.get(f"{at}/picture.png").content))
    assert whole.size == (64, 64)
    assert Picture.open(io.BytesIO(client.get(f"{at}/small.jpg").content)).format == "JPEG"
    drawn = np.array(Picture.open(io.BytesIO(client.get(f"{at}/prediction.png").content)))
    dashed = np.array(Picture.open(io.BytesIO(client.get(f"{at}/mask.png").content)))
    assert drawn.shape == (64, 64, 4)
    assert 0 < (dashed[..., 3] > 0).sum() < (drawn[..., 3] > 0).sum() < 400
    assert {tuple(int(v) for v in p) for p in drawn[drawn[..., 3] > 0]} == {(0xD6, 0x27, 0x28, 255)}
    tag = client.get(f"{at}/picture.png").headers["etag"]
    assert client.get(f"{at}/picture.png", headers={"If-None-Match": tag}).status_code == 304


def test_a_tile_of_another_project_is_not_shown(visit: Visit, database_url: str, made: Installation) -> None:
    empty(database_url)
    client = visit(made.folder)
    tile = made.tiles()[0].id
    for name in (
        "",
        "/picture.png",
        "/small.jpg",
        "/prediction.png",
        "/mask.png",
        "/uncertainty.png",
        "/uncertainty-small.png",
    ):
        assert client.get(f"/projects/empty-one/tiles/{tile}{name}").status_code == 404
        assert client.get(f"{PROJECT}/tiles/{10**30}{name}").status_code == 404


def test_people_are_numbers_with_what_they_did(visit: Visit, made: Installation) -> None:
    text = plain(visit(made.folder).get(f"{PROJECT}/people").text)
    assert "annotator 1 2 2 15 s 50 % 1 0 " in text
    assert "annotator 2 1 1 50 s 0 % 0 1 " in text
    assert "@" not in text


def test_a_run_shows_its_losses_and_its_recipe(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    text = client.get(f"{PROJECT}/runs/4").text
    assert text.count('<path class="loss') == 12  # three lines in each of three widths, and once in the key
    assert "method mpamatch-image " in plain(text)
    assert "The steps are where the run&#39;s worker is" not in text
    assert "from here only the last one is seen" in client.get(f"{PROJECT}/runs/1").text


def test_a_run_that_adapts_says_that_it_learns_no_label_and_shows_no_losses(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    with made.database.transaction() as session:
        for number in (1, 4):
            run = session.scalars(select(Run).where(Run.number == number)).one()
            run.trigger, run.progress = "adapt", {"step": 2, "steps": 6, "eta_s": 1.0}
        model = session.scalars(select(Model).join(Run, Run.id == Model.run_id).where(Run.number == 1)).one()
        model.metrics = {"adapted": {"from": f"{KEY}-m0", "images": 20}}
    for number in (1, 4):
        text = client.get(f"{PROJECT}/runs/{number}").text
        assert "it trains nothing and learns no label" in plain(text)
        assert "Labelled tiles none" in plain(text)
        assert not [word for word in ("Losses over steps", "The whole recipe", "Method") if word in text]
        assert "Batch 2 of 6" in text
    assert "learns no label" in plain(client.get(f"{PROJECT}/runs").text)
    ring = plain(client.get(PROJECT).text)
    assert "Run 4 adapts the champion's norms to the pool" in ring.replace("&#39;", "'")
    assert 'data-name="Labelled">none<' in client.get(PROJECT).text


@pytest.mark.parametrize(
    ("trigger", "said", "remedy"),
    [
        ("adapt", "adapting in run 4 failed: no norms", "nothing waits for this: label on"),
        ("manual", "run 4 failed: no norms", "then start a run"),
    ],
)
def test_what_to_do_about_a_failed_run_goes_by_what_it_was_for(
    visit: Visit, made: Installation, trigger: str, said: str, remedy: str
) -> None:
    with made.database.transaction() as session:
        run = session.scalars(select(Run).where(Run.number == 4)).one()
        run.trigger, run.state, run.problem = trigger, "failed", "no norms"
    ring = plain(visit(made.folder).get(PROJECT).text)
    assert said in ring
    assert remedy in ring
    assert ("then start a run" in ring) == (trigger == "manual")


def test_a_run_shows_what_it_noted(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    assert "What it noted: low-rank tuning given up &lt;script&gt;" in plain(client.get(f"{PROJECT}/runs/1").text)
    assert "What it noted" not in client.get(f"{PROJECT}/runs/4").text


def test_a_run_says_how_right_its_pseudo_labels_were_where_it_knows(visit: Visit, made: Installation) -> None:
    client, said = visit(made.folder), "of labelled pixels kept back that are so, 93 % are right."
    assert said in plain(client.get(f"{PROJECT}/runs/1").text)
    with made.database.transaction() as session:
        run = session.scalars(select(Run).where(Run.number == 1)).one()
        run.metrics = {**run.metrics, "pseudo_labels": None}
    assert "kept back" not in plain(client.get(f"{PROJECT}/runs/1").text)


def test_a_run_that_ended_shows_its_curves_and_how_its_prototypes_are(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    text = client.get(f"{PROJECT}/runs/1").text
    assert f'src="{PROJECT}/runs/1/curves.png"' in text
    assert "mean Dice 0.812 on the audit tiles" in " ".join(text.split())
    assert "Image prototypes: about 3 rows used of each class, highest cosine between classes 0.62." in plain(text)
    picture = client.get(f"{PROJECT}/runs/1/curves.png")
    assert picture.headers["content-type"] == "image/png"
    assert Picture.open(io.BytesIO(picture.content)).size[0] > 0
    assert "curves.png" not in client.get(f"{PROJECT}/runs/4").text
    assert client.get(f"{PROJECT}/runs/4/curves.png").status_code == 404
    assert visit(made.folder, signed_in=False).get(f"{PROJECT}/runs/1/curves.png").status_code in (303, 401)


@pytest.mark.parametrize(
    ("most_between", "said"),
    [(0.97, "rows of different classes lie on each other"), (0.4, "hardly more than one is used")],
)
def test_a_collapse_of_prototypes_is_said_as_what_it_is(
    visit: Visit, made: Installation, most_between: float, said: str
) -> None:
    collapsed = {"used": 1.2, "within": 0.4, "between": 0.1, "most_between": most_between, "collapsed": True}
    with made.database.transaction() as session:
        run = session.scalars(select(Run).where(Run.number == 1)).one()
        run.metrics = {**run.metrics, "prototypes": collapsed}
    text = plain(visit(made.folder).get(f"{PROJECT}/runs/1").text)
    assert said in text
    assert ("rows of different classes" in text) == (most_between > 0.95)


@pytest.mark.parametrize(
    "path",
    ["/projects/none", f"{PROJECT}/runs/99", f"{PROJECT}/none", f"{PROJECT}/queue?page=0", f"{PROJECT}/queue?page=²"],
)
def test_what_is_not_there_is_a_page_with_a_way_back(visit: Visit, made: Installation, path: str) -> None:
    response = visit(made.folder).get(path)
    assert response.status_code == 404
    assert "<h1>Not found</h1>" in response.text
    assert 'href="/"' in response.text


def test_an_unexpected_error_tells_a_number_and_nothing_else(
    visit: Visit, made: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = visit(made.folder)

    def fail(*_: object) -> None:
        raise RuntimeError("a secret in a traceback")

    monkeypatch.setattr("backend.dashboard.pages.see_people", fail)
    with caplog.at_level(logging.ERROR, logger="mpamatch.dashboard"):
        response = client.get(f"{PROJECT}/people")
    assert response.status_code == 500
    assert "secret" not in response.text
    number = re.search(r"the log has it as ([0-9a-f]{12})", response.text)
    assert number is not None
    assert any(number[1] in record.getMessage() for record in caplog.records)


def test_the_database_being_away_is_said_in_words(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    client.app.api.state.parts.database.engine.dispose()  # type: ignore[attr-defined]
    client.app.api.state.parts.database.engine.connect = _away  # type: ignore[attr-defined]
    response = client.get(f"{PROJECT}/people")
    assert response.status_code == 503
    assert "Not available now" in response.text


def _away(*_: object, **__: object) -> None:
    from sqlalchemy.exc import OperationalError

    raise OperationalError("SELECT 1", {}, Exception("gone"))


def test_links_into_label_studio_are_those_of_browsers(made: Installation, visit: Callable[..., TestClient]) -> None:
    """The server may know it by a name that no browser can resolve."""
    page = visit(made.folder, label_studio_public_url="https://labels.example.org").get(f"/projects/{KEY}").text
    assert "https://labels.example.org/projects/7/data" in page
    assert f"{LABEL_STUDIO}/projects" not in page
    with made.database.transaction() as session:
        session.get_one(Project, made.project_id).ls_elsewhere = True
    page = visit(made.folder, label_studio_public_url="https://labels.example.org").get(f"/projects/{KEY}").text
    assert f"{LABEL_STUDIO}/projects/7/data" in page, "adopted from another server, it is opened there"
    with made.database.transaction() as session:
        session.get_one(Project, made.project_id).ls_elsewhere = False
