"""Capitalization and token-document: labels are read from annotations."""

from dataclasses import replace

import numpy as np
from documents import VOCABULARY, make_document, make_pool

from pretrain.tasks import capitalization, token_document
from pretrain.tasks.spec import CAPITALISED, CASED, RECURRENCE_KNOWN, RECURS, WORD_START, Run, Settings, Tokens


def targets(spec, *annotations: int):
    tokens = Tokens(np.arange(len(annotations)), np.array(annotations, np.uint8))
    return spec.target(tokens, np.random.default_rng(0), VOCABULARY, Settings())


def test_capitalization_labels_the_first_token_of_words_with_case():
    inside, digits = CASED | CAPITALISED, WORD_START
    found = targets(capitalization.SPEC, 0, WORD_START | CASED | CAPITALISED, inside, digits, WORD_START | CASED, 0)
    assert found.positions.tolist() == [1, 4]
    assert found.labels.tolist() == [1, 0]


def test_token_document_labels_words_whose_recurrence_is_known():
    known = WORD_START | RECURRENCE_KNOWN
    found = targets(token_document.SPEC, 0, known | RECURS, RECURRENCE_KNOWN | RECURS, WORD_START, known, 0)
    assert found.positions.tolist() == [1, 4]
    assert found.labels.tolist() == [1, 0]


def test_the_input_is_not_touched():
    for spec in (capitalization.SPEC, token_document.SPEC):
        assert targets(spec, 0, 0xFF, 0).ids.tolist() == [0, 1, 2]


def test_no_labelled_token_gives_empty_targets():
    for spec in (capitalization.SPEC, token_document.SPEC):
        found = targets(spec, 0, 0)
        assert len(found.positions) == len(found.labels) == 0


def test_documents_in_one_case_are_left_out_of_capitalization():
    mixed, lower = make_document("mixed", ["A mouse."]), make_document("lower", ["a mouse."])
    pool = make_pool(mixed, lower, make_document("upper", ["A MOUSE."]))
    assert [instance.segments for instance in capitalization.SPEC.build(pool)] == [mixed.segments]


def test_a_document_of_one_segment_is_left_out_of_token_document():
    single = make_document("single", ["a b c d"])
    double = replace(make_document("double", ["e f g h"], start=4), segments=(Run(4, 6), Run(6, 8)))
    instances = list(token_document.SPEC.build(make_pool(single, double)))
    assert [instance.segments for instance in instances] == [(Run(4, 6),), (Run(6, 8),)]


def test_capitalization_is_english_and_uncased():
    assert capitalization.SPEC.languages == {"en"} and capitalization.SPEC.needs_uncased
