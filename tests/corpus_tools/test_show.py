import re
from io import StringIO
from itertools import chain

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from written import SMALL, english, write_jsonl

from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
from corpus_tools.shards import Instances, read_manifest
from corpus_tools.show import Pictures, Span, bracketed, show, spaced
from pretrain.tasks import TASKS
from pretrain.tasks.spec import LEVEL, UNIT_START, Tokens

CHINESE_TASKS = [name for name, spec in TASKS.items() if "zh" in spec.languages]


def printed(corpus, task: str, width: int = 400, **settings) -> str:
    console = Console(width=width, file=StringIO())
    with console.capture() as capture:
        console.print(show(corpus, task, **settings))
    return capture.get()


def labels_in(text: str) -> list[str]:
    return re.findall(r"^#\d+  label: (.*?)(?: – .*)?$", text, re.MULTILINE)


def flat(spans) -> str:
    return "".join(span.text for span in spans)


@pytest.mark.parametrize("task", TASKS)
def test_instances_are_shown_with_their_labels_in_words(english_corpus, task):
    text = printed(english_corpus, task, count=4, seed=5)
    assert text.startswith(f"{task}: {TASKS[task].summary}")
    labels = labels_in(text)
    assert set(labels) <= set(read_manifest(english_corpus)["tasks"][task]["labels"] or [])
    assert len(labels) == (0 if TASKS[task].target else 4)
    assert len(re.findall(r"^#\d+  ", text, re.MULTILINE)) == 4
    assert "##" not in text or task == "knowledge_masking"


def test_the_label_is_that_of_the_instance(english_corpus):
    instances = Instances(english_corpus, "train", "sentence_distance")
    names = read_manifest(english_corpus)["tasks"]["sentence_distance"]["labels"]
    text = printed(english_corpus, "sentence_distance", count=len(instances))
    numbers = [int(number) for number in re.findall(r"^#(\d+)  ", text, re.MULTILINE)]
    assert sorted(numbers) == list(range(len(instances)))
    assert labels_in(text) == [names[instances[number][1]] for number in numbers]


@pytest.mark.parametrize(
    ("corpus", "task"), [("english_corpus", task) for task in TASKS] + [("chinese_corpus", t) for t in CHINESE_TASKS]
)
def test_80_columns_hold_it_and_nothing_is_cut_off(request, corpus, task):
    corpus = request.getfixturevalue(corpus)
    narrow = printed(corpus, task, width=80, count=2)
    assert max(map(cell_len, narrow.splitlines())) <= 80
    assert "…" not in narrow and "\x1b" not in narrow
    picture = Pictures(corpus, task).sample(2, 0)[0]
    letters = {letter for line in picture.lines for letter in flat(line.spans)} - {" "}
    assert letters <= set(narrow)


def test_capitals_entities_and_masks_are_visible(english_corpus):
    text = printed(english_corpus, "capitalization", count=50)
    assert "near Mount+ Hale+" in text and "«" not in text
    assert "NASA is shown as Nasa" in text
    masked = printed(english_corpus, "knowledge_masking", count=50)
    assert "[" in masked and "=]" in masked and "→" in masked and "near «" in masked


def test_the_spans_of_a_masked_picture_are_the_units_and_what_is_shown_for_them(english_corpus, chinese_corpus):
    for corpus in (english_corpus, chinese_corpus):
        pictures = Pictures(corpus, "knowledge_masking")
        for picture in pictures.sample(20, 3):
            (line,) = picture.lines
            ((tokens,), _) = pictures.instances[picture.number]
            starts = ((tokens.annotations & UNIT_START) > 0) & ((tokens.annotations & LEVEL) > 0)
            assert sum(bool(span.kinds) for span in line.spans) == starts.sum()
            predicted = [span for span in line.spans if {"masked", "replaced", "kept"} & set(span.kinds)]
            masked = sum(span.note.count("[MASK]") for span in predicted if "masked" in span.kinds)
            assert masked == picture.shown.count("[MASK]")
            assert predicted
            assert all(span.note in picture.shown for span in predicted if "replaced" in span.kinds)
            assert re.fullmatch(rf"\d+ of {len(tokens.ids)} tokens", picture.label)


def test_shuffled_segments_stand_beside_the_right_order(english_corpus):
    pictures = Pictures(english_corpus, "sentence_reordering")
    several = 0
    for picture in pictures.sample(50, 0):
        sentences, _ = pictures.instances[picture.number]
        whole = "".join(flat(pictures.spans(sentence, {})) for sentence in sentences).replace(" ", "")
        assert "".join(flat(line.spans) for line in picture.ordered).replace(" ", "") == whole
        assert " ".join(line.note for line in picture.lines) == picture.label
        for line in picture.ordered:
            (shown,) = (other for other in picture.lines if other.name == line.note)
            assert (shown.spans, shown.note) == (line.spans, line.name)
        several += len(picture.lines) > 2
    assert several
    assert "in the text" in printed(english_corpus, "sentence_reordering", count=5)


def test_the_removed_marker_stands_in_its_place(english_corpus):
    for picture in Pictures(english_corpus, "discourse_relation").sample(1000, 0):
        before, after = picture.lines
        marked = after.spans[0].kinds == ("removed",)
        assert marked == (picture.label != "no marker")
        assert not any(span.kinds for span in before.spans)
        if marked:
            assert after.spans[0].text == picture.label
    assert re.search(r"│ \{(however|therefore|meanwhile)\} ", printed(english_corpus, "discourse_relation", count=50))


def test_relations_of_files_stand_between_the_texts(folder):
    rows = [f"The river {n} rose.\tThe town {n} was lost.\t{('Cause', 'Contrast')[n % 2]}" for n in range(60)]
    (folder / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]))
    sources = [write_jsonl(folder / "docs.jsonl", [english(f"doc {n}") for n in range(12)])]
    config = CorpusConfig(name="rel", sources=sources, relations=["pairs.tsv"], **SMALL)
    build_corpus(config, ["knowledge_masking", "discourse_relation"], workers=1, notify=lambda line: None)
    for picture in Pictures(folder / "corpora/rel", "discourse_relation").sample(50, 0):
        before, joint, after = picture.lines
        number = int(re.search(r"\d+", flat(before.spans))[0])
        assert flat(joint.spans) == picture.label == ("Cause", "Contrast")[number % 2]
        assert flat(after.spans) == f"The town {number} was lost."
    assert "── Cause ──" in printed(folder / "corpora/rel", "discourse_relation", count=20)


def test_grades_are_told_in_words(english_corpus):
    text = printed(english_corpus, "ir_relevance", count=20)
    assert "label: strong – the passage is of the section that the title names" in text
    assert "  query │ " in text and "passage │ " in text


def test_chinese_is_not_spaced(chinese_corpus):
    pictures = Pictures(chinese_corpus, "sentence_reordering").sample(5, 0)
    assert not any(" " in flat(line.spans) for picture in pictures for line in chain(picture.lines, picture.ordered))
    assert "‹" in printed(chinese_corpus, "knowledge_masking", count=5)


def test_a_span_can_be_read_without_colours():
    shapes = {
        Span("million years", ("phrase", "masked"), "[MASK] [MASK]"): "[‹million years›]",
        Span("Hale", ("entity", "replaced"), "##les"): "[«Hale»→##les]",
        Span("of", ("basic", "kept")): "[of=]",
        Span("方法", ("basic",)): "{方法}",
        Span("word", ("class0",)): "word",
        Span("词", ("class0",)): "词-",
        Span("word", ("class2",)): "word++",
    }
    assert [bracketed(span).plain for span in shapes] == list(shapes.values())


@pytest.mark.parametrize(
    "text",
    [
        'He said "no" to it, "yes" to 1,000 others ("why?").',
        "In the U.S. it costs $3.5, e.g. at Anna's.",
        "The non-observant and/or others don't (1927–28) 50%.",
        "On May 2, 1905, 400 came to Ἀχιλλεύς.",
    ],
)
def test_spaces_are_mostly_where_they_were(text):
    pieces = re.findall(r"\w+|[^\w\s]", text)
    shown, quoted = pieces[0], False
    for place, piece in enumerate(pieces[1:], 1):
        shown += " " * spaced(pieces[max(0, place - 2) : place + 1], quoted) + piece
        quoted ^= piece == '"'
    assert shown == text


def test_pieces_of_a_number_do_not_part_it(english_corpus):
    pictures = Pictures(english_corpus, "sentence_distance")
    encoded = pictures.tokenizer.encode("they paid 44,144 and 3.75 in 1957.", add_special_tokens=False)
    assert any("##" in piece for piece in encoded.tokens)
    tokens = Tokens(np.array(encoded.ids), np.zeros(len(encoded.ids), np.uint8))
    text = "".join(space + piece for space, piece in pictures.texts(tokens))
    assert text == "they paid 44,144 and 3.75 in 1957."


def test_the_mark_of_a_word_stands_behind_all_its_pieces(english_corpus, chinese_corpus):
    text = printed(english_corpus, "capitalization", count=50)
    for name in ("Anna+ Keller+", "Maria+ Ortega+", "Lake+ Vendis+", "Port+ Aldine+"):
        assert name in text
    assert "花园+" in printed(chinese_corpus, "token_document", count=50)


def test_same_seed_same_instances(english_corpus):
    assert printed(english_corpus, "knowledge_masking", seed=1) == printed(english_corpus, "knowledge_masking", seed=1)
    assert printed(english_corpus, "knowledge_masking", seed=1) != printed(english_corpus, "knowledge_masking", seed=2)


def test_a_task_that_the_corpus_lacks(chinese_corpus):
    with pytest.raises(ValueError, match="no task 'capitalization'"):
        show(chinese_corpus, "capitalization")
