from hashlib import sha256

import numpy as np
import pytest

from corpus_tools.shards import Instances, aside, read_header, read_manifest, write_manifest, write_shard
from pretrain.tasks.spec import Instance, Run, Tokens


def store(length: int, largest: int = 999) -> Tokens:
    rng = np.random.default_rng(length)
    ids = rng.integers(largest, size=length)
    ids[-1:] = largest
    return Tokens(ids, rng.integers(256, size=length).astype(np.uint8))


def write(corpus, shards: list[tuple[Tokens, list[Instance]]]) -> Instances:
    files = [f"{number:05}.safetensors" for number in range(len(shards))]
    for file, (tokens, made) in zip(files, shards, strict=True):
        write_shard(corpus / "train" / file, tokens, {"task": made, "other": []}, {"digest": "ü"})
    entries = [
        {
            "file": file,
            "sha256": sha256((corpus / "train" / file).read_bytes()).hexdigest(),
            "instances": {"task": len(made), "other": 0},
        }
        for file, (_, made) in zip(files, shards, strict=True)
    ]
    write_manifest(corpus, {"shards": {"train": entries}})
    return Instances(corpus, "train", "task")


def check(found: Instances, shards: list[tuple[Tokens, list[Instance]]]) -> None:
    expected = [(tokens, instance) for tokens, made in shards for instance in made]
    assert len(found) == len(expected)
    for (segments, label), (tokens, instance) in zip(found, expected, strict=True):
        assert label == instance.label
        assert len(segments) == len(instance.segments)
        for segment, (start, stop) in zip(segments, instance.segments, strict=True):
            assert segment.ids.tolist() == tokens.ids[start:stop].tolist()
            assert segment.annotations.tolist() == tokens.annotations[start:stop].tolist()


ASCENDING = [Instance((Run(n, n + 9),), n % 3) for n in range(0, 900, 10)]
REPEATED = [Instance((Run(10 * (n % 7), 10 * (n % 7) + 5), Run(n, n + 3)), n % 300) for n in range(900)]
UNEVEN = [Instance(tuple(Run(10 * n + k, 10 * n + k + 1) for k in range(1 + n % 4)), 0) for n in range(90)]


@pytest.mark.parametrize("made", [ASCENDING, REPEATED, UNEVEN, REPEATED + UNEVEN, []], ids=range(5))
def test_instances_come_back_as_they_were_written(tmp_path, made):
    shards = [(store(1000), made), (store(1001), made[::-1])]
    check(write(tmp_path, shards), shards)


def test_runs_far_into_a_large_store_with_a_large_vocabulary(tmp_path):
    places = [0, 65_535, 65_536, 65_537, 131_072, 400_000, 499_000]  # page 3 is empty
    made = [Instance((Run(place, place + 300), Run(place, place + 1))) for place in places]
    shards = [(store(500_000, 70_000), made), (store(500_000, 70_000), made[::-1])]
    check(write(tmp_path, shards), shards)


def test_beyond_the_end_is_an_error(tmp_path):
    found = write(tmp_path, [(store(1000), ASCENDING)])
    for index in (len(ASCENDING), -1):
        with pytest.raises(IndexError):
            found[index]


def test_instances_are_views_of_the_mapped_file(tmp_path):
    segments, _ = write(tmp_path, [(store(1000), ASCENDING)])[0]
    assert not segments[0].ids.flags.writeable and not segments[0].ids.flags.owndata


def test_a_shard_written_anew_is_read_anew(tmp_path):
    for tokens in (store(1000), store(1001)):
        check(write(tmp_path, [(tokens, ASCENDING)]), [(tokens, ASCENDING)])


def test_same_content_same_bytes(tmp_path):
    path = tmp_path / "train" / "00000.safetensors"
    write(tmp_path, [(store(1000), REPEATED)])
    first = path.read_bytes()
    write(tmp_path, [(store(1000), REPEATED)])
    assert path.read_bytes() == first
    assert read_header(path)[1] == {"digest": "ü"}


def test_what_fails_while_it_is_written_does_not_exist(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(OSError, match=f"cannot write {path}: .*No space left"), aside(path) as part:
        part.write_text("half")
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)
    assert not path.exists()


def test_unfinished_and_foreign_corpora_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no finished corpus"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99, this version reads 2"):
        read_manifest(tmp_path)


def test_opening_a_corpus_opens_no_shard(tmp_path):
    found = write(tmp_path, [(store(1000), ASCENDING), (store(1000), REPEATED)])
    (tmp_path / "train" / "00000.safetensors").unlink()
    again = Instances(tmp_path, "train", "task")
    assert len(again) == len(found)
    assert again[len(ASCENDING)][1] == REPEATED[0].label


def test_a_shard_that_was_cut_short_is_named(tmp_path):
    found = write(tmp_path, [(store(50), [Instance((Run(0, 50),), 0)])])
    shard = tmp_path / "train" / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"train/00000\.safetensors is cut short.*build it again"):
        found[0]
