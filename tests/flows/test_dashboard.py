"""The dashboard in a real browser, served by a real `mpamatch serve`: by keyboard, by phone, without JavaScript."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from sqlalchemy import update

from backend.commands.ports import free_port
from backend.credentials import ensure_dashboard_token
from backend.label_studio_server import answers
from backend.store.tables import Run
from tests.audited_project import audited
from tests.builders import Installation
from tests.dashboard_project import KEY, LABEL_STUDIO, filled, paths
from tests.flows.browser import ARGUMENTS, find_chromium

pytestmark = [pytest.mark.database, pytest.mark.processes, pytest.mark.browser]
PROJECT = f"/projects/{KEY}"
PHONE, SMALL, DESKTOP = (390, 844), (320, 640), (1280, 900)


@dataclass
class Seen:
    """What a browser met on its way."""

    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@dataclass
class Served:
    """A running site and its project."""

    url: str
    token: str
    made: Installation


@pytest.fixture
def served(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Served]:
    made = filled(database_url, tmp_path / "state")
    port = free_port("127.0.0.1", 9600, lambda line: None, what="API")
    environment = {**os.environ, "MPAMATCH_STATE": str(made.folder)}
    environment |= {"MPAMATCH_DATABASE_URL": database_url, "MPAMATCH_BROKER_URL": redis_url}
    command = [sys.executable, "-c", "from mpamatch.cli import main; main()", "serve", "--port", str(port)]
    with open(tmp_path / "serve.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not answers("127.0.0.1", port, "/health"):
            assert process.poll() is None, (tmp_path / "serve.log").read_text()
            assert time.monotonic() < deadline, "not ready within a minute"
            time.sleep(0.2)
        yield Served(f"http://127.0.0.1:{port}", ensure_dashboard_token(made.folder), made)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium found: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Browser, size: tuple[int, int], **options: Any) -> Iterator[tuple[Page, Seen]]:
    """A fresh browser profile that notes errors and requests."""
    context: BrowserContext = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page, seen = context.new_page(), Seen()
    page.set_default_timeout(20_000)
    page.on("console", lambda m: seen.problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: seen.problems.append(str(e)))
    page.on("request", lambda r: seen.requests.append(r.url))
    yield page, seen
    context.close()


def sign_in(page: Page, served: Served, path: str = "/") -> None:
    """By keyboard alone: the field has the focus."""
    page.goto(served.url + path)
    # A browser sets the focus when it first draws, which may be after the page has loaded.
    page.wait_for_function("document.activeElement.name === 'token'")
    page.keyboard.type(served.token)
    page.keyboard.press("Enter")
    page.wait_for_url("**/projects/**")


def widths(page: Page) -> tuple[int, int]:
    found = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    return found[0], found[1]


def overflow(page: Page) -> int:
    scroll, inner = widths(page)
    return scroll - inner


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (SMALL, "dark")])
def test_every_page_fits_is_sound_to_axe_and_asks_nobody_else(
    browser: Browser, served: Served, size: tuple[int, int], scheme: str
) -> None:
    with opened(browser, size, color_scheme=scheme) as (page, seen):
        page.goto(f"{served.url}/login")
        assert Axe().run(page).violations_count == 0
        sign_in(page, served)
        for path in paths(served.made):
            page.goto(served.url + path)
            page.wait_for_load_state("load")
            assert overflow(page) <= 0, (path, widths(page))
            found = Axe().run(page)
            # A refresh that somebody asked for by a link, and ends by a link, is theirs.
            fine = {"meta-refresh"} if "refresh=" in path else set()
            assert {one["id"] for one in found.response["violations"]} <= fine, f"{path}\n{found.generate_report()}"
            assert page.evaluate("window.hit") is None, path
            assert _headings_in_order(page), path
        assert seen.problems == []
        assert {urlsplit(url).netloc for url in seen.requests} == {urlsplit(served.url).netloc}
        assert not any(served.token in url for url in seen.requests)


@pytest.mark.parametrize("width", [SMALL[0], PHONE[0], 760, 1000, DESKTOP[0], 1920])
def test_the_chart_of_a_run_is_as_wide_as_its_card_and_its_texts_as_large_as_the_pages(
    browser: Browser, served: Served, width: int
) -> None:
    with opened(browser, (width, 900)) as (page, _):
        sign_in(page, served)
        page.goto(f"{served.url}{PROJECT}/runs/4")
        (chart,) = [one for one in page.locator("svg.chart").all() if one.is_visible()]
        room, text_px = chart.evaluate(
            "s => [s.closest('figure').clientWidth, s.querySelector('text').getBoundingClientRect().height]"
        )
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] == pytest.approx(room, abs=1)
        assert 10 <= text_px <= 22


def test_axe_and_the_width_notice_a_page_that_is_broken(browser: Browser) -> None:
    with opened(browser, PHONE) as (page, _):
        page.set_content('<html><body><img src=""><input><p style="width:900px;color:#ccc">faint</p></body></html>')
        assert overflow(page) > 0
        broken = {one["id"] for one in Axe().run(page).response["violations"]}
        assert {"image-alt", "label", "color-contrast", "html-has-lang"} <= broken


def test_everything_works_without_javascript(browser: Browser, served: Served) -> None:
    with opened(browser, PHONE, java_script_enabled=False) as (page, seen):
        sign_in(page, served)
        for path in paths(served.made):
            response = page.goto(served.url + path)
            assert response is not None
            assert response.status == 200, path
            expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.goto(served.url + PROJECT)
        page.get_by_role("link", name="Refresh every 10 s").click()
        page.get_by_role("link", name="Stop refreshing").click()
        expect(page.get_by_role("link", name="Refresh every 10 s")).to_be_visible()
        page.get_by_role("button", name="Stop run 4").click()
        expect(page.get_by_text("It was asked to stop.")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert seen.problems == []


@pytest.mark.parametrize("path", ["", "/queue", "/runs/4", "/people", "/audit"])
def test_the_tab_key_reaches_every_link_and_button_in_reading_order(
    browser: Browser, served: Served, path: str
) -> None:
    with opened(browser, DESKTOP) as (page, _):
        sign_in(page, served)
        page.goto(f"{served.url}{PROJECT}{path}")
        page.evaluate("sessionStorage.setItem('live', 'off')")  # a part that is replaced would take the count along
        page.reload()
        wanted = page.evaluate(
            """() => [...document.querySelectorAll('a[href], button, summary, input:not([type=hidden])')]
                .filter(e => e.tabIndex >= 0 && e.checkVisibility()).map((e, n) => { e.dataset.n = n; return n; })"""
        )
        reached = []
        for _ in range(len(wanted) + 12):  # scrolling tables take the focus too
            page.keyboard.press("Tab")
            number = page.evaluate("document.activeElement.dataset.n")
            if number is not None and int(number) not in reached:
                reached.append(int(number))
        assert reached == wanted
        page.keyboard.press("Escape")


def test_the_first_tab_skips_to_the_content(browser: Browser, served: Served) -> None:
    with opened(browser, DESKTOP) as (page, _):
        sign_in(page, served)
        page.goto(f"{served.url}{PROJECT}/people")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def test_outlines_are_taken_off_and_put_on_by_keyboard(browser: Browser, served: Served) -> None:
    tile = served.made.tiles("train")[5]
    with opened(browser, PHONE) as (page, _):
        sign_in(page, served)
        page.goto(f"{served.url}{PROJECT}/tiles/{tile.id}")
        regions = page.get_by_role("img", name=re.compile("Outlines of 1 region"))
        expect(regions).to_be_visible()
        page.get_by_role("checkbox", name="Regions").focus()
        page.keyboard.press("Space")
        expect(regions).to_be_hidden()
        page.keyboard.press("Space")
        expect(regions).to_be_visible()
        uncertainty = page.get_by_role("img", name="How unsure the model is")
        expect(uncertainty).to_be_hidden()
        page.get_by_role("checkbox", name="Uncertainty").focus()
        page.keyboard.press("Space")
        expect(uncertainty).to_be_visible()
        for picture in page.locator(".layers img").all():
            expect(picture).to_have_js_property("naturalWidth", 64)


def test_the_audit_page_with_its_figures_is_sound_at_every_width_and_without_javascript(
    browser: Browser, served: Served
) -> None:
    audited(served.made, alarm=True)
    pages = ["/audit", "/audit?class=1", "/people", ""]
    for size in (DESKTOP, SMALL):
        with opened(browser, size) as (page, seen):
            sign_in(page, served)
            for path in pages:
                page.goto(served.url + PROJECT + path)
                assert overflow(page) <= 0, (path, widths(page))
                found = Axe().run(page)
                assert found.violations_count == 0, f"{path}\n{found.generate_report()}"
                assert _headings_in_order(page), path
            assert seen.problems == []
    with opened(browser, PHONE, java_script_enabled=False) as (page, _):
        sign_in(page, served)
        page.get_by_role("link", name="Audit", exact=True).click()
        expect(page.get_by_role("heading", name="Alarm: the models may be confirming themselves")).to_be_visible()
        diagram = page.get_by_role("img", name=re.compile("Reliability diagram"))
        expect(diagram).to_be_visible()
        page.get_by_role("navigation", name="Classes").get_by_role("link").nth(1).focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/audit?class=0")
        expect(diagram).to_be_visible()
        expect(page.get_by_role("region", name="Table of confidence").get_by_role("row").nth(1)).to_be_visible()


def test_what_changes_is_seen_without_a_reload_and_only_while_live(browser: Browser, served: Served) -> None:
    def train_on(step: int) -> None:
        with served.made.database.transaction() as session:
            progress = {"step": step, "steps": 300, "eta_s": 50.0}
            session.execute(update(Run).where(Run.number == 4).values(progress=progress))

    with opened(browser, DESKTOP) as (page, seen):
        sign_in(page, served)
        expect(page.get_by_text("Step 120 of 300")).to_be_visible()
        train_on(200)
        expect(page.get_by_text("Step 200 of 300")).to_be_visible(timeout=30_000)
        assert seen.requests.count(f"{served.url}{PROJECT}") >= 2
        assert page.get_by_role("status").text_content() == ""  # a number that moves is not read out
        with served.made.database.transaction() as session:
            session.execute(update(Run).where(Run.number == 4).values(state="judging"))
        expect(page.get_by_role("status")).to_have_text("Run 4 is being judged", timeout=30_000)
        page.get_by_role("button", name="Live: on").click()
        off = page.get_by_role("button", name="Live: off")
        expect(off).to_have_attribute("aria-pressed", "false")
        asked = len(seen.requests)
        page.wait_for_timeout(6_000)
        assert len(seen.requests) == asked
        assert seen.problems == []


def test_a_runs_state_beside_its_name_is_live_too(browser: Browser, served: Served) -> None:
    with opened(browser, DESKTOP) as (page, _):
        sign_in(page, served)
        page.goto(f"{served.url}{PROJECT}/runs/4")
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_contain_text("training")
        with served.made.database.transaction() as session:
            session.execute(update(Run).where(Run.number == 4).values(state="judging"))
        expect(heading).to_contain_text("judging", timeout=30_000)


def test_a_link_on_another_site_arrives_signed_in(browser: Browser, served: Served) -> None:
    with opened(browser, DESKTOP) as (page, _):
        sign_in(page, served)
        target = f"{served.url}{PROJECT}/queue"
        link = f'<a href="{target}">to the queue</a>'
        page.route("http://elsewhere.test/", lambda route: route.fulfill(body=link, content_type="text/html"))
        page.goto("http://elsewhere.test/")
        page.get_by_role("link").click()
        expect(page.get_by_role("heading", name="Queue", level=1)).to_be_visible()


def test_a_form_on_another_site_does_nothing(browser: Browser, served: Served) -> None:
    with opened(browser, DESKTOP) as (page, _):
        sign_in(page, served)
        form = f'<form method="post" action="{served.url}{PROJECT}/runs/4/stop"><button>Win</button></form>'
        page.route("http://elsewhere.test/", lambda route: route.fulfill(body=form, content_type="text/html"))
        page.goto("http://elsewhere.test/")
        page.get_by_role("button").click()
        expect(page.get_by_role("heading", name="Not from this page")).to_be_visible()
        with served.made.database.transaction() as session:
            assert session.query(Run).filter(Run.number == 4).one().cancel_requested is False


def test_the_pages_lead_to_label_studio(browser: Browser, served: Served) -> None:
    with opened(browser, DESKTOP) as (page, _):
        sign_in(page, served)
        link = page.get_by_role("link", name="Label the next tiles")
        assert link.get_attribute("href") == f"{LABEL_STUDIO}/projects/7/data"


def _headings_in_order(page: Page) -> bool:
    levels: list[int] = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    return levels.count(1) == 1 and levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
