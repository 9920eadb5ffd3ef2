"""Units: what knowledge masking masks at once (ERNIE 1.0, section 3.2: basic units, phrases, entities).

The paper's chunker and entity tagger were never named. Here units come from sources, in an order of precedence: a span
that touches what a source before it took is left out; of a source's own spans the leftmost stays, of these the longest.

    lexicon                     entries of the user's lists: entities, or phrases
    spacy, lac, classifier      what a tagger takes for a name: entities
    names                       English: runs of capitalised words, or one that does not begin its sentence. Chinese:
                                words that jieba classes as names. Entities
    phrases                     what was mined from the corpus: phrases

What is left of words are units too. English: basic. Chinese: two characters or more are a phrase; single characters,
numbers and latin words are basic. Punctuation is in no unit (level 0, never masked), except inside one of a source:
`J. R. R. Tolkien`, `Jean-Luc Picard`. No unit crosses a sentence or cuts an atom.

Function words are never names: `The Hague` is the entity `Hague`, and a sentence's first word misleads less.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from corpus_tools.atoms import Atoms
from corpus_tools.knowledge import chinese, english
from corpus_tools.knowledge.english import FUNCTION_WORDS
from corpus_tools.knowledge.lexicon import Lexicon, Lexicons, read_lexicons
from corpus_tools.knowledge.phrases import FLAGS, Phrases, number_of
from corpus_tools.knowledge.spans import Spans, Taken
from corpus_tools.knowledge.taggers import PACKAGES, make_tagger

__all__ = [
    "FUNCTION_WORDS", "SOURCES", "Knowledge", "Lexicon", "make_knowledge",
    "read_lexicons", "sources_of",
]  # fmt: skip

SOURCES = ("lexicon", *PACKAGES, "names", "phrases")
Source = Callable[[Atoms, np.ndarray], Spans]
"""From atoms, and which of them are free, to spans. What touches an atom that is not free is left out anyway."""


class Knowledge:
    """Made anew in every worker process, from plain values: see `make_knowledge`."""

    def __init__(self, language: str, sources: Sequence[Source], numbered: bool):
        """`numbered`: a source needs the numbers of the words."""
        self.words = chinese if language == "zh" else english
        self.sources = sources
        self.numbered = numbered

    def kind(self, surface: str, key: str) -> int:
        """What `units` needs to know of a word; `key` is it in lower case, or empty where it is no word."""
        number = number_of(key or surface) if self.numbered else 0
        return self.words.kind(surface, key) | number << FLAGS

    def units(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
        """Of every atom: its level (0, BASIC, PHRASE, ENTITY), and whether it continues the unit of the one before."""
        taken = Taken(len(atoms.start))
        for source in self.sources:
            taken.accept(source(atoms, taken.levels == 0))
        self.words.words(atoms, taken.levels, taken.continues)
        return taken.levels, taken.continues


def sources_of(language: str, sources: Sequence[str] | None, lexicons: Sequence[str], tagger: str | None) -> list[str]:
    """The sources in order of precedence; by default lexicon (where there are lexicons), names and phrases.

    Raises ValueError where a source is unknown, named twice or lacks what it needs, or a setting is read by none.
    """
    if sources is None:
        sources = ["lexicon", "names", "phrases"] if lexicons else ["names", "phrases"]
    for source in sources:
        if source not in SOURCES:
            raise ValueError(f"corpus.knowledge: there is no source {source!r}, only {', '.join(SOURCES)}")
        if sources.count(source) > 1:
            raise ValueError(f"corpus.knowledge names {source} twice; a source has one place in the order")
    if ("lexicon" in sources) != bool(lexicons):
        fix = "name files in corpus.lexicons" if not lexicons else "add lexicon to corpus.knowledge"
        raise ValueError(f"corpus.knowledge={list(sources)} and corpus.lexicons={list(lexicons)} disagree: {fix}")
    with_model = [source for source in sources if source in ("spacy", "classifier")]
    if len(with_model) > 1:
        raise ValueError("corpus.knowledge: spacy and classifier share corpus.tagger; name one of them")
    if with_model and tagger is None:
        raise ValueError(f"corpus.knowledge: {with_model[0]} needs a model: name it in corpus.tagger")
    if tagger is not None and not with_model:
        raise ValueError(f"corpus.tagger={tagger!r} is read by no source: add spacy or classifier to corpus.knowledge")
    if "lac" in sources and language != "zh":
        raise ValueError("corpus.knowledge: lac reads Chinese alone; drop it, or set corpus.language=zh")
    return list(sources)


def make_knowledge(
    language: str,
    sources: Sequence[str] | None = None,
    lexicons: Sequence[str] = (),
    tagger: str | None = None,
    phrases: Collection[str] = (),
) -> Knowledge:
    """All that a configuration names, loaded. `phrases`: see `corpus_tools.knowledge.phrases`.

    Raises ValueError as `sources_of` and `read_lexicons` do, and where a tagger's package or model is missing.
    """
    made: list[Source] = []
    named = sources_of(language, sources, lexicons, tagger)
    for source in named:
        if source == "lexicon":
            made.append(Lexicons(read_lexicons(lexicons).entries))
        elif source == "names":
            made.append(chinese.names if language == "zh" else english.names)
        elif source == "phrases":
            if phrases:
                made.append(Phrases(phrases, "" if language == "zh" else " "))
        else:
            made.append(make_tagger(source, tagger))
    return Knowledge(language, made, "phrases" in named and bool(phrases))
