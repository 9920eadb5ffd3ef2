"""IR relevance: does a passage answer a query strongly, weakly or not at all (ERNIE 2.0 §4.2.3)?

The paper's labels come from the clicks of a search engine, which nobody outside has. A user's own click log gives such
labels (`corpus_tools.clicks`), and so does a graded set (`corpus_tools.grades`). What is built here are pseudo-labels,
made of the corpus itself: the query is a title, with the heading of a section where there is one, and the passage comes

    0 strong    from that section of the document
    1 weak      from a document whose text matches the title too (BM25)
    2 random    from a document that does not

0 is the best, the reverse of usual relevance scores. Every query gives one instance of each class, and its three
passages stand at the same place of their documents, as far as these reach: else a lead paragraph would be known as the
strong one. They come in random order, so that reading every third instance does not meet one class alone.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from pretrain.tasks.metrics import accuracy_beside_majority
from pretrain.tasks.runs import join
from pretrain.tasks.spec import AnnotatedDocument, Family, Head, Instance, Pool, Run, Settings, TaskSpec

NAME = "ir_relevance"
STRONG, WEAK, RANDOM = range(3)
QUERY_TOKENS = 32
"""Room that passages leave for the query, or a quarter of the sequence where that is less."""
LEAST_TOKENS = 8
"""Shorter passages say too little."""
PIECES_OF_A_WORD = 2
"""Tokens allowed for an English word of a query; a Chinese character is one token."""


class Passage(NamedTuple):
    run: Run
    heading: str | None


def build(pool: Pool) -> Iterator[Instance]:
    room = pool.settings.room(2)
    query_room = min(QUERY_TOKENS, room // 4)
    passages = [list(find_passages(document, room - query_room)) for document in pool.documents]
    usable = [index for index, found in enumerate(passages) if found]
    usable.sort(key=lambda index: pool.documents[index].id)
    for index, document in enumerate(pool.documents):
        related = {index, *document.neighbours}
        weak = [other for other in document.neighbours if passages[other]]
        if document.title is None or not weak or related.issuperset(usable):
            continue
        rng = pool.rng(NAME, document.id)
        for place, (_, heading) in enumerate(passages[index]):
            stranger = rng.choice(usable)
            while stranger in related:
                stranger = rng.choice(usable)
            query = phrase(document.title, heading, query_room, pool.settings)
            sources = {STRONG: index, WEAK: rng.choice(weak), RANDOM: stranger}
            for label in rng.sample(list(sources), 3):
                found = passages[sources[label]]
                yield Instance((query, found[min(place, len(found) - 1)].run), label)


def find_passages(document: AnnotatedDocument, room: int) -> Iterator[Passage]:
    """The beginning of every paragraph, as many sentences as fit. A line that is only title or heading is no text."""
    for paragraph, sentences in groupby(document.sentences, key=lambda sentence: sentence.paragraph):
        heading = document.headings[paragraph]
        names = {name.casefold() for name in (document.title, heading) if name}
        text = list(sentences)
        while text and text[0].text.strip(" .。").casefold() in names:
            del text[0]
        fitting = [sentence for sentence in text if sentence.run.stop - text[0].run.start <= room]
        if fitting and join(fitting).length >= LEAST_TOKENS:
            yield Passage(join(fitting), heading)


def phrase(title: str, heading: str | None, room: int, settings: Settings) -> str:
    """`Title: Heading`, cut to the words (Chinese: characters) that should fit the room."""
    query = f"{title}: {heading}" if heading else title
    if settings.language == "zh":
        return query[:room]
    return " ".join(query.split()[: max(1, room // PIECES_OF_A_WORD)])


SPEC = TaskSpec(
    name=NAME,
    family=Family.SEMANTIC,
    head=Head.SEQUENCE,
    summary="whether a passage belongs to a title, to a related one or to another (pseudo-labels)",
    build=build,
    labels=lambda settings: ("strong", "weak", "random"),
    metric_name="accuracy",
    metric=accuracy_beside_majority,
    needs="documents with a title, some of which share words with the text of others",
)
