"""What the model promises: BERT's hidden states, no leak between instances of a batch, task rows that start neutral."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, BertModel, ErnieConfig

from pretrain.config import ModelConfig
from pretrain.data.batch import Example, Target, pack
from pretrain.model.attention import fitting
from pretrain.model.model import TASK_IDS, Model, ernie_config, load_prior
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
    model.encoder.set_attn_implementation("sdpa")
    return model, load_prior(model, prior)


def example(length, seed=0, targets=()):
    rng = np.random.default_rng(seed)
    where = {task: Target(np.array([1, 2]), np.array([3, 4])) for task in targets}
    return Example(rng.integers(5, 100, length), rng.integers(0, 2, length), where)


def read_at(one, positions):
    return one._replace(
        targets={"knowledge_masking": Target(np.array(positions, np.int64), np.zeros(len(positions), np.int64))}
    )


def run(model, examples, attention="one_by_one"):
    """Hidden states per example."""
    model.encoder.set_attn_implementation(attention)
    batch = pack("knowledge_masking", [read_at(one, range(len(one.ids))) for one in examples])
    with torch.no_grad():
        return model.encode(batch).split(batch.layout.lengths)


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


ON_CPU = ["one_by_one", "in_rows"]


@pytest.mark.parametrize("attention", ON_CPU)
def test_a_flat_batch_gives_what_the_padded_computation_gives(tmp_path, attention):
    bert_checkpoint(tmp_path)
    model, _ = adopt(tmp_path)
    examples = [example(length, length) for length in (9, 30, 17, 40, 5, 22)]
    rows = torch.zeros(2, len(examples), 40, dtype=torch.int64)
    for row, one in enumerate(examples):
        rows[0, row, : len(one.ids)], rows[1, row, : len(one.ids)] = map(torch.tensor, (one.ids, one.types))
    there = torch.tensor([[place < len(one.ids) for place in range(40)] for one in examples])
    task = torch.full_like(rows[0], TASK_IDS["knowledge_masking"])
    with torch.no_grad():
        padded = model.encoder(rows[0], there, rows[1], task).last_hidden_state
    for row, hidden in enumerate(run(model, examples, attention)):
        torch.testing.assert_close(hidden, padded[row, : len(hidden)], atol=2e-6, rtol=0)


@pytest.mark.parametrize("attention", ON_CPU)
def test_where_little_is_read_it_is_what_reading_all_gives(tmp_path, attention):
    bert_checkpoint(tmp_path)
    model, _ = adopt(tmp_path)
    model.encoder.set_attn_implementation(attention)
    where = {9: [3, 8], 30: [], 17: [0, 1, 16]}
    examples = [example(length, length) for length in where]
    batch = pack("knowledge_masking", [read_at(one, at) for one, at in zip(examples, where.values(), strict=True)])
    with torch.no_grad():
        few = model.encode(batch)
    assert batch.read_layout.lengths == [3, 1, 3], "the first of each, and the targets"
    every = run(model, examples, attention)
    wanted = torch.cat([hidden[at] for hidden, at in zip(every, where.values(), strict=True)])
    torch.testing.assert_close(few[batch.targets["knowledge_masking"][0]], wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("attention", ON_CPU)
def test_the_gradient_is_that_of_the_instances_one_at_a_time(tmp_path, attention):
    bert_checkpoint(tmp_path)
    model, _ = adopt(tmp_path)
    model.encoder.set_attn_implementation(attention)
    examples = [example(length, length, ["knowledge_masking"]) for length in (9, 30, 17)]
    model(pack("knowledge_masking", examples))["knowledge_masking"].backward()
    together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    for lonely in examples:
        model(pack("knowledge_masking", [lonely]))["knowledge_masking"].backward()
    alone = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ON_CPU)
def test_changing_one_instance_leaves_the_others_untouched(tmp_path, attention):
    bert_checkpoint(tmp_path)
    model, _ = adopt(tmp_path)
    before = [example(20, 1), example(20, 2), example(20, 3)]
    after = [before[0], example(20, 9), before[2]]
    first, second = (run(model, examples, attention) for examples in (before, after))
    assert torch.equal(first[0], second[0]) and torch.equal(first[2], second[2])
    assert not torch.equal(first[1], second[1])


def test_attention_is_chosen_by_what_the_device_offers():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert fitting(cpu, bf16=False, dropout=0.1) == "one_by_one"
    assert fitting(gpu, bf16=True, dropout=0.0) == "varlen"
    assert fitting(gpu, bf16=True, dropout=0.1) == fitting(gpu, bf16=False, dropout=0.0) == "in_rows"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="variable-length attention needs a GPU")
def test_on_gpu_variable_length_attention_gives_what_the_cpu_gives(tmp_path):
    bert_checkpoint(tmp_path)
    model, _ = adopt(tmp_path)
    examples = [read_at(example(length, length), range(length)) for length in (9, 30, 17, 40)]
    on_cpu = run(model, examples)
    model.cuda().encoder.set_attn_implementation("varlen")
    batch = pack("knowledge_masking", examples, 64).to(torch.device("cuda"))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        on_gpu = model.encode(batch).float().cpu().split(batch.read_layout.lengths)
        fused = model(batch)["knowledge_masking"].item()
        logits = model.predict(batch)["knowledge_masking"].float()
    for ours, theirs in zip(on_gpu, on_cpu, strict=False):
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)
    labels = batch.targets["knowledge_masking"][1]
    assert fused == pytest.approx(torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item(), rel=0.01)


def test_the_fused_loss_is_the_loss_and_so_is_its_gradient(tmp_path):
    bert_checkpoint(tmp_path)
    model, _ = adopt(tmp_path)
    head, embedding = model.heads["knowledge_masking"], model.encoder.embeddings.word_embeddings.weight
    labels, results = torch.randint(5, 100, (50,)), []
    for fused in (True, False):
        torch.manual_seed(0)
        hidden = torch.randn(50, 32, requires_grad=True)
        loss = head.fused_loss(hidden, embedding, labels) if fused else model.loss("knowledge_masking", hidden, labels)
        model.zero_grad()
        (loss * 0.5).backward()
        results.append([loss.detach(), hidden.grad, embedding.grad.clone(), head.bias.grad.clone()])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("multiple", [1, 64])
def test_a_flat_batch_keeps_every_token_and_target(multiple):
    examples = [example(int(length), n, ["knowledge_masking"]) for n, length in enumerate(np.linspace(5, 64, 50))]
    batch = pack("knowledge_masking", examples, multiple)
    parts = zip(
        batch.ids.split(batch.layout.lengths), batch.positions.split(batch.layout.lengths), examples, strict=False
    )
    for ids, positions, one in parts:
        assert ids.tolist() == one.ids.tolist()
        assert positions.tolist() == list(range(len(one.ids)))
    where, labels = batch.targets["knowledge_masking"]
    assert batch.ids[batch.read[where]].tolist() == [int(i) for one in examples for i in one.ids[[1, 2]]]
    assert labels.tolist() == [3, 4] * len(examples)
    assert batch.num_tokens == sum(len(one.ids) for one in examples)
    assert len(batch.ids) % multiple == 0 and len(batch.ids) - batch.num_tokens < multiple


def test_layers_may_be_compiled_or_computed_twice_with_the_same_result(tmp_path):
    bert_checkpoint(tmp_path)
    results = []
    for way in ("plain", "twice", "compiled"):
        model, _ = adopt(tmp_path)
        model.encoder.set_attn_implementation("one_by_one")
        model.prepare(twice=way == "twice", compiled=way == "compiled")
        model.train()
        for lengths in ((9, 30, 17), (12, 40)):
            loss = model(pack("knowledge_masking", [example(n, n, ["knowledge_masking"]) for n in lengths]))
            loss["knowledge_masking"].backward()
        results.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(results[0], results[2], atol=1e-4, rtol=1e-4)


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
