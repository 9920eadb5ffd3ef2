"""The report of a comparison: the page in headless Chromium, and the numbers of its tables."""

import csv
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import parse

import pytest
from made_findings import NAMES, make_findings

from pretrain.compare.pictures import write_pictures
from pretrain.compare.report import TABLES, write_report
from pretrain.compare.series import above_guessing, best, curves, mean_curve, mean_matrix

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>|*"
ARMS = ("continual", "joint", "sequential", "pyramid")


def hostile() -> dict[str, Any]:
    """Markup in all that a person, or a checkpoint, may have named."""
    findings = make_findings(arms=("joint", "sequential", "continual"), seeds=1)
    findings |= {
        "name": HOSTILE,
        "conclusions": [HOSTILE],
        "reproduce": [HOSTILE],
        "configuration": HOSTILE + " @DATA@",
    }
    findings["runs"][0]["name"] = HOSTILE
    findings["downstream"][-1]["arm"] = HOSTILE
    findings["downstream_tasks"]["sst2"]["metric"] = HOSTILE
    return findings


VARIANTS: dict[str, dict] = {"plain": {}} | {f"v{n}": {"train": {"lr": n / 10}} for n in range(1, 8)} | {"heat": {}}
"""More than fit beside each other, and one whose name is a word of the style sheet."""
CASES = {
    "full": make_findings(),
    "policies": make_findings(lr_spans=("run", "stage"), orders=3),
    "partial": make_findings(
        arms=(*ARMS, "alone"), seeds=1, downstream=False,
        missing=("joint.run.order1.seed0", "pyramid.run.order1.seed0"),
    ),
    "nothing": make_findings(
        seeds=1, downstream=False, missing=tuple(f"{arm}.run.order1.seed0" for arm in ARMS)
    ) | {"metrics": {}, "claims": [], "conclusions": []},
    "hostile": hostile(),
    "variants": make_findings(
        arms=tuple(VARIANTS), seeds=2, downstream=False, variants=VARIANTS, claims=(("heat", "plain"),)
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    """The page of every case."""
    folder = tmp_path_factory.mktemp("reports")
    return {name: write_report(findings, folder / name) for name, findings in CASES.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    words = "headless=new no-sandbox disable-gpu disable-dev-shm-usage no-first-run window-size=1280,900"
    quiet = "disable-background-networking disable-component-update disable-sync"
    for word in (*words.split(), *quiet.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield driver
    driver.quit()


class Reader:
    """A person before the page."""

    def __init__(self, browser, page: Path, dark: bool = False):
        self.browser, self.uri = browser, page.as_uri()
        self.prefer(dark)
        for log in ("browser", "performance"):
            browser.get_log(log)  # of the page before
        browser.get(self.uri)
        self.wait_until_read()

    def wait_until_read(self) -> None:
        """Megabytes of script: the driver now and then returns while the page is still being read."""
        deadline = time.monotonic() + 60
        while self.run("return document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page is still being read"
            time.sleep(0.05)

    def prefer(self, dark: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def run(self, script: str) -> Any:
        return self.browser.execute_script(script)

    def seen(self, selector: str) -> list:
        found = self.browser.find_elements("css selector", selector)
        visible = self.browser.execute_script("return arguments[0].map(e => e.checkVisibility())", found)
        return [element for element, shown in zip(found, visible, strict=True) if shown]

    def lines(self) -> list[int]:
        """Lines of every chart that is seen."""
        return [
            self.browser.execute_script("return arguments[0].querySelectorAll('.scatterlayer .trace').length", plot)
            for plot in self.seen(".plot")
        ]

    def choose(self, section: str, value: str) -> None:
        (heading,) = [heading for heading in self.seen("h2, h3") if heading.text == section]
        field = heading.find_element("xpath", f"..//input[@value='{value}']/..")
        field.click()

    def text(self) -> str:
        return self.run("return document.querySelector('main').innerText")

    def quiet(self) -> None:
        """No error was logged, and nothing was asked for but the file."""
        assert self.browser.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        asked = {request["request"]["url"] for request in requests if request["documentURL"] == self.uri}
        assert self.uri in asked and asked <= {self.uri, "data:,"}


def test_every_chart_is_drawn(browser, reports):
    reader = Reader(browser, reports["full"])
    guess, seeds_and_mean, rows = 1, 3, 5
    assert reader.lines()[:7] == [guess + len(ARMS) * seeds_and_mean] * 7
    assert reader.lines()[7:] == [rows + 1] * 5  # an interval of each, and the dots
    assert all("guessing" in plot.get_attribute("aria-label") for plot in reader.seen(".curves .plot"))
    reader.choose("Curves", "metric")
    assert reader.lines()[:7] == [guess + len(ARMS) * seeds_and_mean] * 7
    assert len(reader.seen(".heat")) == len(ARMS)
    reader.choose("What every stage did to every task", "loss")
    assert [heat.text.split("\n")[0] for heat in reader.seen(".heat")] == [f"{arm}, loss" for arm in ARMS]
    reader.quiet()


def test_stage_borders_of_the_chosen_arm(browser, reports):
    reader = Reader(browser, reports["full"])
    counted = "return document.querySelectorAll('.curves:not([hidden]) .plot:has(.main-svg) .shapelayer path').length"
    assert reader.run(counted) == 0
    for arm, stages in (("sequential", 3), ("pyramid", 7), ("joint", 1)):
        (button,) = [button for button in reader.seen(".arms button") if button.text == arm]
        button.click()
        assert reader.run(counted) == (stages - 1) * len(NAMES)
    reader.quiet()


def test_tabs_switch_every_table_and_chart(browser, reports):
    reader = Reader(browser, reports["policies"])
    first, second = reader.seen("[role=tab]")
    assert [panel.get_attribute("id") for panel in reader.seen("[role=tabpanel]")] == ["panel-run"]
    first.click()
    browser.switch_to.active_element.send_keys("\ue014")  # right
    assert second.get_attribute("aria-selected") == "true" and browser.switch_to.active_element == second
    assert [panel.get_attribute("id") for panel in reader.seen("[role=tabpanel]")] == ["panel-stage"]
    assert {box.get_attribute("data-spans") for box in reader.seen(".charts")} == {"stage"}
    assert len(reader.lines()) == 7 + 5
    reader.choose("Curves", "3")
    assert [box.get_attribute("data-order") for box in reader.seen(".curves")] == ["3"]
    reader.choose("What every stage did to every task", "2")
    assert all("order 2: structure-aware" in heat.text for heat in reader.seen(".heat"))
    reader.quiet()


def test_what_is_missing_is_said_first(browser, reports):
    reader = Reader(browser, reports["partial"])
    text = reader.text()
    missing = "2 of 5 runs are not finished: joint.run.order1.seed0 (missing), pyramid.run.order1.seed0 (missing)."
    assert missing in text and text.index(missing) < text.index("What was compared")
    for reason in (
        "alone has one stage: nothing follows it, so backward transfer and forgetting are undefined.",
        "alone trains knowledge masking only: there is no mean of the tasks.",
        "One finished seed has no interval: continual, sequential, alone.",
        "There are no downstream results",
    ):
        assert reason in text
    assert reader.lines() == [1 + 3 * 2] + [1 + 2 * 2] * 6
    reader.quiet()
    empty = Reader(browser, reports["nothing"])
    assert "4 of 4 runs are not finished" in empty.text() and "No arm has a finished run." in empty.text()
    assert empty.lines() == []
    empty.quiet()


def test_hostile_names_stay_text(browser, reports):
    reader = Reader(browser, reports["hostile"])
    assert HOSTILE in reader.run("return document.querySelector('h1').textContent")
    assert HOSTILE in reader.text() and "@DATA@" in reader.text()
    assert all(reader.lines()) and HOSTILE in reader.run("return document.querySelector('.downstream').textContent")
    assert reader.run("return [window.hacked ?? 0, document.images.length]") == [0, 0]
    assert len(browser.find_elements("css selector", "script")) == 3
    reader.quiet()


def test_charts_are_dark_where_the_page_is(browser, reports):
    colours = """const seen = selector => document.querySelector(selector);
        return [getComputedStyle(document.body).backgroundColor, seen('.plot .xtick text').style.fill,
                seen('.plot .scatterlayer .js-line:last-of-type').style.stroke]"""
    light = Reader(browser, reports["full"]).run(colours)
    reader = Reader(browser, reports["full"], dark=True)
    dark = reader.run(colours)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    reader.seen("#theme")[0].click()
    assert reader.run(colours) == light
    reader.quiet()


def test_print_shows_all(browser, reports):
    reader = Reader(browser, reports["policies"], dark=True)
    everything = 2 * (2 * 3 * 7 + 5)
    assert len(reader.seen(".plot")) == 7 + 5
    reader.run("dispatchEvent(new Event('beforeprint'))")
    assert len(reader.seen("[role=tabpanel]")) == 2 and len(reader.seen(".heat")) == 2 * 2 * 3 * len(ARMS)
    assert len(reader.lines()) == everything and all(reader.lines())
    wide = "return Math.max(...[...document.querySelectorAll('.main-svg')].map(e => e.getBoundingClientRect().right))"
    assert reader.run(wide) <= 700 + reader.run("return document.querySelector('.page').getBoundingClientRect().left")
    reader.run("dispatchEvent(new Event('afterprint'))")
    assert len(reader.seen(".plot")) == 7 + 5
    reader.quiet()


def test_a_phone_shows_it_without_scrolling_sideways(browser, reports):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for name in ("policies", "partial"):
            assert Reader(browser, reports[name]).run("return document.documentElement.scrollWidth") <= 400
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# ---- numbers


def read_csv(page: Path, name: str) -> list[dict]:
    with (page.parent / "tables" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def value(text: str) -> float | None:
    return float(text) if text else None


@pytest.mark.parametrize("name", CASES)
def test_tables_hold_what_was_found(reports, name):
    findings, page = CASES[name], reports[name]
    for kind, make in TABLES.items():
        said = [{key: "" if cell is None else str(cell) for key, cell in row.items()} for row in make(findings)]
        read = read_csv(page, kind)
        assert [{key: cell for key, cell in row.items() if cell} for row in read] == [
            {key: cell for key, cell in row.items() if cell} for row in said
        ]
    points = [point for run in findings["runs"] for point in run.get("curve", [])]
    assert [[float(row["loss"]), float(row["metric"])] for row in read_csv(page, "curves")] == [p[3:] for p in points]
    cells = [cell for run in findings["runs"] for row in run.get("metric", []) for cell in row]
    assert [value(row["metric"]) for row in read_csv(page, "matrix")] == cells
    for row, arm in zip(read_csv(page, "arms"), findings["arms_found"], strict=True):
        read = [value(row[f"forgetting{end}"]) for end in ("", "_low", "_high")]
        assert read == (arm["forgetting"] or [None] * 3)
    assert json.loads((page.parent / "findings.json").read_text()) == json.loads(json.dumps(findings))


def test_markdown_holds_the_same_numbers(reports):
    findings = CASES["full"]
    text = (reports["full"].parent / "report.md").read_text("utf-8")
    for arm in findings["arms_found"]:
        mean, low, high = arm["average"]
        assert f"| {arm['arm']} | 2 | {mean:.3f} ({low:.3f} to {high:.3f}) |" in text
    for task, about in findings["downstream_tasks"].items():
        (row,) = re.findall(rf"\| {task} \|.*", text)
        assert [f"{r['tasks'][task][0]:.3f}" for r in findings["downstream"]] == re.findall(r"(\d\.\d+) \(", row)
        assert row.startswith(f"| {task} | {about['metric']} | {about['chance']:.3f} | {about['examples']:,} ")
    for claim in findings["claims"]:
        assert f"| {claim['first']} − {claim['second']} | {claim['difference']:+.4f} |" in text
    hostile_text = (reports["hostile"].parent / "report.md").read_text("utf-8")
    assert "<script" not in hostile_text.replace("    " + HOSTILE, "") and "\\|\\*" in hostile_text


def test_same_findings_same_bytes(reports, tmp_path):
    again = write_report(make_findings(), tmp_path)
    ours = sorted(path for path in again.parent.rglob("*") if path.is_file())
    assert len(ours) == 3 + len(TABLES) + len(list(again.parent.glob("pictures/*.svg")))
    for path in ours:
        assert path.read_bytes() == (reports["full"].parent / path.relative_to(tmp_path)).read_bytes()


def test_pictures(tmp_path):
    for name, findings in CASES.items():
        for path in write_pictures(findings, tmp_path / name):
            assert parse(path).getroot().tag.endswith("svg")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == [
        "claims.svg", "downstream.svg", "loss.svg", "metric.svg", "stages.svg",
    ]  # fmt: skip
    assert not any((tmp_path / "nothing").iterdir())
    assert (tmp_path / "policies" / "stages.stage.svg").exists()


def test_variants_have_colours_of_their_own_and_say_what_they_set(browser, reports, tmp_path):
    reader = Reader(browser, reports["variants"])
    inks = "return [...document.querySelectorAll('.arms i')].map(i => getComputedStyle(i).backgroundColor)"
    colours = reader.run(inks)
    assert len(colours) == len(VARIANTS) and len(set(colours)) >= 5
    assert "v3: train.lr=0.3" in reader.text() and "plain: as run has it" in reader.text()
    reader.quiet()
    (picture,) = [path for path in write_pictures(CASES["variants"], tmp_path) if path.name == "metric.svg"]
    assert all(f".arm-{arm} {{" in picture.read_text() for arm in VARIANTS)


def test_the_mean_of_curves_that_were_measured_at_other_tokens():
    one = {"tokens": [10, 20, 30], "loss": [3.0, 2.0, 1.0], "metric": [0.0, 0.1, 0.2]}
    other = {"tokens": [12, 20, 28], "loss": [2.0, 2.0, 2.0], "metric": [0.2, 0.1, 0.0]}
    mean = mean_curve([one, other])
    assert mean["tokens"] == [12, 20, 28]
    assert mean["loss"] == pytest.approx([2.4, 2.0, 1.6]) and mean["metric"] == pytest.approx([0.11, 0.1, 0.09])


def test_what_is_not_in_every_seed_is_in_no_mean():
    runs = [{"metric": [[0.5, None]]}, {"metric": [[0.7, 0.2]]}]
    assert mean_matrix(runs, "metric") == [[pytest.approx(0.6), None]]


def test_bold_only_where_intervals_allow():
    assert best([[0.5, 0.4, 0.6], [0.8, 0.7, 0.9], None]) == 1
    assert best([[0.5, 0.4, 0.75], [0.8, 0.7, 0.9]]) is None
    assert best([[0.5, 0.4, 0.6], [0.8, None, None]]) is None
    assert best([[0.5, 0.4, 0.6]]) is None


def test_colour_is_relative_to_guessing():
    findings = CASES["full"]
    about = findings["metrics"]["capitalization"]
    for measure, guess, perfect in (("metric", about["chance"], 1.0), ("loss", about["loss"], 0.0)):
        assert above_guessing(findings, "capitalization", measure, guess) == 0
        assert above_guessing(findings, "capitalization", measure, perfect) == 1
    assert above_guessing(findings, "capitalization", "loss", 2 * about["loss"]) == -1


def test_arms_without_an_order_are_in_every_order():
    findings = CASES["policies"]
    first, third = curves(findings, "run", 1), curves(findings, "run", 3)
    assert first["joint"] == third["joint"] and first["sequential"] != third["sequential"]
