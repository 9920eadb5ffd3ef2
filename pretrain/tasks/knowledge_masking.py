"""Knowledge masking: predict words, phrases and entities that are masked whole (ERNIE 1.0 §3.2, ERNIE 2.0 §4.2.1).

One budget covers the units of all levels: units are taken in random order until `mask_share` of the maskable tokens is
reached, within one unit. Drawing each unit with p = mask_share would meet the share only on average, and drawing
phrases and entities on top of words would exceed it.

80 % of the units are shown as [MASK], 10 % as random tokens, 10 % as they are. This is decided per unit, as in
PMI-Masking: the visible half of a unit would tell its masked half, which is what masking it whole is to prevent.
"""

from collections.abc import Iterator

import numpy as np

from pretrain.tasks.metrics import accuracy_beside_majority
from pretrain.tasks.runs import every_segment
from pretrain.tasks.spec import (
    LEVEL,
    UNIT_START,
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

NOT_TAKEN, MASKED, RANDOM, KEPT = range(4)
FATES = np.array([MASKED] * 8 + [RANDOM, KEPT])


def build(pool: Pool) -> Iterator[Instance]:
    yield from every_segment(pool.documents)


def target(tokens: Tokens, rng: np.random.Generator, vocabulary: Vocabulary, settings: Settings) -> Targets:
    maskable = np.flatnonzero(tokens.annotations & LEVEL)
    starts = (tokens.annotations[maskable] & UNIT_START) > 0
    starts[:1] = True
    starts[1:] |= np.diff(maskable) > 1  # no unit reaches across a token that is never masked, such as [SEP]
    unit_of = np.cumsum(starts) - 1
    lengths = np.bincount(unit_of)

    shown_as = np.full(len(lengths), NOT_TAKEN)
    taken = take(rng.permutation(len(lengths)).tolist(), lengths.tolist(), settings.mask_share)
    shown_as[taken] = FATES[rng.integers(len(FATES), size=len(taken))]

    fate = shown_as[unit_of]
    positions, fate = maskable[fate != NOT_TAKEN], fate[fate != NOT_TAKEN]
    ids = tokens.ids.copy()
    ids[positions[fate == MASKED]] = vocabulary.mask
    random = positions[fate == RANDOM]
    ids[random] = vocabulary.ordinary[rng.integers(len(vocabulary.ordinary), size=len(random))]
    return Targets(ids, positions, tokens.ids[positions])


def take(units: list[int], lengths: list[int], share: float) -> list[int]:
    """Each unit in turn that brings the total closer to the budget; where all are too long, the shortest alone."""
    left = max(1, round(share * sum(lengths)))
    taken = []
    for unit in units:
        if lengths[unit] <= 2 * left:
            taken.append(unit)
            left -= lengths[unit]
            if left <= 0:
                break
    return taken or sorted(units, key=lengths.__getitem__)[:1]


SPEC = TaskSpec(
    name="knowledge_masking",
    family=Family.WORD,
    head=Head.MASKED_LM,
    summary="the tokens of words, phrases and entities that are masked whole",
    build=build,
    target=target,
    metric_name="accuracy",
    metric=accuracy_beside_majority,
    needs="documents with words",
)
