"""How long the report page takes: to build from many records, and to load from a file in a browser.

Command: python benchmarks/report_page.py [--count 10000] [--loads 9]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
import synthetic_records

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
# By a selector: the page forbids itself to evaluate text.
READY = "html[data-listed][data-ready]"
SHOWN = """() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done({
  ms: performance.now(), rows: document.querySelectorAll('#table tbody tr').length,
  points: document.querySelectorAll('#panels path[data-point]').length }))))"""


def build(records: Path, site: Path) -> tuple[float, float]:
    """Seconds and peak memory in MiB of the command that writes the page, in a process of its own."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness", "report", str(records), "-o", str(site)], check=True)
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def loads(site: Path, count: int) -> list[float]:
    """Seconds from the start of navigation until a frame holds the table's rows and the first plots, fresh each time.

    A page whose table or plots are empty is no load, and raises AssertionError.
    """
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        for _ in range(count):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1360, "height": 900})
            page.goto((site / "index.html").resolve().as_uri(), wait_until="commit")
            page.wait_for_selector(READY, state="attached")
            shown = page.evaluate(SHOWN)
            assert shown["rows"] > 1, shown
            assert shown["points"] > 1, shown
            found.append(shown["ms"] / 1000)
            browser.close()
    return found


def sizes(site: Path) -> tuple[float, float]:
    """MB of what is loaded at once, and of everything."""
    at_once = [site / name for name in ("index.html", "app.js", "style.css", "data/index.js")]
    everything = [file for file in site.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in at_once) / 1e6, sum(file.stat().st_size for file in everything) / 1e6


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="Records, made up.")
    parser.add_argument("--loads", type=int, default=9)
    parser.add_argument("--results", type=Path, default=report.FOLDER)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report-page") as folder:
        synthetic_records.write(Path(folder, "records"), options.count)
        seconds, memory = build(Path(folder, "records"), Path(folder, "site"))
        measured = loads(Path(folder, "site"), options.loads)
        at_once, everything = sizes(Path(folder, "site"))
    of = f"{options.count} records"
    measures = [
        report.measure(f"load until table and plots, {of}, median", statistics.median(measured), "s", at_most=2),
        report.measure(f"load until table and plots, {of}, slowest", max(measured), "s"),
        report.measure(f"build, {of}", seconds, "s", at_most=60),
        report.measure(f"build, peak memory, {of}", memory, "MiB", at_most=1024),
        report.measure(f"read at once, {of}", at_once, "MB"),
        report.measure(f"whole page with every record, {of}", everything, "MB"),
    ]  # fmt: skip
    report.write(
        "report_page", measures, f"python benchmarks/report_page.py --loads {options.loads}", folder=options.results
    )


if __name__ == "__main__":
    main()
