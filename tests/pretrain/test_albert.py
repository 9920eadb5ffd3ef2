"""ALBERT: shared layers and narrow embeddings, under every task, ZeRO stage and way of computing; and its export."""

import numpy as np
import pytest
import torch
from cases import train_some
from conftest import TASK_NAMES, records
from test_engine import STEPS, assert_same_run, train
from test_engine import TASKS as KNOWN
from test_resume import break_off
from test_train import changed, run, same, weights
from transformers import AlbertForMaskedLM, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from finetune.checkpoint import load_model
from pretrain.config import ModelConfig, load_config
from pretrain.data.batch import Example, Target, pack
from pretrain.export import export
from pretrain.model.model import Model, ernie_config
from pretrain.plan import count_classes, operations, parameters, read_sizes
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Head
from pretrain.train import build_model, first_shape, load_finished

ALBERT = {"layers": 3, "embedding": 16, "share_layers": True}
WAYS = [ALBERT, {"layers": 3, "share_layers": True}, {"layers": 3, "embedding": 16}]


def model_of(**sizes) -> Model:
    ours = ModelConfig(hidden=32, heads=2, dropout=0, attention_dropout=0, **sizes)
    return Model(ernie_config(ours, None, 100, 64, 4), {name: "abc" for name in TASKS}, seed=0)


def batch_of(task: str, lengths=(9, 30, 17)):
    rng = np.random.default_rng(0)
    where = np.zeros(1, np.int64) if TASKS[task].head is Head.SEQUENCE else np.array([1, 4, 7])
    target = Target(where, np.ones(len(where), np.int64))
    return pack(task, [Example(rng.integers(5, 100, n), rng.integers(0, 2, n), {task: target}) for n in lengths])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_the_one_layer_and_the_narrow_embeddings(task):
    model = model_of(**ALBERT)
    model(batch_of(task))[task].backward()
    unmoved = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    others = {f"heads.{name}." for name in TASKS if name != task} | {f"rows.{name}" for name in TASKS if name != task}
    # a key's bias adds the same to every score of a query: its gradient is zero in any transformer, but for rounding
    allowed = ("attention.self.key.bias", "pooler" if TASKS[task].head is not Head.SEQUENCE else "key.bias")
    assert not {name for name in unmoved if not any(part in name for part in (*others, *allowed))}


def test_a_shared_layer_is_that_layer_as_often_as_there_are_layers():
    """Three layers with the same weights, written out, give the hidden states, and the sum of their gradients."""
    shared, apart = model_of(**ALBERT), model_of(layers=3, embedding=16)
    first = {k.replace("layer.0.", ""): v for k, v in shared.state_dict().items() if "layer.0." in k}
    state = {k: first.get(k.replace(f"layer.{k.split('.')[3]}.", ""), shared.state_dict().get(k))
             if ".layer." in k else shared.state_dict()[k] for k in apart.state_dict()}  # fmt: skip
    apart.load_state_dict(state)
    batch = batch_of("knowledge_masking")
    torch.testing.assert_close(shared.encode(batch), apart.encode(batch))
    for model in (shared, apart):
        model(batch)["knowledge_masking"].backward()
    for name, parameter in shared.encoder.encoder.layer[0].named_parameters():
        parts = [dict(layer.named_parameters())[name].grad for layer in apart.encoder.encoder.layer]
        torch.testing.assert_close(parameter.grad, sum(parts), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", ["twice", pytest.param("compiled", marks=pytest.mark.slow)])
def test_it_may_be_compiled_or_computed_twice_with_the_same_result(way):
    results = []
    for prepared in ("", way):
        model = model_of(**ALBERT)
        model.prepare(twice=prepared == "twice", compiled=prepared == "compiled")
        model.train()
        for lengths in ((9, 30, 17), (12, 40)):
            model(batch_of("knowledge_masking", lengths))["knowledge_masking"].backward()
        results.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", WAYS)
def test_the_plan_counts_its_parameters_exactly(tiny, sizes):
    config = changed(tiny, model=sizes)
    model = build_model(config, TASK_NAMES, first_shape(config, None))
    planned = read_sizes(config)
    count = parameters(planned, count_classes(config)[0])
    rows_without_task = (planned.tasks - len(TASK_NAMES)) * planned.narrow
    assert count.total - rows_without_task == sum(p.numel() for p in model.parameters())
    assert count.layers == sum(p.numel() for p in model.encoder.encoder.parameters())


def test_sharing_saves_weights_and_no_work(tiny):
    full, shared = (read_sizes(changed(tiny, model={"layers": 4, "share_layers": s})) for s in (False, True))
    assert parameters(full, {}).layers == 4 * parameters(shared, {}).layers
    assert operations(full, 1000, 64) == operations(shared, 1000, 64)


@pytest.mark.parametrize("sizes", WAYS)
def test_a_run_exports_what_transformers_albert_computes_alike(tiny, sizes):
    config = changed(tiny, model=sizes)
    run(config)
    folder = export(config)
    model, _, _ = load_finished(config, 2)
    model.eval()
    theirs, found = AlbertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and all("pooler" in key for key in found["unexpected_keys"])
    encoder = AutoModel.from_pretrained(folder)
    rng = np.random.default_rng(0)
    ids, types = rng.integers(5, 100, 30), rng.integers(0, 4, 30)
    where = Target(np.arange(30), np.zeros(30, np.int64))
    batch = pack("knowledge_masking", [Example(ids, types, {"knowledge_masking": where})])
    inputs = {"input_ids": batch.ids[None], "token_type_ids": batch.types[None]}
    with torch.no_grad():
        hidden, seen = model.encode(batch), encoder(**inputs)
        pooled = model.encoder.pooler.activation(model.encoder.pooler.dense(hidden[:1]))
        torch.testing.assert_close(seen.last_hidden_state[0], hidden, atol=1e-5, rtol=0)
        torch.testing.assert_close(seen.pooler_output, pooled, atol=1e-5, rtol=0)
        logits = model.predict(batch)["knowledge_masking"]
        torch.testing.assert_close(theirs(**inputs).logits[0], logits, atol=1e-4, rtol=0)
    _, new = load_model(AutoModelForSequenceClassification, folder)
    assert all("classifier" in name for name in new), "fine-tuning starts from all of it"
    encoder(**AutoTokenizer.from_pretrained(folder)("w1 w2", return_tensors="pt"))
    assert f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} M" in (folder / "README.md").read_text()


def test_interrupted_it_ends_with_the_bits_of_an_unbroken_run(tiny):
    whole, broken = (changed(tiny, name=name, model={**ALBERT, "dropout": 0.1}) for name in ("whole", "broken"))
    run(whole)
    break_off(broken, 20)
    run(broken)
    assert len(records(broken, "resume")) == 1
    assert same(weights(whole, 2), weights(broken, 2))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "settings",
    [
        {"zero_stage": 3},
        *(pytest.param({"zero_stage": stage}, marks=SLOW) for stage in (0, 1, 2)),
        *(pytest.param({"zero_stage": 3, way: True}, marks=SLOW) for way in ("compile", "activation_checkpointing")),
    ],
    ids=str,
)
def test_two_ranks_equal_one(tiny, tmp_path, settings):
    config = changed(tiny, model=ALBERT)
    one = train_some(tmp_path, config.model_dump(mode="json"), STEPS, KNOWN)
    _, (first, second) = train(config, tmp_path, 2, micro_batch_size=2, **settings)
    assert first["weights"] == second["weights"]
    assert_same_run(one, first)
    assert first["moments"] == pytest.approx(one["moments"], rel=1e-2, abs=1e-5)


def test_prior_weights_are_refused_with_the_reason():
    for setting in ("share_layers=true", "embedding=64"):
        with pytest.raises(ValueError, match="layers that differ") as caught:
            load_config(None, ["corpus.tokenizer=demo:minilm", "model.prior=demo:minilm", f"model.{setting}"])
        assert "\n" not in str(caught.value)
