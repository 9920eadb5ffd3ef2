"""Discourse relation: which marker joined two texts (ERNIE 2.0 §4.2.3, after Sileo et al. 2019, "Discovery")?

In the original the second text begins with an explicit marker ("However, …"). The marker is removed together with its
comma, and with the half that announces it (虽然…但是), and the capital is repaired; the marker is the label. Pairs
joined by no marker are a class of their own. English markers join sentences; Chinese ones mostly join the clauses of
one sentence, so there both are paired. Pairs stay inside a paragraph. Of Chinese pairs (如果…就) both halves must be
there; where one stands without the other, the texts are of no class.

Of every class a pool keeps `marker_cap` pairs, drawn at random: "but" would be most of the data. Pairs without a marker
are kept only as often as the most frequent marker, else they would be most of a small pool.

Pairs that somebody else has marked or labelled (`corpus_tools.relations`) bring classes of their own; then nothing is
looked for in documents, and nothing is capped.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from pretrain.tasks.markers_en import ENGLISH
from pretrain.tasks.markers_zh import CHINESE
from pretrain.tasks.metrics import accuracy_beside_majority
from pretrain.tasks.spec import AnnotatedDocument, Family, Head, Instance, Pool, Settings, TaskSpec

NAME = "discourse_relation"
NO_MARKER = 0
LEXICONS = {"en": ENGLISH, "zh": CHINESE}
LEAST = {"en": 3, "zh": 4}
"""Words (Chinese: characters) that each side must have."""
BRACKETS = ("()", "（）", "[]", "“”", "「」", "『』", "《》")
QUOTED = re.compile('["' + re.escape("".join(BRACKETS)) + "]")


def build(pool: Pool) -> Iterator[Instance]:
    candidates = []
    for document in pool.documents:
        rng = pool.rng(NAME, document.id)
        candidates += [(rng.random(), instance) for instance in find_pairs(document, pool.settings)]
    found = Counter(instance.label for _, instance in candidates)
    cap = pool.settings.marker_cap
    caps = {NO_MARKER: min(cap, max((count for label, count in found.items() if label != NO_MARKER), default=0))}
    kept: Counter[int] = Counter()
    for _, instance in sorted(candidates):
        if kept[instance.label] < caps.get(instance.label, cap):
            kept[instance.label] += 1
            yield instance


def find_pairs(document: AnnotatedDocument, settings: Settings) -> Iterator[Instance]:
    language = settings.language
    lexicon, least = LEXICONS[language], LEAST[language]
    for before, after in neighbouring_texts(document, settings, settings.room(2)):
        if is_whole(before) and is_whole(after):  # and without the marker, which has no bracket, too
            joined = lexicon.read(before, after)
            if joined and length(joined.before, language) >= least and length(joined.after, language) >= least:
                yield Instance((joined.before, joined.after), joined.number)


def neighbouring_texts(document: AnnotatedDocument, settings: Settings, room: int) -> Iterator[tuple[str, str]]:
    """Adjacent sentences of a paragraph that fit; in Chinese also both sides of a comma inside a sentence.

    There the mark at the border is dropped: it would tell how the two were joined.
    """
    for one, two in pairwise(document.sentences):
        if one.paragraph == two.paragraph and one.run.length + two.run.length <= room:
            yield (one.text.rstrip("。") if settings.language == "zh" else one.text), two.text
    if settings.language == "zh":
        for sentence in document.sentences:
            if sentence.run.length <= room:
                for mark in re.finditer("[，；]", sentence.text):
                    yield sentence.text[: mark.start()], sentence.text[mark.end() :]


def is_whole(text: str) -> bool:
    """No bracket or quotation is cut."""
    if not QUOTED.search(text):
        return True
    return text.count('"') % 2 == 0 and all(text.count(pair[0]) == text.count(pair[1]) for pair in BRACKETS)


def length(text: str, language: str) -> int:
    return len(text) if language == "zh" else len(text.split())


def labels(settings: Settings) -> list[str]:
    if settings.relations:
        return list(settings.relations)
    return ["no marker", *LEXICONS[settings.language].texts]


SPEC = TaskSpec(
    name=NAME,
    family=Family.SEMANTIC,
    head=Head.SEQUENCE,
    summary="the marker that joined two texts and was removed",
    build=build,
    labels=labels,
    metric_name="accuracy",
    metric=accuracy_beside_majority,
    needs="adjacent sentences joined by explicit markers, such as However or 因此",
)
