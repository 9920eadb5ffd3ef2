"""Knowledge masking on text as people write it: whatever the levels, the share stays."""

import numpy as np
import pytest

from corpus_tools.build import build_corpus
from corpus_tools.config import CorpusConfig
from corpus_tools.shards import Instances
from corpus_tools.tokenizer import load_tokenizer, vocabulary
from pretrain.tasks.knowledge_masking import PHASES, SPEC
from pretrain.tasks.spec import ENTITY, LEVEL, Settings, Tokens, Vocabulary, assemble

MODES = [None, *PHASES, (0.5, 0.3, 0.2), (0.0, 0.5, 0.5)]
Drawn = tuple[str, Vocabulary, list[Tokens]]


@pytest.fixture(scope="module", params=["en", "zh"])
def demo(request, tmp_path_factory) -> Drawn:
    """Language, vocabulary and sequences of a demo corpus."""
    language = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp(language))
        config = CorpusConfig(name="demo", sources=[f"demo:{language}"], language=language, vocab_size=4000)
        build_corpus(config, [SPEC.name], workers=1)
        words = vocabulary(load_tokenizer(f"{config.folder() / 'tokenizer.json'}"))
        instances = Instances(config.folder(), "train", SPEC.name)
        return language, words, [assemble(instances[i][0], words)[0] for i in range(min(800, len(instances)))]


def masked(demo: Drawn, levels: tuple[float, float, float] | None, share: float = 0.15) -> np.ndarray:
    """Levels of all tokens that one epoch predicts."""
    language, words, sequences = demo
    settings = Settings(language=language, mask_share=share, levels=levels)
    draws = (SPEC.target(tokens, np.random.default_rng(n), words, settings) for n, tokens in enumerate(sequences))
    return np.concatenate([s.annotations[d.positions] & LEVEL for s, d in zip(sequences, draws, strict=True)])


@pytest.mark.parametrize("share", [0.15, 0.3])
@pytest.mark.parametrize("levels", MODES)
def test_the_share_is_met_in_every_mode(demo, levels, share):
    maskable = sum(np.count_nonzero(tokens.annotations & LEVEL) for tokens in demo[2])
    assert len(masked(demo, levels, share)) / maskable == pytest.approx(share, rel=0.05)


def test_the_first_phase_masks_as_text_comes_and_the_last_prefers_entities(demo):
    there = np.concatenate([tokens.annotations & LEVEL for tokens in demo[2]])
    have = np.mean(there[there > 0] == ENTITY)
    assert np.mean(masked(demo, PHASES[0]) == ENTITY) == pytest.approx(have, abs=0.02)
    assert np.mean(masked(demo, PHASES[2]) == ENTITY) > 3 * have
