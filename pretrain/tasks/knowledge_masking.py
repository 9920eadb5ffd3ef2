"""Knowledge masking: predict words, phrases and entities that are masked whole (ERNIE 1.0 §3.2, ERNIE 2.0 §4.2.1).

One budget covers the units of all levels: units are taken in random order until `mask_share` of the maskable tokens is
reached, within one unit. Drawing each unit with p = mask_share would meet the share only on average, and drawing
phrases and entities on top of words would exceed it.

`levels` divides the budget: entities, then phrases, are masked whole up to their shares, and the rest is basic units:
words in English, characters in Chinese, wherever they stand, as in ERNIE 1.0. Its three phases are the shares PHASES,
one after another.

80 % of the units are shown as [MASK], 10 % as random tokens, 10 % as they are. This is decided per unit, as in
PMI-Masking: the visible half of a unit would tell its masked half, which is what masking it whole is to prevent.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pretrain.tasks.metrics import accuracy_beside_majority
from pretrain.tasks.runs import every_segment
from pretrain.tasks.spec import (
    BASIC,
    CASED,
    ENTITY,
    LEVEL,
    PHRASE,
    UNIT_START,
    WORD_START,
    Family,
    Head,
    Instance,
    Pool,
    Settings,
    Targets,
    TaskSpec,
    Tokens,
    Vocabulary,
)

NAME = "knowledge_masking"
NOT_TAKEN, MASKED, RANDOM, KEPT = range(4)
PHASES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""Of ERNIE 1.0: shares of basic units, phrases and entities."""
FATES = np.array([MASKED] * 8 + [RANDOM, KEPT])


def build(pool: Pool) -> Iterator[Instance]:
    yield from every_segment(pool.documents)


def target(tokens: Tokens, rng: np.random.Generator, vocabulary: Vocabulary, settings: Settings) -> Targets:
    maskable = np.flatnonzero(tokens.annotations & LEVEL)
    flags = tokens.annotations[maskable]
    starts = (flags & UNIT_START) > 0
    starts[:1] = True
    starts[1:] |= np.diff(maskable) > 1  # no unit reaches across a token that is never masked, such as [SEP]
    budget = max(1, round(settings.mask_share * len(maskable)))
    if settings.levels is None:
        lengths = np.bincount(np.cumsum(starts) - 1)
        order = rng.permutation(len(lengths)).tolist()
        taken = take(order, lengths.tolist(), budget)
    else:
        starts, order, taken = take_levels(starts, flags, budget, rng, settings)
        lengths = np.bincount(np.cumsum(starts) - 1)
    taken = taken or sorted(order, key=lengths.__getitem__)[:1]  # where all are too long, the shortest alone

    shown_as = np.full(len(lengths), NOT_TAKEN)
    shown_as[taken] = FATES[rng.integers(len(FATES), size=len(taken))]
    fate = np.repeat(shown_as, lengths)
    positions, fate = maskable[fate != NOT_TAKEN], fate[fate != NOT_TAKEN]
    ids = tokens.ids.copy()
    ids[positions[fate == MASKED]] = vocabulary.mask
    random = positions[fate == RANDOM]
    ids[random] = vocabulary.ordinary[rng.integers(len(vocabulary.ordinary), size=len(random))]
    return Targets(ids, positions, tokens.ids[positions])


def take(units: Sequence[int], lengths: Sequence[int], left: int) -> list[int]:
    """Each unit in turn that brings the total closer to the budget."""
    taken = []
    for unit in units:
        if left <= 0:
            break
        if lengths[unit] <= 2 * left:
            taken.append(unit)
            left -= lengths[unit]
    return taken


def take_levels(
    starts: np.ndarray, flags: np.ndarray, budget: int, rng: np.random.Generator, settings: Settings
) -> tuple[np.ndarray, list[int], list[int]]:
    """Where units start when those not taken whole fall into basic ones; the basic ones in random order; the taken."""
    assert settings.levels is not None
    _, phrases, entities = settings.levels
    lengths, level = np.bincount(np.cumsum(starts) - 1), flags[starts] & LEVEL
    known, whole, left = lengths.tolist(), np.zeros(len(lengths), bool), budget
    for wanted, share in ((ENTITY, entities), (PHRASE, phrases)):
        # rounded at random, so that a short sequence has the shares on average; never more than is left of all
        part = min(int(share * budget + rng.random()), left)
        if part > 0:
            units = take(rng.permutation(np.flatnonzero(level == wanted)).tolist(), known, part)
            whole[units] = True
            left -= sum(known[unit] for unit in units)
    if left <= 0:
        return starts, [], np.flatnonzero(whole).tolist()
    inside = np.repeat(whole, lengths)
    if settings.language == "zh":  # latin words are not cut: they are basic, or have case
        basic = (flags & LEVEL != BASIC) & (flags & (WORD_START | CASED) != CASED)
    else:
        basic = (flags & WORD_START) > 0
    starts = starts | (basic & ~inside)
    whole = inside[starts]
    others = rng.permutation(np.flatnonzero(~whole)).tolist()
    taken = take(others, np.bincount(np.cumsum(starts) - 1).tolist(), left)
    return starts, others, np.flatnonzero(whole).tolist() + taken


SPEC = TaskSpec(
    name=NAME,
    family=Family.WORD,
    head=Head.MASKED_LM,
    summary="the tokens of words, phrases and entities that are masked whole",
    build=build,
    target=target,
    metric_name="accuracy",
    metric=accuracy_beside_majority,
    needs="documents with words",
)
