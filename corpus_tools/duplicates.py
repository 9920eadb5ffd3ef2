"""Documents that are there twice: by id always, by text where `corpus.deduplicate` asks for it (datatrove's steps).

`exact` compares texts as they are. `minhash` finds texts that share most of their runs of five words (at a similarity
of 0.8, nine pairs in ten), and keeps one of each cluster. Train and validation are compared together: a near copy on
the other side of the split would be a leak.
"""

from datatrove.data import Document as Text
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer

from corpus_tools.segmentation import words
from corpus_tools.steps import Excluded, ReadChunk, Work


class Words(WordTokenizer):
    """The words whose runs are compared."""

    def word_tokenize(self, text: str) -> list[str]:
        return [word for word in words(text) if word.strip()] if self.language == "zh" else text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def content_of(text: Text) -> str:
    return text.text


HASH = HashConfig(hash_fc="sha1")  # datatrove's xxhash works with releases before 4 only
EXACT = ExactDedupConfig(content_of, hash_config=HASH)
MINHASH = MinhashConfig(hash_config=HASH)


def comparing(work: Work) -> list[tuple[str, list[PipelineStep], int | None]]:
    """Name, steps and number of tasks of every stage that finds duplicates; None: one task per chunk."""
    reader, place = ReadChunk(work), work.folder.absolute()
    if work.config.deduplicate == "exact":
        return [
            ("hash", [reader, ExactDedupSignature(f"{place / 'hashes'}", EXACT)], None),
            ("match", [ExactFindDedups(f"{place / 'hashes'}", f"{place / 'matches'}", EXACT)], 1),
        ]
    if work.config.deduplicate == "minhash":
        signature = MinhashDedupSignature(f"{place / 'hashes'}", MINHASH, Words(work.config.language))
        return [
            ("hash", [reader, signature], None),
            ("match", [MinhashDedupBuckets(f"{place / 'hashes'}", f"{place / 'matches'}", config=MINHASH)], 14),
            ("cluster", [MinhashDedupCluster(f"{place / 'matches'}", f"{place / 'clusters'}", MINHASH)], 1),
        ]
    return []


def dropping(work: Work, reader: ReadChunk) -> list[PipelineStep]:
    """The step that leaves the duplicates out, between a chunk and its shard."""
    place = work.folder.absolute()
    if work.config.deduplicate == "exact":
        return [ExactDedupFilter(f"{place / 'matches'}", EXACT, Excluded(reader, "duplicate text"))]
    if work.config.deduplicate == "minhash":
        return [MinhashDedupFilter(f"{place / 'clusters'}", Excluded(reader, "nearly duplicate text"))]
    return []
