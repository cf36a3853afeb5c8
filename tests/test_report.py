"""The report page as a reader meets it: in a browser, from a file, without a network."""

import filecmp
import json
import shutil
from pathlib import Path

import pytest

from harness import cells, record
from harness.report import build, place
from tests import records

CHROMIUM = Path("/usr/bin/chromium")
NASTY = '<img src=x onerror="window.hacked=1">'
SCRIPT = "</script><script>window.hacked=1</script> & 'quoted' \"twice\" \u2028"


def made() -> list[record.Record]:
    """An experiment, with what a hostile record may hold, a configuration without any result, and all measures."""
    whole = records.made(
        "ide", time_steps=16, accuracy=97.0, cost=records.measured(3.0, time_steps=16),
        early_exit=[{"confidence": 0.9, "mean_time_steps": 5.5, "accuracy": 96.5}],
        convergence={"equilibrium_residual": {"layer 0": [1 / t for t in range(1, 17)]}},
        command="harness sweep 'my file.yaml'",
    )  # fmt: skip
    hostile = records.made("bptt", label=NASTY, network={"name": "mlp", "note": SCRIPT}, seed=0)
    broken = [records.broken(method="sltt", seed=seed, reason=SCRIPT) for seed in (0, 1)]
    settings = [{"v_threshold": 0.01 * n} for n in range(1, 131)]
    many = [records.made("dsr", label="many", time_steps=2, settings=each, validation=None) for each in settings]
    return [*records.sweep(), whole, hostile, *broken, *many]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for each in made():
        record.write(each, folder / "digits experiment")
    return folder


@pytest.fixture(scope="module")
def site(results, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "site"
    build.write([results], folder, title="Digits <i>&")
    return folder


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="module")
def tab(browser):
    """One tab for all that needs no window of its own."""
    return browser.new_page(viewport={"width": 1280, "height": 900})


@pytest.fixture
def visit(browser, tab, site):
    """Open the page; afterwards nothing must have gone wrong, and nothing have been asked of a network."""
    wrong: list[str] = []
    pages = set()

    def opened(address: str = "", **options):
        page = browser.new_page(**options) if options else tab
        if page not in pages:
            pages.add(page)
            page.set_default_timeout(10_000)
            page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("request", lambda asked: None if asked.url.startswith("file:") else wrong.append(asked.url))
        # Another address after '#' alone would not load the page again.
        page.goto("about:blank")
        page.goto(f"{(site / 'index.html').as_uri()}{address}")
        page.wait_for_selector("html[data-listed]")
        return page

    yield opened
    hacked = [page.evaluate("window.hacked") for page in pages]
    for page in pages - {tab}:
        page.close()
    assert wrong == []
    assert not any(hacked)


def column(page, name: str) -> list[str]:
    return page.locator(f"#table tbody .of-{name}").all_inner_texts()


def test_page_shows_cells_with_deviation_and_count_marks_and_reasons(visit):
    page = visit()
    assert page.locator("h1").inner_text() == "Digits <i>&"
    assert page.locator("#table tbody").inner_text().count("± 0.30 (3)") > 5
    assert "Pareto T" in page.locator("#table tbody").inner_text()
    assert page.locator("#panels .plot svg").count() == 2
    assert "no result" in page.locator("#table tbody tr", has_text="sltt").inner_text()
    page.select_option("[name=show]", "all")
    partly = page.locator("#table tbody tr", has_text="1 of 3 diverged: loss is NaN in epoch 1")
    assert "(2)" in partly.locator(".of-accuracy").inner_text()


def test_what_a_record_says_stays_text(visit):
    page = visit()
    assert page.locator(".chip", has_text=NASTY).count() == 1
    assert page.locator("main img, main script, dialog img").count() == 0
    assert "</script><script>window.hacked=1</script>" in page.locator("#cares").inner_text()
    page.locator("#table .link", has_text=NASTY).click()
    page.wait_for_selector("dialog[data-drawn]")
    assert NASTY in page.locator("#details-title").inner_text()
    assert SCRIPT.split("\u2028")[0].strip() in page.locator("dialog").inner_text()
    page.locator("dialog [data-record]").first.click()
    page.locator("dialog summary", has_text="as JSON").click()
    assert NASTY in json.loads(page.locator("dialog pre").inner_text())["trial"]["label"]


def test_filters_narrow_the_table_and_stand_in_the_address(visit):
    page = visit()
    page.fill("[name=q]", "dsr T=8")
    page.locator(".chip", has_text="bptt").first.click()
    assert set(column(page, "method")) == {"dsr"}
    assert set(column(page, "T")) == {"8"}
    found = column(page, "method")
    again = visit(page.evaluate("location.hash"))
    assert column(again, "method") == found
    assert again.input_value("[name=q]") == "dsr T=8"
    again.click("[type=reset]")
    assert again.evaluate("location.hash") in ("", "#")
    again.select_option("[name=outcome]", "none")
    assert column(again, "method") == ["sltt"]
    again.fill("[name=q]", "nothing like this")
    assert "Nothing matches" in again.locator("#table tbody").inner_text()


def test_table_is_sorted_by_keyboard_and_says_so(visit):
    page = visit("#show=all")
    page.focus("[data-sort=accuracy]")
    page.keyboard.press("Enter")
    shown = [float(text.split()[0]) for text in column(page, "accuracy")]
    assert shown == sorted(shown, reverse=True)
    assert page.locator("th.of-accuracy").get_attribute("aria-sort") == "descending"
    assert page.evaluate("document.activeElement.dataset.sort") == "accuracy"
    page.keyboard.press("Enter")
    first = [text for text in column(page, "accuracy") if not text.startswith("no result")]
    assert float(first[0].split()[0]) == min(float(text.split()[0]) for text in first)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_long_tables_come_in_pages(visit):
    page = visit("#show=all")
    assert page.locator("#table tbody tr").count() == 100
    before = column(page, "settings")
    page.get_by_role("button", name="Later").click()
    assert column(page, "settings") != before
    assert page.locator("#table tbody tr").count() == len(cells.of(made())) - 100


def test_point_leads_to_its_configuration_and_record(visit, results):
    page = visit()
    point = page.locator("#panels path[data-point]").first
    key = point.get_attribute("data-point")
    point.hover()
    assert page.locator(".tip:not([hidden])").inner_text()
    point.click()
    page.wait_for_selector(f"dialog[data-drawn='{key}']")
    identity = page.locator("dialog [data-record]").first.inner_text()
    page.locator("dialog [data-record]").first.click()
    page.wait_for_selector(f"dialog[data-drawn='{identity}']")
    text = page.locator("dialog").inner_text()
    assert f"harness reproduce '{results}/digits experiment/{identity}.json'" in text
    assert "settings.v_threshold" in text
    assert "Test CPU" in text
    page.go_back()
    page.wait_for_selector(f"dialog[data-drawn='{key}']")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")
    assert "cell=" not in page.evaluate("location.hash")


def test_points_are_reached_by_arrow_keys(visit):
    page = visit()
    page.locator("#panels svg").first.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#panels .tip:not([hidden])").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#panels .tip:not([hidden])").inner_text() != first
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")


def test_record_is_reached_by_its_address(visit):
    (whole,) = [each for each in made() if each.command]
    page = visit(f"#record={whole.id}")
    page.wait_for_selector(f"dialog[data-drawn='{whole.id}']")
    text = page.locator("dialog").inner_text()
    assert "harness sweep 'my file.yaml'" in text
    assert {"Accuracy after t steps", "Loss", "Firing rate", "equilibrium residual"} <= set(
        page.locator("dialog figcaption span").all_inner_texts()
    )
    page.locator("dialog summary", has_text="History").click()
    assert "solver iterations" in page.locator("dialog").inner_text()
    missing = visit("#record=ffffffffffff")
    missing.wait_for_selector("dialog[open]")
    assert "does not hold" in missing.locator("dialog").inner_text()


@pytest.mark.parametrize("kind", ["anytime", "training", "rates", "convergence"])
def test_curves_of_ticked_rows(visit, kind):
    page = visit(f"#curves={kind}&q=ide")
    # What is drawn when somebody comes near may still move the table.
    page.locator("#curves").scroll_into_view_if_needed()
    page.wait_for_selector(f"#curves[data-drawn={kind}]")
    page.locator(".pin").last.check()
    page.locator("#curves-note", has_text="The configuration ticked").wait_for()
    page.locator("#curves svg").first.wait_for()
    assert page.locator("#curves-key button").count() == 1


def test_axes_change_what_is_drawn(visit):
    page = visit()
    for name in ("latency", "energy", "synops"):
        page.click(f"[data-axis={name}]")
        page.wait_for_selector(f"[data-drawn={name}]")
        # Those without a result or without costs; on an axis of SynOps also the network that has none.
        assert "Not drawn" in page.locator("#plots-note").inner_text()
        assert page.locator("#panels path[data-point]").count() > 5


def test_dark_follows_the_system_and_the_switch(visit):
    def background(page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark, light = visit(color_scheme="dark"), visit(color_scheme="light")
    night, day = background(dark), background(light)
    assert night != day
    dark.click("#theme")
    assert background(dark) == day
    light.click("#theme")
    light.click("#theme")
    assert background(light) == night
    light.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert background(light) == day
    light.evaluate("dispatchEvent(new Event('afterprint'))")
    assert background(light) == night


def test_phone_needs_no_sideways_scrolling(visit):
    page = visit("#show=all", viewport={"width": 375, "height": 700}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator("#table thead th").first.inner_text() == "Method"
    page.locator("#table .link").first.tap()
    page.wait_for_selector("dialog[data-drawn]")
    assert page.evaluate("document.getElementById('details').scrollWidth") <= 375


def test_page_tells_everything_of_interest_without_a_script(site, browser):
    page = browser.new_page(java_script_enabled=False)
    page.goto((site / "index.html").as_uri())
    assert "diverged × 1: loss is NaN in epoch 1" in page.locator("#cares").text_content().replace("\n", "")
    page.close()


def test_same_records_give_the_same_bytes_and_an_earlier_report_is_replaced(site, results, tmp_path):
    other = shutil.copytree(site, tmp_path / "site")
    left = other / "data" / "records" / "zz.txt"
    left.write_text("mine")
    (other / "app.js").write_text("old")
    build.write([results], other, title="Digits <i>&")
    left.unlink()
    names = [str(file.relative_to(site)) for file in site.rglob("*") if file.is_file()]
    assert filecmp.cmpfiles(site, other, names, shallow=False)[0] == names
    assert json.loads((site / place.MARKER).read_text())["files"] == sorted(set(names) - {place.MARKER})


def test_earlier_files_without_records_go_away(results, tmp_path):
    build.write([results], tmp_path / "site")
    few = tmp_path / "few"
    record.write(records.made(), few)
    build.write([few], tmp_path / "site")
    assert len(list((tmp_path / "site" / "data" / "records").iterdir())) == 1


@pytest.mark.parametrize("there", ["folder", "file"])
def test_folder_of_something_else_is_left_alone(harness, results, tmp_path, there):
    target = tmp_path / "thesis"
    if there == "folder":
        target.mkdir()
    mine = target / "chapter.tex" if there == "folder" else target
    mine.write_text("mine")
    code, _, err = harness("report", results, "-o", target)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert str(target) in err
    assert mine.read_text() == "mine"


def test_command_says_what_it_wrote_and_refuses_in_one_line(harness, results, tmp_path):
    code, out, _ = harness("report", results, "-o", tmp_path / "site")
    assert code == 0
    assert f"{len(made())} records in " in out
    (tmp_path / "none").mkdir()
    for given in ("none", "nowhere"):
        code, _, err = harness("report", tmp_path / given, "-o", tmp_path / "other")
        assert code == 2
        assert len(err.splitlines()) == 1
        assert given in err
    assert not (tmp_path / "other").exists()
