"""What the model promises: BERT's hidden states, no leak between packed instances, task rows that start neutral."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, BertModel, ErnieConfig

from pretrain.config import ModelConfig
from pretrain.data.batch import Example, Target, pack
from pretrain.model.model import Model, ernie_config, load_prior
from pretrain.model.prior import read_prior

SHAPE = dict(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=64,
)  # fmt: skip


def bert_checkpoint(folder, model_class=BertForPreTraining):
    torch.manual_seed(0)
    bert = model_class(BertConfig(**SHAPE)).eval()
    bert.save_pretrained(folder)
    return bert


def adopt(folder, labels=None):
    prior = read_prior(str(folder))
    shape = ernie_config(ModelConfig(dropout=0, attention_dropout=0), prior, 0, 0, 4)
    model = Model(shape, labels or {"knowledge_masking": None}, seed=0).eval()
    return model, load_prior(model, prior)


def example(length, seed=0, targets=()):
    rng = np.random.default_rng(seed)
    where = {task: Target(np.array([1, 2]), np.array([3, 4])) for task in targets}
    return Example(rng.integers(5, 100, length), rng.integers(0, 2, length), where)


def run(model, batch):
    """Hidden states per example, in the order of the examples."""
    with torch.no_grad():
        alone = batch.owner[:, None, :, None] == batch.owner[:, None, None, :]
        hidden = model.encoder(
            input_ids=batch.ids, attention_mask=alone, token_type_ids=batch.types, position_ids=batch.positions
        ).last_hidden_state
    return [hidden[batch.owner == number] for number in range(int(batch.owner.max()) + 1)]


@pytest.mark.parametrize("model_class", [BertModel, BertForPreTraining])
def test_loaded_bert_weights_give_berts_hidden_states(tmp_path, model_class):
    bert = bert_checkpoint(tmp_path, model_class)
    model, _ = adopt(tmp_path)
    ids, types = torch.randint(5, 100, (3, 20)), torch.randint(0, 2, (3, 20))
    with torch.no_grad():
        theirs = getattr(bert, "bert", bert)(ids, token_type_ids=types)
        ours = model.encoder(ids, token_type_ids=types, task_type_ids=torch.zeros_like(ids))
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.pooler_output, theirs.pooler_output, atol=1e-6, rtol=0)


def test_the_masked_lm_head_of_the_prior_is_kept(tmp_path):
    bert = bert_checkpoint(tmp_path)
    model, (new, unused) = adopt(tmp_path)
    ids = torch.randint(5, 100, (3, 20))
    with torch.no_grad():
        theirs = bert(ids).prediction_logits
        ours = model.read("knowledge_masking", model.encoder(ids).last_hidden_state)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert new == ["encoder.embeddings.task_type_embeddings.rows.knowledge_masking"]
    assert unused == []


def test_heads_that_the_prior_lacks_are_listed_as_new(tmp_path):
    bert_checkpoint(tmp_path, BertModel)
    _, (new, _) = adopt(tmp_path, {"knowledge_masking": None, "sentence_distance": ["a", "b", "c"]})
    assert "heads.sentence_distance.weight" in new and "heads.knowledge_masking.dense.weight" in new


def test_packing_computes_every_instance_as_if_alone(tmp_path):
    bert_checkpoint(tmp_path)
    model, _ = adopt(tmp_path)
    examples = [example(length, length) for length in (9, 30, 17, 40, 5, 22)]
    packed = run(model, pack("knowledge_masking", examples, 48))
    for number, lonely in enumerate(examples):
        (alone,) = run(model, pack("knowledge_masking", [lonely], 48))
        torch.testing.assert_close(packed[number], alone, atol=2e-6, rtol=0)


def test_changing_one_instance_leaves_the_others_untouched(tmp_path):
    bert_checkpoint(tmp_path)
    model, _ = adopt(tmp_path)
    before = [example(20, 1), example(20, 2), example(20, 3)]
    after = [before[0], example(20, 9), before[2]]
    first, second = (run(model, pack("knowledge_masking", examples, 64)) for examples in (before, after))
    assert torch.equal(first[0], second[0]) and torch.equal(first[2], second[2])
    assert not torch.equal(first[1], second[1])


def test_packing_keeps_every_token_and_target_and_wastes_little():
    examples = [example(int(length), n, ["knowledge_masking"]) for n, length in enumerate(np.linspace(5, 64, 50))]
    batch = pack("knowledge_masking", examples, 64)
    for number, one in enumerate(examples):
        mine = batch.owner == number
        assert batch.ids[mine].tolist() == one.ids.tolist()
        assert batch.positions[mine].tolist() == list(range(len(one.ids)))
    where, labels = batch.targets["knowledge_masking"]
    assert batch.ids.flatten()[where].tolist() == [int(i) for one in examples for i in one.ids[[1, 2]]]
    assert labels.tolist() == [3, 4] * len(examples)
    assert batch.num_tokens / batch.ids.numel() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").write_text(json.dumps({"model_type": "roberta"})), "roberta"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickle"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_refused_with_the_reason(tmp_path, change, message):
    bert_checkpoint(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_prior(str(tmp_path))


def test_a_checkpoint_whose_weights_have_another_size_is_refused(tmp_path):
    bert_checkpoint(tmp_path)
    save_file({"embeddings.LayerNorm.weight": torch.ones(8)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="LayerNorm"):
        adopt(tmp_path)


def test_a_checkpoint_that_holds_no_encoder_of_this_kind_is_refused(tmp_path):
    """Names under a foreign prefix match nothing: training would silently start from random weights."""
    bert_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({f"0.auto_model.{name}": tensor for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="parameters of the encoder are not in the checkpoint"):
        adopt(tmp_path)


def test_the_initial_head_of_a_task_does_not_depend_on_the_other_tasks():
    config = ErnieConfig(**SHAPE, use_task_id=True, task_type_vocab_size=7, type_vocab_size=4)
    few = Model(config, {"sentence_distance": list("abc")}, seed=0)
    many = Model(config, {"knowledge_masking": None, "sentence_distance": list("abc")}, seed=0)
    assert torch.equal(few.heads["sentence_distance"].weight, many.heads["sentence_distance"].weight)
    assert torch.equal(few.encoder.pooler.dense.weight, many.encoder.pooler.dense.weight)
