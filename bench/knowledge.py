"""How much of gold entities the units of each source cover, on MSRA NER (dev and test), and what the sources cost.

    PYTHONPATH=. python bench/knowledge.py FOLDER [--cost]

FOLDER holds msra_ner/ (JSON lines with `tokens`, a string, and `tags`, BIO by character) and the lexicons
gazetteer_zh_thuocl/ and gazetteer_zh_wiki_titles/. Prints a Markdown table: the share of gold entities that a unit
covers exactly, overall and by type; the share that a unit of level entity covers; units of several characters per 100
characters; seconds that the sources take per MB, beside those of the segmenter.

--cost prints another: seconds per MB of Wikipedia, with lexicons and phrases of several sizes (needs en_wiki/, zh_wiki/
and gazetteer_en_wiki_titles/ too). Phrases are runs of two to four words that other articles repeat; entries are
titles, filled up with such runs.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from corpus_tools.annotate import Annotator
from corpus_tools.atoms import Atoms
from corpus_tools.knowledge import Knowledge, Source, chinese, english
from corpus_tools.knowledge.lexicon import Lexicons, read_lexicons
from corpus_tools.knowledge.phrases import Phrases
from corpus_tools.knowledge.taggers import make_tagger
from corpus_tools.readers import lines_of
from corpus_tools.segmentation import sentences
from corpus_tools.segmentation import words as segment_words
from corpus_tools.tokenizer import train_tokenizer
from pretrain.tasks.spec import ENTITY

TYPES = ("PER", "LOC", "ORG")
LEXICONS = ("gazetteer_zh_thuocl", "gazetteer_zh_wiki_titles")
Entity = tuple[int, int, str]
"""First code point, the one behind the last, type."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    if arguments.cost:
        cost(arguments.folder)
    else:
        coverage(arguments.folder)


def coverage(folder: Path) -> None:
    texts, gold = read_gold(folder / "msra_ner")
    thuocl, titles = (Lexicons(read_lexicons([f"{folder / name}"]).entries) for name in LEXICONS)
    both = Lexicons(read_lexicons([f"{folder / name}" for name in LEXICONS]).entries)
    names, lac = chinese.names, make_tagger("lac", None)
    annotator = Annotator(train_tokenizer(texts, 8_000, True).to_str(), "zh")
    print(f"{len(texts):,} sentences, {sum(map(len, texts)):,} characters, {len(gold):,} entities\n")
    print("| sources | covered | PER | LOC | ORG | as entity | units | s/MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows: dict[str, list[Source]] = {
        "words alone": [],
        "names": [names],
        "lexicon (THUOCL)": [thuocl],
        "lexicon (Wikipedia titles)": [titles],
        "lexicon (both)": [both],
        "lexicon (both), names": [both, names],
        "lac": [lac],
        "lac, names": [lac, names],
        "lac, lexicon (both), names": [lac, both, names],
        "lexicon (both), lac, names": [both, lac, names],
    }
    for row, sources in rows.items():
        print(f"| {row} | {measure(sources, annotator, texts, gold)} |", flush=True)


def read_gold(folder: Path) -> tuple[list[str], list[Entity]]:
    """Sentences, and the entities in them when they are joined by newlines."""
    texts: list[str] = []
    gold: list[Entity] = []
    origin = 0
    for split in ("dev", "test"):
        for _, line in lines_of(folder / f"{split}.jsonl.zst", 1 << 20):
            row = json.loads(line)
            tags = [*row["tags"].split(), "O"]
            for first in (place for place, tag in enumerate(tags) if tag.startswith("B-")):
                stop = next(place for place in range(first + 1, len(tags)) if not tags[place].startswith("I-"))
                gold.append((origin + first, origin + stop, tags[first][2:]))
            texts.append(row["tokens"])
            origin += len(row["tokens"]) + 1
    return texts, gold


class Kept(Knowledge):
    """Keeps what it was asked, what it said, and the seconds that it took."""

    def units(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
        before = time.process_time()
        self.said = super().units(atoms)
        self.seconds = time.process_time() - before
        self.atoms = atoms
        return self.said


def measure(sources: Sequence[Source], annotator: Annotator, texts: list[str], gold: list[Entity]) -> str:
    annotator.knowledge = knowledge = Kept("zh", sources, numbered=False)
    annotator.encode(texts)
    atoms, (levels, continues) = knowledge.atoms, knowledge.said
    first = np.flatnonzero((levels > 0) & ~continues)
    last = np.flatnonzero((levels > 0) & ~np.append(continues, False)[1:])
    units = dict(zip(zip(atoms.start[first], atoms.stop[last], strict=True), levels[first], strict=True))
    found = {kind: [units.get((a, b), 0) for a, b, of in gold if of == kind] for kind in TYPES}
    everything = np.concatenate(list(found.values()))
    shares = [np.mean(np.array(hits) > 0) for hits in (everything, *found.values())]
    shares.append(np.mean(everything == ENTITY))
    several = 100 * np.count_nonzero(atoms.stop[last] - atoms.start[first] > 1) / len(atoms.text)
    seconds = knowledge.seconds / len(atoms.text.encode()) * 1e6
    return " | ".join([*(f"{share:.3f}" for share in shares), f"{several:.1f}", f"{seconds:.2f}"])


def cost(folder: Path) -> None:
    print("| text | sources | s/MB | encode s/MB | made in s | automaton in MB |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for language, lexicons in {"en": ["gazetteer_en_wiki_titles"], "zh": list(LEXICONS)}.items():
        lines = islice(lines_of(folder / f"{language}_wiki" / "docs.jsonl.zst", 1 << 24), 6_000)
        articles = [json.loads(line)["text"].split("\n") for _, line in lines]
        texts, others = (
            [sentence for article in part for text in article for sentence in sentences(text, language)]
            for part in (articles[:1_000], articles[1_000:])
        )
        annotator = Annotator(train_tokenizer(texts, 8_000, True).to_str(), language)
        entries = list(read_lexicons([f"{folder / name}" for name in lexicons]).entries)
        runs = runs_of(others, language)
        for row, make in rows_of(language, entries, runs).items():
            print(f"| {language} | {row} | {cost_of(make, annotator, language, texts)} |", flush=True)


def runs_of(texts: list[str], language: str) -> list[str]:
    """Runs of two to four words that occur twice or more, but are not the most frequent."""
    separator = " " if language == "en" else ""
    counts = Counter(
        separator.join(words[place : place + size])
        for words in (text.split() if separator else segment_words(text) for text in texts)
        for size in (2, 3, 4)
        for place in range(len(words) - size)
    )
    return [run for run, count in counts.items() if 2 <= count <= 20]


def rows_of(language: str, entries: list[str], runs: list[str]) -> dict[str, Callable[[], list[Source]]]:
    names = (chinese if language == "zh" else english).names
    many = dict.fromkeys(islice(dict.fromkeys([*entries, *runs]), 500_000), ENTITY)
    few = dict.fromkeys(list(many)[:: len(many) // 1_000], ENTITY)
    separator = " " if language == "en" else ""
    phrases = sorted(set(map(str.lower, runs)))[:800_000]
    return {
        "words alone": lambda: [],
        "names": lambda: [names],
        "names, 20,000 phrases": lambda: [names, Phrases(phrases[:: len(phrases) // 20_000], separator)],
        f"names, {len(phrases):,} phrases": lambda: [names, Phrases(phrases, separator)],
        f"lexicon of {len(few):,}": lambda: [Lexicons(few)],
        f"lexicon of {len(many):,}": lambda: [Lexicons(many)],
    }


def cost_of(make: Callable[[], list[Source]], annotator: Annotator, language: str, texts: list[str]) -> str:
    before = time.process_time()
    annotator.knowledge = knowledge = Kept(language, make(), numbered=True)
    made = time.process_time() - before
    lexicons = [source for source in knowledge.sources if isinstance(source, Lexicons)]
    memory = sum(lexicon.automaton.get_stats()["total_size"] for lexicon in lexicons) / 1e6
    annotator.fragments = annotator._no_fragments()
    annotator.encode(texts)
    before = time.process_time()
    annotator.encode(texts)
    encode, megabytes = time.process_time() - before, len("\n".join(texts).encode()) / 1e6
    return f"{knowledge.seconds / megabytes:.3f} | {encode / megabytes:.3f} | {made:.1f} | {memory:.0f}"


if __name__ == "__main__":
    main()
