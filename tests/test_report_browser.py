"""The report's page in a real browser: no error, no request, and what a person does with it works."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.procs import write_jsonl
from tests.test_report import BIRDS, page, predictions

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as program:
        opened = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two runs with images, a map and training curves."""
    folder = tmp_path_factory.mktemp("run")
    for name in BIRDS:
        (folder / "images" / name).mkdir(parents=True)
        for n in range(20):
            Image.new("RGB", (40, 40), (n * 12, 90, 90)).save(folder / "images" / name / f"{n}.png")
    write_jsonl(folder / "predictions-before.jsonl", predictions(0.25))
    write_jsonl(folder / "predictions.jsonl", predictions(0.75))
    (folder / "align").mkdir()
    write_jsonl(folder / "align" / "log.jsonl", [{"step": n, "loss": 4.0 / (n + 1)} for n in range(9)])
    places = [{"of": "objects", "category": r["category"], "x": n % 9, "y": n // 9, "image": r["image"]}
              for n, r in enumerate(predictions(1))]  # fmt: skip
    write_jsonl(folder / "map.jsonl", [*places, {"of": "names", "category": "Ivory_Gull", "x": 1.5, "y": 2.5}])
    path = folder / "report.html"
    path.write_text(page(folder))
    return path


class Tab:
    """A page, and all that it said or asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", self._request)
        start = time.perf_counter()
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")
        self.page.wait_for_selector("#chart-summary .main-svg")
        self.opened_s = time.perf_counter() - start

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.trouble.append(request.url)

    def shown(self, chart: str) -> Any:
        """A chart, drawn."""
        self.page.locator(f"#{chart} h2").scroll_into_view_if_needed()
        self.page.locator(f"#chart-{chart}").scroll_into_view_if_needed()
        self.page.wait_for_selector(f"#chart-{chart} .main-svg")
        return self.page.locator(f"#chart-{chart} .plot")


@pytest.fixture
def tab(browser: Any, small: Path) -> Iterator[Tab]:
    opened = Tab(browser, small)
    yield opened
    assert opened.trouble == []
    opened.context.close()


def column(tab: Tab, table: str, place: int) -> list[str]:
    return tab.page.locator(f"#table-{table} tbody tr:visible > :nth-child({place})").all_inner_texts()


def test_sort(tab: Tab) -> None:
    head = tab.page.locator("#table-mcq-category thead th").nth(4)
    head.locator("button").focus()
    tab.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    head = tab.page.locator("#table-mcq-category thead th").nth(0)
    for direction in ("ascending", "descending"):
        head.locator("button").click()
        names = column(tab, "mcq-category", 1)
        assert names == sorted(names, reverse=direction == "descending") and len(names) == 4
        assert head.get_attribute("aria-sort") == direction
    assert tab.page.locator("#said").inner_text() == "Sorted by category, descending"


def test_filter(tab: Tab) -> None:
    form = tab.page.locator("form.filters")
    form.locator("[name=run]").select_option("after")
    assert tab.page.locator("#found").inner_text() == "12 of 20 errors"
    form.locator("[name=right]").fill("ivory")
    assert tab.page.locator("#found").inner_text() == "5 errors"
    assert all("Arctic Tern" in text for text in tab.page.locator("#cards > li").all_inner_texts())
    assert tab.page.locator("#cards img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    form.locator("button[type=reset]").click()
    tab.page.wait_for_function("document.querySelector('#found').textContent === '12 of 80 errors'")
    tab.page.locator("#more").click()
    assert tab.page.locator("#cards > li").count() == 36


def test_a_pair_leads_to_its_errors(tab: Tab) -> None:
    row = tab.page.locator("#table-confused tbody tr", has_text="Least Tern").first
    row.locator("button.show").click()
    right, given = row.locator("th").nth(2).inner_text(), row.locator("th").nth(3).inner_text()
    cards = tab.page.locator("#cards > li").all_inner_texts()
    assert cards and all(f"is {right}" in text and f"taken for {given}" in text for text in cards)


def test_pairs_with_no_category_lead_to_their_errors(browser: Any, tmp_path: Path) -> None:
    said = ["Ivory_Gull", "Ivory_Gull", "Dodo", None]
    rows = [{**row, "prediction": said[n], "correct": False} for n, row in enumerate(predictions(0, count=4)[:4])]
    write_jsonl(tmp_path / "predictions.jsonl", [*rows, *predictions(1)[20:]])
    (tmp_path / "report.html").write_text(page(tmp_path / "predictions.jsonl"))
    tab = Tab(browser, tmp_path / "report.html")
    found = {}
    for row in tab.page.locator("#table-confused tbody tr").all():
        row.locator("button.show").click()
        found[row.locator("th").nth(3).inner_text()] = tab.page.locator("#cards > li").count()
    assert found == {"Ivory Gull": 2, "(another name)": 1, "(no answer read)": 1}


def test_export(tab: Tab) -> None:
    box = tab.page.locator(".table[data-key=mcq-category]")
    texts = {}
    for form in ("CSV", "Markdown", "LaTeX"):
        with tab.page.expect_download() as saved:
            box.locator(f"button[data-form={form}]").click()
        texts[form] = Path(saved.value.path()).read_text()
        assert saved.value.suggested_filename.startswith("mcq-category.")
    lines = texts["CSV"].splitlines()
    assert lines[0] == "category,group,n,before,before low,before high,after,after low,after high,after − before"
    assert lines[1].startswith("Arctic Tern,Tern,20,0.25,") and len(lines) == 5
    assert texts["Markdown"].count("\n| ") == 5 and r"\begin{tabular}{llrrrr}" in texts["LaTeX"]


def test_hover_shows_a_thumbnail(tab: Tab) -> None:
    plot, tip = tab.shown("map"), tab.page.locator("#tip")
    point = plot.locator(".scatterlayer .trace").first.locator("path.point").nth(12).bounding_box()
    tab.page.mouse.move(point["x"] + 2, point["y"] + 2)
    tab.page.mouse.move(point["x"] + 3, point["y"] + 3)
    tip.wait_for(state="visible")
    assert tip.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    assert any(name.replace("_", " ") in tip.inner_text() for name in BIRDS) and "objects" in tip.inner_text()
    tab.page.mouse.move(2, 2)
    tip.wait_for(state="hidden")


def test_confusion_hover_and_zoom(tab: Tab) -> None:
    plot, tip = tab.shown("confusion"), tab.page.locator("#tip")
    place = plot.locator(".nsewdrag").bounding_box()
    tab.page.mouse.move(place["x"] + place["width"] / 8, place["y"] + place["height"] / 8)
    tip.wait_for(state="visible")
    assert tip.inner_text().startswith("Herring Gull") and "15 of 20 (75.0 %)" in tip.inner_text()
    tab.page.mouse.down()
    tab.page.mouse.move(place["x"] + place["width"] * 0.6, place["y"] + place["height"] * 0.6, steps=8)
    tab.page.mouse.up()
    span = "(([a, b]) => b - a)(document.querySelector('#chart-confusion .plot').layout.xaxis.range)"
    tab.page.wait_for_function(f"{span} < 2.5")
    tab.page.locator("#chart-confusion select").select_option(label="mcq, before")
    assert plot.evaluate("plot => plot.data[0].z[0][0]") == 0.25


def test_all_charts_draw_light_and_dark(browser: Any, small: Path) -> None:
    inks = []
    for scheme in ("light", "dark"):
        tab = Tab(browser, small, color_scheme=scheme)
        for chart in ("summary", "confusion", "map", "training"):
            tab.shown(chart)
        inks.append(tab.page.locator("#chart-training .plot").evaluate("plot => plot.layout.font.color"))
        if scheme == "light":  # the other way while it is open
            tab.page.emulate_media(color_scheme="dark")
            tab.page.wait_for_function(
                "document.querySelector('#chart-training .plot').layout.font.color !== " + json.dumps(inks[0])
            )
        assert tab.trouble == []
        tab.context.close()
    assert inks[0] != inks[1]


def test_narrow_pages_do_not_scroll_sideways(browser: Any, small: Path) -> None:
    tab = Tab(browser, small, viewport={"width": 360, "height": 740})
    tab.shown("confusion")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.trouble == []
    tab.context.close()


NAME = """(() => {
  const e = document.activeElement, by = document.getElementById(e.getAttribute('aria-labelledby'));
  return (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || by?.textContent || e.textContent || '').trim();
})()"""


def test_the_keyboard_reaches_everything(tab: Tab) -> None:
    """The first stop is the skip link; no stop has a name for the eye alone; none is hidden."""
    names = []
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        names.append(tab.page.evaluate(NAME))
    assert names[0] == "Skip to the summary" and "Summary as CSV" in names
    assert all(names)


def test_five_thousand_predictions_open_in_three_seconds(browser: Any, tmp_path: Path) -> None:
    """5,000 predictions over 200 categories with images: below 3 s to the first chart, and below 20 MB."""
    names = [f"Kind{n // 10} Bird{n}" for n in range(200)]
    made = []
    for n in range(5000):
        name, said = names[n % 200], names[n % 200 if n % 3 else (n + 7) % 200]
        record = {"id": f"{n}/mcq", "image": f"{n % 2500}.jpg", "kind": "mcq", "options": [name, said], "answer": name}
        made.append({**record, "category": name, "raw": said, "prediction": said, "correct": said == name})
        if n < 2500:
            Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / f"{n}.jpg")
    write_jsonl(tmp_path / "predictions.jsonl", made)
    path = tmp_path / "report.html"
    path.write_text(page(tmp_path / "predictions.jsonl", "--image-root", tmp_path))
    assert path.stat().st_size < 20e6
    tabs = [Tab(browser, path) for _ in range(3)]
    assert min(tab.opened_s for tab in tabs) < 3, [tab.opened_s for tab in tabs]
    assert all(tab.trouble == [] for tab in tabs)
