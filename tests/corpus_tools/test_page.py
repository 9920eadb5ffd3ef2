"""The page in headless Chromium: what a person clicks, types and sees."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner
from written import SMALL, english, write_jsonl

from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
from corpus_tools.page import SAMPLE, page
from corpus_tools.shards import read_manifest
from launch.cli import app

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>"


def data_of(html: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


@pytest.fixture(scope="session")
def hostile_corpus(tmp_path_factory) -> Path:
    """Documents, titles and classes that hold markup."""
    folder = tmp_path_factory.mktemp("hostile")
    documents = [english(f"doc {n}") for n in range(14)]
    for number, document in enumerate(documents):
        document["title"] = f"{HOSTILE} {document['title']}"
        document["text"] = document["text"].replace(". ", f". {HOSTILE} stood on wall {number}. ", 3)
    rows = [f"{HOSTILE} one {n}.\t<!-- two {n}.\t{('plain', HOSTILE)[n % 2]}" for n in range(60)]
    (folder / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sources = [write_jsonl(folder / "docs.jsonl", documents)]
        config = CorpusConfig(name="<b>&amp;", sources=sources, relations=["pairs.tsv"], **SMALL)
        tasks = ["knowledge_masking", "token_document", "sentence_reordering", "discourse_relation", "ir_relevance"]
        build_corpus(config, tasks, workers=1, notify=lambda line: None)
    return folder / "corpora" / "<b>&amp;"


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


class Visitor:
    """A person before the page."""

    def __init__(self, browser, path: Path, dark: bool = False):
        self.browser, self.uri = browser, path.as_uri()
        self.prefer(dark)
        for log in ("browser", "performance"):
            browser.get_log(log)  # of the page before
        browser.get(self.uri)
        self.data = data_of(path.read_text("utf-8"))

    def prefer(self, dark: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def all(self, selector: str) -> list:
        found = self.browser.find_elements("css selector", selector)
        shown = "return arguments[0].map(element => element.checkVisibility())"
        visible = self.browser.execute_script(shown, found)
        return [element for element, seen in zip(found, visible, strict=True) if seen]

    def one(self, selector: str):
        (element,) = self.all(selector)
        return element

    def open(self, task: str) -> None:
        self.one(f"#tab-{task}").click()

    def search(self, words: str) -> None:
        field = self.one("input[type=search]")
        field.clear()
        field.send_keys(words)

    def place(self) -> str:
        return self.one("output").text

    def numbers(self) -> list[str]:
        shown = "[role=tabpanel]:not([hidden]) .number"
        return self.browser.execute_script(f"return [...document.querySelectorAll('{shown}')].map(e => e.textContent)")

    def ground(self) -> str:
        return self.browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    def quiet(self) -> None:
        """No error was logged, and nothing was asked for but the file."""
        assert self.browser.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        asked = {request["request"]["url"] for request in requests if request["documentURL"] == self.uri}
        assert self.uri in asked and asked <= {self.uri, "data:,"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory, english_corpus, chinese_corpus, hostile_corpus) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {}
    for name, corpus in (("en", english_corpus), ("zh", chinese_corpus), ("hostile", hostile_corpus)):
        made[name] = folder / f"{name}.html"
        made[name].write_text(page(corpus, count=38), "utf-8")
    return made


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_tab_opens_and_shows_its_task(browser, pages, language):
    visitor = Visitor(browser, pages[language])
    assert visitor.one("h1").text == language
    assert f"{visitor.data['documents']['used']}\ndocuments used" in visitor.one("[role=tabpanel]").text
    for name, task in visitor.data["tasks"].items():
        visitor.open(name)
        assert visitor.one("[role=tab][aria-selected=true]").text == name.replace("_", " ")
        text = visitor.one("[role=tabpanel]").text
        assert task["predicts"] in text and f"{task['instances']['train']:,}" in text
        assert visitor.numbers() == [f"#{picture[0]}" for picture in task["sample"][:5]]
        shown = visitor.one("article:first-of-type").get_attribute("textContent")
        spans = [span if isinstance(span, str) else span[0] for line in task["sample"][0][3] for span in line[1]]
        assert all(span in shown for span in spans) and task["sample"][0][5] in shown
    visitor.quiet()


def test_pages_turn_and_stop_at_the_ends(browser, pages):
    visitor = Visitor(browser, pages["en"])
    visitor.open("knowledge_masking")
    total = len(visitor.data["tasks"]["knowledge_masking"]["sample"])
    body = browser.find_element("css selector", "body")
    assert visitor.place() == f"1–5 of {total}" and not visitor.one(".previous").is_enabled()
    visitor.one(".next").click()
    assert visitor.place() == f"6–10 of {total}"
    visitor.one("h2").click()
    body.send_keys("\ue012")  # left
    body.send_keys("\ue012")
    assert visitor.place() == f"1–5 of {total}"
    for _ in range(-(-total // 5) + 2):
        body.send_keys("\ue014")  # right
    assert visitor.place().endswith(f"–{total} of {total}") and not visitor.one(".next").is_enabled()
    last = visitor.data["tasks"]["knowledge_masking"]["sample"][-1][0]
    assert visitor.numbers()[-1] == f"#{last}"


def test_tabs_are_reached_by_arrow_keys(browser, pages):
    visitor = Visitor(browser, pages["en"])
    names = list(visitor.data["tasks"])
    visitor.one("#tab-corpus").click()
    for expected in ("corpus", *names, "corpus"):
        active = browser.switch_to.active_element
        assert active.get_attribute("id") == f"tab-{expected}" and active.get_attribute("aria-selected") == "true"
        active.send_keys("\ue014")
    assert len(browser.find_elements("css selector", "[role=tab][tabindex='0']")) == 1


@pytest.mark.parametrize(("language", "word"), [("en", "keller"), ("zh", "城墙"), ("en", "different documents")])
def test_search_finds_what_is_there_and_says_when_nothing_is(browser, pages, language, word):
    visitor = Visitor(browser, pages[language])
    visitor.open("sentence_distance")
    sample = visitor.data["tasks"]["sentence_distance"]["sample"]

    def text_of(picture) -> str:
        spans = [span if isinstance(span, str) else span[0] for line in picture[3] for span in line[1]]
        return f"{picture[1]} {''.join(spans)}".lower()

    holding = [picture for picture in sample if word in text_of(picture)]
    visitor.search(word)
    assert visitor.place() == f"1–{min(5, len(holding))} of {len(holding)}" and len(holding) < len(sample)
    assert visitor.numbers() == [f"#{picture[0]}" for picture in holding[:5]]
    assert all(word in article.text.lower().replace("\n", "") for article in visitor.all("article"))
    visitor.search("zzzz")
    assert visitor.place() == "0 of 0" and visitor.all("article") == []
    assert "zzzz" in visitor.one(".none").text
    visitor.one("input[type=search]").send_keys("\ue00c")  # escape
    assert visitor.place() == f"1–5 of {len(sample)}"
    visitor.quiet()


def test_hostile_text_stays_text(browser, pages):
    visitor = Visitor(browser, pages["hostile"])
    assert visitor.one("h1").text == "<b>&amp;"
    for name in visitor.data["tasks"]:
        visitor.open(name)
        assert visitor.all("article")
    visitor.open("discourse_relation")
    visitor.search(HOSTILE)
    assert HOSTILE in {label.text for label in visitor.all(".label")}
    assert browser.execute_script("return [window.hacked ?? 0, document.images.length]") == [0, 0]
    assert len(browser.find_elements("css selector", "script")) == 2
    visitor.quiet()


def test_the_policy_lets_no_other_script_run(browser, pages):
    visitor = Visitor(browser, pages["en"])
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.hacked = 3';"
        "document.body.append(script); document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/'}));"
    )
    assert browser.execute_script("return window.hacked ?? 0") == 0
    messages = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "script-src" in messages and "img-src" in messages
    assert visitor.one("h1").text == "en"


def test_dark_and_light(browser, pages):
    light = Visitor(browser, pages["en"]).ground()
    visitor = Visitor(browser, pages["en"], dark=True)
    dark = visitor.ground()
    assert light != dark
    visitor.one("#theme").click()
    assert visitor.ground() == light and visitor.one("#theme").get_attribute("aria-pressed") == "false"
    visitor.prefer(False)
    visitor.one("#theme").click()
    assert visitor.ground() == dark


@pytest.mark.parametrize("name", ["en", "zh", "hostile"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, pages, name):
    visitor = Visitor(browser, pages[name])
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(visitor.uri)
        for task in ("corpus", *visitor.data["tasks"]):
            visitor.open(task)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_class_can_be_seen(browser, pages):
    visitor = Visitor(browser, pages["en"])
    visitor.open("discourse_relation")
    labels = visitor.data["tasks"]["discourse_relation"]["labels"]
    assert len(visitor.all(".chart .class")) < len(labels)
    visitor.one(".more").click()
    shown = "return [...document.querySelectorAll('[role=tabpanel]:not([hidden]) .class')].map(e => e.textContent)"
    assert sorted(browser.execute_script(shown)) == sorted(labels)


def test_same_seed_same_bytes(english_corpus):
    first, again, other = (page(english_corpus, count=20, seed=seed) for seed in (4, 4, 5))
    assert first == again != other


def test_the_sample_is_as_large_as_asked(english_corpus):
    data = data_of(page(english_corpus, ["sentence_distance"], count=7))
    assert list(data["tasks"]) == ["sentence_distance"]
    assert len(data["tasks"]["sentence_distance"]["sample"]) == 7
    whole = data_of(page(english_corpus))
    for name, row in read_manifest(english_corpus)["tasks"].items():
        assert len(whole["tasks"][name]["sample"]) == min(SAMPLE, row["train"])


def test_the_command_writes_the_page(english_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(english_corpus.parent.parent)
    (tmp_path / "en.yaml").write_text("{name: en, corpus: {name: en}}")
    target = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["corpus", "show", str(tmp_path / "en.yaml"), "--html", str(target), "--count", "9"])
    assert done.exit_code == 0 and done.stdout == f"page: {target}\n"
    assert target.read_text("utf-8") == page(english_corpus, count=9)


def test_a_task_that_the_corpus_lacks(chinese_corpus):
    with pytest.raises(ValueError, match="no task 'capitalization'"):
        page(chinese_corpus, ["capitalization"])
