"""How much of gold entities the units of each source cover, on MSRA NER (dev and test), and what a source costs.

    PYTHONPATH=. python bench/knowledge.py FOLDER

FOLDER holds msra_ner/ (JSON lines with `tokens`, a string, and `tags`, BIO by character) and the lexicons
gazetteer_zh_thuocl/ and gazetteer_zh_wiki_titles/. Prints a Markdown table: the
share of gold entities that a unit covers exactly, overall and by type; the share that a unit of level entity covers;
units of several characters per 100 characters; seconds that the sources take per MB, beside those of the segmenter.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corpus_tools.annotate import Annotator
from corpus_tools.atoms import Atoms
from corpus_tools.knowledge import Knowledge, Source, chinese
from corpus_tools.knowledge.lexicon import Lexicons, read_lexicons
from corpus_tools.knowledge.taggers import make_tagger
from corpus_tools.readers import lines_of
from corpus_tools.tokenizer import train_tokenizer
from pretrain.tasks.spec import ENTITY

TYPES = ("PER", "LOC", "ORG")
LEXICONS = ("gazetteer_zh_thuocl", "gazetteer_zh_wiki_titles")
Entity = tuple[int, int, str]
"""First code point, the one behind the last, type."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
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


if __name__ == "__main__":
    main()
