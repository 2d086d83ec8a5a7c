"""Headless Chromium at Label Studio's own pages, as an annotator would use them; for end-to-end tests.

Every wait is for something seen on the page or on the wire, never for time alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from playwright.sync_api import Browser, Page, Playwright, Request, Response, expect, sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The browser of this machine, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class LabelStreamBrowser:
    """One annotator's browser.

    with LabelStreamBrowser(url, email, password) as browser:
        browser.login()
        browser.open_label_stream(project_id)
        browser.draw_brush_stroke("gland", [(0.2, 0.2), (0.4, 0.4)])
        annotation = browser.submit()
    """

    def __init__(
        self,
        url: str,
        email: str,
        password: str,
        *,
        timeout_s: float = 60.0,
        beside: LabelStreamBrowser | None = None,
    ) -> None:
        """``beside``: another person's, which is open: a window of its own without that one's cookies."""
        self._beside = beside
        self.url = url.rstrip("/")
        self._email, self._password = email, password
        self._timeout_ms = timeout_s * 1000
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._page: Page | None = None
        self._task: dict[str, Any] | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []

    def __enter__(self) -> LabelStreamBrowser:
        # A locked-down machine may have a proxy in its environment; the server is on this one.
        context = self._opened().new_context(viewport={"width": 1600, "height": 1000})
        self._page = context.new_page()
        self._page.set_default_timeout(self._timeout_ms)
        self._page.on("request", lambda r: self.requests.append(f"{r.method} {r.url}"))
        self._page.on("pageerror", lambda e: self.errors.append(str(e)))
        self._page.on("response", self._remember_task)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._beside is not None and self._page is not None:
            self._page.context.close()
        if self._browser is not None:
            self._browser.close()
        if self._playwright is not None:
            self._playwright.stop()

    def _opened(self) -> Browser:
        if self._beside is not None:
            assert self._beside._browser is not None, "open the other one first"
            return self._beside._browser
        executable = find_chromium()
        if executable is None:
            raise RuntimeError("no Chromium found: apt-get install chromium")
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        return self._browser

    @property
    def page(self) -> Page:
        assert self._page is not None, "use it in a with statement"
        return self._page

    def login(self) -> None:
        """By the form, as a person does."""
        self.page.goto(f"{self.url}/user/login/")
        self.page.locator("input[name=email]").fill(self._email)
        self.page.locator("input[name=password]").fill(self._password)
        self.page.locator("input[name=password]").press("Enter")
        self.page.wait_for_url(lambda url: "/user/login" not in url)

    def open_label_stream(self, project_id: int) -> None:
        """Open the project and press Label All Tasks; returns when the first task is drawn."""
        self._task = None
        self.page.goto(f"{self.url}/projects/{project_id}/data")
        self._dismiss_tours()
        self.page.get_by_role("button", name=re.compile("^Label All Tasks")).first.click()
        self._wait_until_drawn()

    def current_task_id(self) -> int:
        """The task on screen."""
        assert self._task is not None, "open a label stream first"
        return int(self._task["id"])

    def current_task(self) -> dict[str, Any]:
        """The task on screen as the server sent it, with the prediction that is shown."""
        assert self._task is not None, "open a label stream first"
        return self._task

    def screenshot(self, path: str | os.PathLike[str]) -> Path:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(target))
        return target

    def choose(self, choice: str) -> None:
        """Press a choice, e.g. a scope."""
        button = self.page.locator(f"input[name={json.dumps(choice)}]")
        button.scroll_into_view_if_needed()
        button.check(force=True)  # the page hides the input behind a drawn one

    def chosen(self) -> list[str]:
        """The choices that are checked on screen."""
        boxes = self.page.locator("input[type=radio]:checked, input[type=checkbox]:checked")
        return [str(boxes.nth(i).get_attribute("name") or "") for i in range(boxes.count())]

    def draw_brush_stroke(self, label: str, points: Sequence[tuple[float, float]]) -> None:
        """Choose a label and drag the brush along points given as fractions of the picture's width and height."""
        # A selected region would be painted on, whatever the label: leave it first.
        self.page.keyboard.press("Escape")
        self.page.locator(".lsf-label, [class*=label--]").filter(has_text=label).first.click()
        box = self._picture_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=8)
        self.page.mouse.up()
        self.page.keyboard.press("Escape")

    def draw_polygon(self, label: str, points: Sequence[tuple[float, float]]) -> None:
        """Choose a label and click the corners, given as fractions of the picture; a click on the first one closes."""
        self.page.keyboard.press("Escape")
        self.page.locator(".lsf-label, [class*=label--]").filter(has_text=label).first.click()
        box = self._picture_box()
        for x, y in [*points, points[0]]:
            self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            self.page.wait_for_timeout(300)  # two clicks in a row would count as one double click
        self.page.keyboard.press("Escape")

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Take what lies under one place of the picture to another; fractions of its width and height."""
        box = self._picture_box()
        (x0, y0), (x1, y1) = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
        self.page.mouse.move(x0, y0)
        self.page.mouse.down()
        self.page.mouse.move(x1, y1, steps=8)
        self.page.mouse.up()

    def regions(self) -> list[str]:
        """The labels of the regions that the page lists, in its order; only those that are in view of a long list."""
        titles = self.page.locator(".lsf-outliner-item__title")
        return [titles.nth(i).inner_text() for i in range(titles.count())]

    def select_region(self, number: int) -> None:
        """Press the region in the page's list, counted from 0."""
        self.page.keyboard.press("Escape")
        self.page.locator(".lsf-outliner-item__title").nth(number).click()

    def picture(self, *, regions: bool = True) -> tuple[bytes, dict[str, float], dict[str, float]]:
        """The page with the picture's regions or with all of them hidden: a PNG, where the picture lies on it, and the
        frame outside of which the picture is cut off (the editor may enlarge it a little beyond its frame)."""
        if not regions:
            self.page.get_by_role("button", name="Hide all regions").click()
            expect(self.page.get_by_role("button", name="Show all regions")).to_be_visible()
        self.page.mouse.move(5, 5)
        box = self._picture_box()
        frame = self.page.locator(".konvajs-content").first.bounding_box()
        assert frame is not None
        self.page.wait_for_timeout(300)  # the canvas is drawn in frames that nothing announces
        # The slider of a brush's size lies over the picture.
        shot = self.page.screenshot(style=".lsf-toolbar, .lsf-toolbar * { visibility: hidden !important }")
        if not regions:
            self.page.get_by_role("button", name="Show all regions").click()
        return shot, box, dict(frame)  # type: ignore[arg-type]

    def wait_for_draft(self) -> None:
        """Until what was drawn is saved without being submitted, as the page does it by itself some seconds later."""
        for _ in range(int(self._timeout_ms / 100)):
            if any(re.search(r"^(POST|PATCH) .*/drafts", line) for line in self.requests):
                self.page.wait_for_load_state("networkidle")
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("no draft was saved")

    def submit(self) -> dict[str, Any]:
        """Press Submit; returns the annotation as the server answered it, when the next task (or the end) is there."""
        return self._finish(re.compile("^submit", re.I))

    def skip(self) -> dict[str, Any]:
        """Press Skip; returns the cancelled annotation."""
        return self._finish(re.compile("^skip", re.I))

    # -- what the page does

    def _finish(self, name: re.Pattern[str]) -> dict[str, Any]:
        before = self._task
        self._task = None
        with self.page.expect_response(_saves_annotation) as saved:
            self.page.get_by_role("button", name=name).first.click()
        if not saved.value.ok:
            self._task = before
            raise AssertionError(f"Label Studio answered {saved.value.status}: {saved.value.text()[:500]}")
        answer = saved.value.json()
        self._wait_until_drawn_or_done()
        return dict(answer)

    def _remember_task(self, response: Response) -> None:
        if "id=next_task" in response.url and response.ok:
            self._task = response.json()
        elif "id=next_task" in response.url and response.status == 404:
            self._task = {"id": 0}

    def _wait_until_drawn(self) -> None:
        self._wait_for_task()
        expect(self.page.locator("canvas").first).to_be_visible(timeout=self._timeout_ms)
        expect(self.page.get_by_role("button", name=re.compile("^submit", re.I)).first).to_be_enabled(
            timeout=self._timeout_ms
        )
        self.page.wait_for_load_state("networkidle")

    def _wait_until_drawn_or_done(self) -> None:
        self._wait_for_task()
        if self._task != {"id": 0}:
            self._wait_until_drawn()

    def _wait_for_task(self) -> None:
        for _ in range(int(self._timeout_ms / 100)):
            if self._task is not None:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("no task came")

    def _picture_box(self) -> dict[str, float]:
        """Where the picture itself lies on the page: the image element under the canvas."""
        image = self.page.locator("img[alt=LS], .lsf-image img, [class*=image-element] img, [class*=image] img").first
        # The task before may have left the page scrolled to its choices: strokes land only on what is in view.
        image.evaluate("element => element.scrollIntoView({block: 'center'})")
        box = image.bounding_box()
        assert box is not None, "the picture is not on screen"
        return dict(box)  # type: ignore[arg-type]

    def _dismiss_tours(self) -> None:
        """Close what the product shows to newcomers."""
        for name in ("Skip", "Close", "Got it"):
            button = self.page.get_by_role("button", name=name, exact=True)
            if button.count() and button.first.is_visible():
                button.first.click()


def _saves_annotation(response: Response) -> bool:
    request: Request = response.request
    return request.method in ("POST", "PATCH") and bool(
        re.search(r"/api/(tasks/\d+/annotations|annotations/\d+)", response.url)
    )


def result_of(annotation: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of an answered annotation."""
    result = annotation["result"]
    return list(json.loads(result) if isinstance(result, str) else result)
