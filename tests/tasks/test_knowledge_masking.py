import numpy as np
import pytest
from documents import VOCABULARY, make_pool, plain_documents
from hypothesis import given
from hypothesis import strategies as st

from pretrain.tasks.knowledge_masking import SPEC
from pretrain.tasks.spec import BASIC, CASED, ENTITY, PHRASE, UNIT_START, WORD_START, Settings, Tokens, assemble

SETTINGS = Settings()
UNITS = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, BASIC, PHRASE, ENTITY])), max_size=40)


def sequence(units: list[tuple[int, int]]) -> Tokens:
    """[CLS] units [SEP], from (length, level); token ids are far from special and replacement ids."""
    annotations = [flags for length, level in units for flags in [level | UNIT_START] + [level] * (length - 1)]
    ids = np.arange(10_000, 10_000 + len(annotations))
    return assemble([Tokens(ids, np.array(annotations, np.uint8))], VOCABULARY)[0]


def units_of(tokens: Tokens) -> list[list[int]]:
    """The places of every maskable unit."""
    found: list[list[int]] = []
    for place, flags in enumerate(tokens.annotations.tolist()):
        if flags & UNIT_START:
            found.append([])
        if flags & ENTITY:
            found[-1].append(place)
    return [unit for unit in found if unit]


def draw(tokens: Tokens, seed: int = 0, settings: Settings = SETTINGS):
    return SPEC.target(tokens, np.random.default_rng(seed), VOCABULARY, settings)


@given(UNITS, st.integers(0, 1_000), st.sampled_from([0.05, 0.15, 0.5]))
def test_units_are_masked_whole_and_the_budget_is_met_within_one_unit(units, seed, share):
    tokens = sequence(units)
    targets = draw(tokens, seed, Settings(mask_share=share))
    masked = set(targets.positions.tolist())
    whole = units_of(tokens)
    assert all(masked.isdisjoint(unit) or masked.issuperset(unit) for unit in whole)
    maskable = sum(map(len, whole))
    taken = sum(masked.issuperset(unit) for unit in whole)
    # never further from the budget than half a unit, but for the one unit that is always masked
    assert abs(len(masked) - round(share * maskable)) <= max(map(len, whole), default=0) / (2 if taken > 1 else 1)
    assert (len(masked) > 0) == (maskable > 0)


@given(UNITS, st.integers(0, 1_000))
def test_labels_are_the_original_tokens_and_other_tokens_stay(units, seed):
    tokens = sequence(units)
    before = tokens.ids.copy()
    targets = draw(tokens, seed)
    assert (tokens.ids == before).all()
    assert (targets.labels == before[targets.positions]).all()
    others = np.setdiff1d(np.arange(len(before)), targets.positions)
    assert (targets.ids[others] == before[others]).all()


@given(UNITS, st.integers(0, 1_000))
def test_special_tokens_and_level_0_are_never_masked(units, seed):
    tokens = sequence(units)
    assert (tokens.annotations[draw(tokens, seed).positions] & ENTITY).all()


def test_a_unit_shares_one_fate_and_fates_are_80_10_10():
    tokens = sequence([(3, PHRASE)] * 40)
    counts = dict.fromkeys(("masked", "random", "kept"), 0)
    for seed in range(400):
        targets = draw(tokens, seed)
        shown = targets.ids[targets.positions].reshape(-1, 3)
        masked = shown == VOCABULARY.mask
        kept = shown == targets.labels.reshape(-1, 3)
        random = np.isin(shown, VOCABULARY.ordinary)
        assert (masked.all(1) | kept.all(1) | random.all(1)).all()
        for name, fate in (("masked", masked), ("random", random), ("kept", kept)):
            counts[name] += int(fate.all(1).sum())
    total = sum(counts.values())
    shares = {name: count / total for name, count in counts.items()}
    assert shares == pytest.approx({"masked": 0.8, "random": 0.1, "kept": 0.1}, abs=0.02)


def test_a_unit_does_not_reach_across_a_separator():
    """A segment that was cut inside a unit does not continue the last unit of the segment before."""
    pieces = [
        Tokens(np.array([5, 6]), np.array(flags, np.uint8)) for flags in ([BASIC | UNIT_START, BASIC], [BASIC, BASIC])
    ]
    tokens, _ = assemble(pieces, VOCABULARY)
    assert {tuple(draw(tokens, seed).positions.tolist()) for seed in range(20)} == {(1, 2), (4, 5)}


def test_nothing_to_mask_gives_empty_targets():
    targets = draw(sequence([(2, 0)]))
    assert len(targets.positions) == len(targets.labels) == 0
    assert len(draw(sequence([])).positions) == 0


def test_every_epoch_draws_anew_and_every_unit_is_met():
    tokens = sequence([(1, BASIC), (2, PHRASE), (3, ENTITY)] * 10)
    drawn = [tuple(draw(tokens, seed).positions.tolist()) for seed in range(200)]
    assert len(set(drawn)) > 100
    assert set().union(*drawn) == set(range(1, 61))
    assert drawn[7] == tuple(draw(tokens, 7).positions.tolist())


def test_every_segment_of_every_document_is_an_instance():
    pool = make_pool(*plain_documents(3, 5))
    assert [instance.segments for instance in SPEC.build(pool)] == [document.segments for document in pool.documents]


LEVELS = {
    "basic": (1.0, 0.0, 0.0),
    "phrase": (0.0, 1.0, 0.0),
    "entity": (0.0, 0.0, 1.0),
    "shares": (0.5, 0.3, 0.2),
    "no basic": (0.0, 0.5, 0.5),
}


def text(units: list[tuple[int, int]], words: int = 2) -> Tokens:
    """As `sequence`; a word has `words` tokens."""
    tokens = sequence(units)
    places = np.array([place for unit in units_of(tokens) for place in unit[::words]], np.int64)
    tokens.annotations[places] |= WORD_START
    return tokens


LONG = [(2, BASIC), (4, PHRASE), (2, BASIC), (6, ENTITY), (2, BASIC), (1, 0)] * 200


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_levels_share_the_budget(name, language):
    settings = Settings(language, mask_share=0.15, levels=LEVELS[name])
    tokens = text(LONG)
    masked = set(draw(tokens, 1, settings).positions.tolist())
    assert len(masked) == pytest.approx(0.15 * 16 * 200, abs=3)
    whole = {level: 0 for level in (BASIC, PHRASE, ENTITY)}
    for unit in units_of(tokens):
        level = int(tokens.annotations[unit[0]]) & ENTITY
        if level != BASIC and masked.issuperset(unit):
            whole[level] += len(unit)
    for level, share in zip((PHRASE, ENTITY), LEVELS[name][1:], strict=True):
        assert whole[level] == pytest.approx(share * len(masked), abs=0.03 * len(masked) + 8)


@given(UNITS, st.integers(0, 1_000), st.sampled_from(sorted(LEVELS)))
def test_the_budget_is_met_whatever_the_levels(units, seed, name):
    tokens = text(units, 1)
    masked = draw(tokens, seed, Settings(levels=LEVELS[name])).positions
    maskable = sum(map(len, units_of(tokens)))
    assert len(set(masked.tolist())) == len(masked)
    assert (len(masked) > 0) == (maskable > 0)
    # a basic unit has one token here, but the last phrase or entity may bring the total half its length beyond
    assert abs(len(masked) - max(1, round(0.15 * maskable))) <= 3 or maskable == 0


def test_basic_units_are_words_in_english_and_characters_in_chinese():
    tokens = text([(4, PHRASE), (6, ENTITY)] * 100)
    settings = Settings(levels=LEVELS["basic"])
    masked = set(draw(tokens, 0, settings).positions.tolist())
    words = [unit[i : i + 2] for unit in units_of(tokens) for i in range(0, len(unit), 2)]
    assert all(masked.isdisjoint(word) or masked.issuperset(word) for word in words)
    assert sum(masked.issuperset(unit) for unit in units_of(tokens) if len(unit) > 4) < 5  # three words by chance
    masked = set(draw(tokens, 0, Settings("zh", levels=LEVELS["basic"])).positions.tolist())
    assert any(len(masked.intersection(word)) == 1 for word in words)


def test_a_latin_word_in_a_chinese_name_is_not_cut():
    flags = [ENTITY | CASED | WORD_START | UNIT_START, ENTITY | CASED, ENTITY | WORD_START, ENTITY]
    tokens = Tokens(np.arange(10_000, 10_004), np.array(flags, np.uint8))
    settings = Settings("zh", mask_share=0.3, levels=LEVELS["basic"])
    assert {tuple(draw(tokens, seed, settings).positions.tolist()) for seed in range(50)} == {(0, 1), (2,), (3,)}


@pytest.mark.parametrize("count", [3, 8, 40])
def test_shares_are_met_on_average_however_short_the_sequence(count):
    tokens = sequence([(1, BASIC), (1, BASIC), (2, PHRASE), (1, ENTITY)] * count)
    tokens.annotations[tokens.annotations & ENTITY > 0] |= WORD_START
    found = np.concatenate([
        tokens.annotations[draw(tokens, seed, Settings(levels=(0.3, 0.0, 0.7))).positions] & ENTITY
        for seed in range(600)
    ])  # fmt: skip
    # single words are drawn from everywhere: a fifth of the tokens is in entities
    assert (found == ENTITY).mean() == pytest.approx(0.7 + 0.3 / 5, abs=0.06)


def test_phrases_that_do_not_reach_leave_the_rest_to_words():
    tokens = text([(2, PHRASE), *[(2, BASIC)] * 99])
    masked = set(draw(tokens, 0, Settings(levels=LEVELS["phrase"])).positions.tolist())
    assert masked.issuperset(units_of(tokens)[0]) and len(masked) == 30
