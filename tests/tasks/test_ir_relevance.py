from collections import Counter, defaultdict
from dataclasses import replace

from documents import is_whole_sentences, make_document, make_pool, owner

from pretrain.tasks.ir_relevance import RANDOM, SPEC, STRONG, WEAK
from pretrain.tasks.spec import Settings

COUNT = 8


def article(number: int, start: int):
    text = [f"Sentence number {i} of article {number} tells something new." for i in range(20)]
    return make_document(
        f"d{number}", text, text[:2], text[:1],
        start=start, title=f"Article {number}", headings=(None, "History", "Use"),
        neighbours=[(number + 1) % COUNT, (number + 2) % COUNT],
    )  # fmt: skip


POOL = make_pool(*(article(number, 1_000 * number) for number in range(COUNT)))
INSTANCES = list(SPEC.build(POOL))


def queries() -> dict[str, dict[int, object]]:
    found: dict[str, dict[int, object]] = defaultdict(dict)
    for (query, run), label in INSTANCES:
        found[query][label] = run
    return found


def test_every_query_gives_one_instance_of_each_class():
    assert Counter(label for _, label in INSTANCES) == dict.fromkeys((STRONG, WEAK, RANDOM), 3 * COUNT)
    assert all(set(graded) == {STRONG, WEAK, RANDOM} for graded in queries().values())


def test_labels_are_true():
    for query, graded in queries().items():
        index = next(i for i, document in enumerate(POOL.documents) if query.startswith(document.title))
        owners = {label: POOL.documents.index(owner(POOL, run)) for label, run in graded.items()}
        near = POOL.documents[index].neighbours
        assert owners[STRONG] == index
        assert owners[WEAK] in near
        assert owners[RANDOM] != index and owners[RANDOM] not in near


def test_the_query_names_the_section_and_the_strong_passage_lies_in_it():
    for query, graded in queries().items():
        document = owner(POOL, graded[STRONG])
        first = next(sentence for sentence in document.sentences if sentence.run.start == graded[STRONG].start)
        heading = document.headings[first.paragraph]
        assert query == (f"{document.title}: {heading}" if heading else document.title)


def test_the_three_passages_stand_at_the_same_place():
    def place(run):
        document = owner(POOL, run)
        return next(sentence.paragraph for sentence in document.sentences if sentence.run.start == run.start)

    for graded in queries().values():
        assert len({place(run) for run in graded.values()}) == 1


def test_passages_are_whole_sentences_from_the_start_of_a_paragraph_and_leave_room_for_the_query():
    for (query, run), _ in INSTANCES:
        document = owner(POOL, run)
        assert is_whole_sentences(document, run)
        assert len(query.split()) * 2 + run.length <= POOL.settings.room(2)


def test_every_third_instance_is_not_one_class():
    assert max(Counter(label for _, label in INSTANCES[::3]).values()) < 0.7 * len(INSTANCES[::3])


def test_a_passage_is_never_the_title_line():
    text = ["History of a very long and winding road indeed.", "It began a long time ago in the hills."]
    first = make_document("a", [text[0]], text, title=text[0][:-1], neighbours=[1])
    others = [
        make_document(f"b{i}", ["It has eight words, which is quite enough."], start=100 + 100 * i) for i in range(2)
    ]
    strong = [run for (_, run), label in SPEC.build(make_pool(first, *others)) if label == STRONG]
    assert strong == [first.sentences[2].run]


def test_documents_without_title_neighbour_or_stranger_give_no_query():
    untitled = make_pool(*(replace(document, title=None) for document in POOL.documents))
    assert list(SPEC.build(untitled)) == []
    assert list(SPEC.build(make_pool(*(replace(document, neighbours=()) for document in POOL.documents)))) == []
    two = [replace(document, neighbours=(1 - i,)) for i, document in enumerate(POOL.documents[:2])]
    assert list(SPEC.build(make_pool(*two))) == []


def test_order_of_documents_does_not_change_instances():
    turned = [
        replace(document, neighbours=tuple(COUNT - 1 - near for near in document.neighbours))
        for document in reversed(POOL.documents)
    ]
    assert sorted(SPEC.build(make_pool(*turned))) == sorted(INSTANCES)


def test_long_queries_are_cut():
    long = [replace(document, title="very " * 40 + document.title) for document in POOL.documents]
    assert all(len(query.split()) <= 16 for (query, _), _ in SPEC.build(make_pool(*long)))
    assert all(len(query) <= 32 for (query, _), _ in SPEC.build(make_pool(*long, language="zh")))


def test_labels_run_from_best_to_worst_and_are_named_pseudo():
    assert list(SPEC.labels(Settings())) == ["strong", "weak", "random"]
    assert "pseudo" in SPEC.summary
