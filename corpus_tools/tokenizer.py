"""The tokenizer of a corpus: a BERT WordPiece, trained on the corpus or adopted.

Special tokens are put in by `pretrain.tasks.spec.assemble`; everything here encodes with add_special_tokens=False, and
a text that spells out `[SEP]` is text. Training by `tokenizers` alone is not reproducible (ties are broken by the order
of a hash map): the pieces of one character are therefore chosen and ordered here, before the merges are learnt.
"""

import json
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from corpus_tools.checkpoint import read_files
from pretrain.tasks.spec import Vocabulary

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
COVERAGE = 0.9999
"""Share of the text's characters that get a piece of their own; rarer characters are [UNK]."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """One pass over the texts; memory grows with the distinct words only. The same texts give the same bytes."""
    bare = _bert({token: number for number, token in enumerate(SPECIAL)}, lowercase)
    words: Counter[str] = Counter()
    for text in texts:
        words.update(bare.normalizer.normalize_str(text).split())
    initial, continuing = _characters(words, bare.pre_tokenizer, vocab_size // 2)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *(f"##{character}" for character in continuing)],
        initial_alphabet=initial,
        limit_alphabet=len(initial),
        show_progress=False,
    )
    learner = _bert({}, lowercase)
    learner.train_from_iterator((f"{word} " * count for word, count in words.items()), trainer)
    return _bert(learner.get_vocab(), lowercase)


def _characters(words: Counter[str], splitter: pre_tokenizers.PreTokenizer, most: int) -> tuple[list[str], list[str]]:
    """The characters that start words and those that continue them, most frequent first, at most `most` together."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        for part, _ in splitter.pre_tokenize_str(word):
            inside.update(part[1:])
            for character in part:
                counts[character] += count
    enough = COVERAGE * counts.total()
    initial: list[str] = []
    continuing: list[str] = []
    covered = 0
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= enough or len(initial) + len(continuing) + 2 > most:
            break
        covered += count
        initial.append(character)
        if character in inside:
            continuing.append(character)
    return initial, continuing


def _bert(vocab: dict[str, int], lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if vocab:
        tokenizer.add_special_tokens(list(SPECIAL))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
        )
    return tokenizer


def load_tokenizer(source: str) -> Tokenizer:
    """A checkpoint directory, a tokenizer.json, `demo:minilm` or a hub name, as a tokenizer ready to encode corpora."""
    if Path(source).is_file():
        return _ready(Path(source).read_text(encoding="utf-8"), source)
    files = read_files(source, ["tokenizer.json", "vocab.txt", "tokenizer_config.json"], "corpus.tokenizer")
    if "tokenizer.json" in files:
        return _ready(files["tokenizer.json"].decode(), f"{source}/tokenizer.json")
    if "vocab.txt" not in files:
        raise ValueError(f"tokenizer {source} has neither tokenizer.json nor vocab.txt. Only WordPiece can be used.")
    stated = json.loads(files.get("tokenizer_config.json", b"{}"))
    lines = files["vocab.txt"].decode().split("\n")
    vocab = {token: number for number, token in enumerate(map(str.strip, lines)) if token}
    _refuse_missing(vocab, f"{source}/vocab.txt")
    return _ready(_bert(vocab, stated.get("do_lower_case", True)).to_str(), f"{source}/vocab.txt")


def _ready(text: str, where: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"{where} is not a tokenizer.json: {error}") from None
    if not isinstance(tokenizer.model, models.WordPiece):
        kind = type(tokenizer.model).__name__
        raise ValueError(f"{where} holds a {kind} tokenizer. Only WordPiece (BERT, ERNIE) can be used: choose another.")
    _refuse_missing(tokenizer.get_vocab(), where)
    _refuse_other_splitting(tokenizer, where)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _refuse_other_splitting(tokenizer: Tokenizer, where: str) -> None:
    """`corpus_tools.fragments` cuts texts where BERT cuts them."""
    cleaning = tokenizer.normalizer
    cleans = isinstance(cleaning, normalizers.BertNormalizer) and cleaning.clean_text and cleaning.handle_chinese_chars
    if not cleans or not isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer):
        raise ValueError(
            f"{where} does not split text as BERT does (BertNormalizer with clean_text and handle_chinese_chars, "
            "BertPreTokenizer): choose another tokenizer."
        )
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values() if not token.special]
    if added:
        raise ValueError(
            f"{where} has added tokens that are not special: {', '.join(added)}. Choose another tokenizer."
        )


def _refuse_missing(vocab: dict[str, int], where: str) -> None:
    missing = [token for token in SPECIAL if token not in vocab]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}. A BERT vocabulary has all of {' '.join(SPECIAL)}.")


def fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 of all that decides ids; truncation and padding, which others switch on and off, do not count."""
    tree = json.loads(tokenizer.to_str())
    del tree["truncation"], tree["padding"]
    return sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def is_uncased(tokenizer: Tokenizer) -> bool:
    return tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str("Aa") == "aa"


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    vocab = tokenizer.get_vocab()
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ordinary = [n for token, n in vocab.items() if n not in special and not _bracketed(token)]
    cls, sep, mask, pad = (vocab[token] for token in ("[CLS]", "[SEP]", "[MASK]", "[PAD]"))
    return Vocabulary(cls, sep, mask, pad, np.array(sorted(ordinary), np.int64))


def _bracketed(token: str) -> bool:
    """`[unused7]`, `[MASK]`, and the `<S>` of Chinese vocabularies: no text."""
    return len(token) > 2 and token[0] + token[-1] in ("[]", "<>")
