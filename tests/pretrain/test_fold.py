"""Experts inside the encoder as they are exported: part of the feed-forward layers, at constant shares."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_sharing import INSIDE, example, model_with, stirred
from test_train import changed, run
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from finetune.checkpoint import load_model
from pretrain.compare.experiment import load_compare
from pretrain.data.batch import pack
from pretrain.evaluate import FROZEN
from pretrain.export import export
from pretrain.fold import fold, mixtures
from pretrain.sharing.hard import Hard
from pretrain.sharing.parts import Gate
from pretrain.train import load_finished, read_sources

MASKED = "knowledge_masking"
FOLDED = {kind: settings for kind, settings in INSIDE.items() if settings["kind"] != "ple"} | {
    "cgc inside, the last layer": {"kind": "cgc", "place": "inside", "task_experts": 2, "width": 5}
}


@pytest.mark.parametrize("kind", FOLDED)
def test_at_equal_shares_the_folded_model_is_the_trained_one(kind):
    model = model_with(FOLDED[kind]).eval()
    stirred(model)
    for gate in model.sharing.modules():
        if isinstance(gate, Gate):
            gate.weight.data.zero_()
    batch = pack(MASKED, [example(9, 0, range(9), MASKED), example(6, 1, (0, 4), MASKED)])
    found = [mixture for _, mixture in mixtures(model, MASKED)]
    with torch.no_grad():
        before = model.encode(batch), model.predict(batch)[MASKED]
        fold(model, MASKED, [torch.full((len(experts),), 1 / len(experts)) for experts in found])
        after = model.encode(batch), model.predict(batch)[MASKED]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    assert isinstance(model.sharing, Hard) and any(expert.outer.weight.any() for expert in found[0])
    added = sum(expert.inner.out_features for expert in found[0])
    assert {layer.intermediate.dense.weight.shape for layer in model.layers} == {(16 + added, 8)}
    assert model.config.intermediate_size == 16 + added


def test_layers_without_experts_are_widened_by_zeros_and_give_what_they_gave():
    model, states = model_with(INSIDE["mmoe inside"]).eval(), torch.randn(5, 8)
    first = model.layers[0]

    def forward():
        return first.output(first.intermediate(states), states)

    before, weight = forward(), first.intermediate.dense.weight.detach().clone()
    fold(model, MASKED, [torch.full((4,), 0.25)])
    assert first.intermediate.dense.weight[:16].equal(weight) and not first.intermediate.dense.weight[16:].any()
    assert not first.output.dense.weight[:, 16:].any() and not first.intermediate.dense.bias[16:].any()
    torch.testing.assert_close(forward(), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sizes", [{}, {"embedding": 16}], ids=["ernie", "albert"])
def test_an_export_is_a_stock_model_and_says_what_it_kept_and_what_that_costs(tiny, sizes):
    sharing = {"kind": "cgc", "place": "inside", "shared_experts": 2, "width": 24}
    config = changed(tiny, sharing=sharing, model=sizes, train={"lr": 1e-2}, evaluate={"instances": 20})
    run(config)
    folder = export(config)
    said = json.loads((folder / "tasks.json").read_text())
    assert [task for task, about in said.items() if "experts" in about] == [MASKED]
    experts, card = said[MASKED]["experts"], (folder / "README.md").read_text()
    assert experts["intermediate_size"] == {"trained": 128, "exported": 128 + 3 * 24}
    assert AutoConfig.from_pretrained(folder).intermediate_size == 200
    _, new = load_model(AutoModelForSequenceClassification, folder)
    assert all("classifier" in name for name in new), "fine-tuning starts from all of it"
    for task, about in said.items():
        assert (f"those here are {MASKED}'s" in about["head_reads"]) == (task != MASKED)

    trained, _, _ = load_finished(config, 2)
    trained.eval()
    source, shares, losses = read_sources(config, "validation", [MASKED])[MASKED], [], {"trained": [], "exported": []}
    ((gate, _),) = mixtures(trained, MASKED)
    encoder, theirs = AutoModel.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
    for index in np.linspace(0, 40, 20, endpoint=False).astype(int).tolist():
        batch = pack(MASKED, [source.draw(index, FROZEN)])
        where, labels = batch.targets[MASKED]
        inputs = {"input_ids": batch.ids[None], "token_type_ids": batch.types[None]}
        with torch.no_grad():
            ours = trained.predict(batch)[MASKED]
            losses["trained"].append(functional.cross_entropy(ours, labels, reduction="none"))
            with hooked(gate, lambda _, __, found: shares.append(found[0])):
                trained.encode(batch.reading_all())
            scores = theirs(**inputs).logits[0, batch.read[where]]
            losses["exported"].append(functional.cross_entropy(scores, labels, reduction="none"))
            assert encoder(**inputs).last_hidden_state.isfinite().all()
    mean = torch.cat(shares).mean(0)
    assert mean.tolist() == pytest.approx(experts["shares"]["layer 1"], abs=1e-5) and mean.std() > 0.01
    for way, found in losses.items():
        record = experts["validation"][way]
        assert torch.cat(found).mean().item() == pytest.approx(record["loss"], abs=1e-4)
        assert f"| {record['loss']:.4f} | {record['metric']:.4f} |" in card
    before, after = (experts["validation"][way]["loss"] for way in ("trained", "exported"))
    assert after != before and after == pytest.approx(before, rel=0.05)


def test_without_masked_words_the_experts_of_the_first_task_are_kept(tiny):
    config = changed(tiny, tasks=["capitalization", "sentence_distance"], sharing={"kind": "mmoe", "place": "inside"})
    run(config)
    folder = export(config)
    said = json.loads((folder / "tasks.json").read_text())
    assert "experts" in said["capitalization"] and "experts" not in said["sentence_distance"]
    assert AutoModel.from_pretrained(folder).encoder.layer[0].intermediate.dense.out_features == 128 + 4 * 32
    assert "sharing" not in " ".join(load_file(folder / "model.safetensors"))


@contextmanager
def hooked(module, hook):
    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (
            {"sharing": {"kind": "cgc", "place": "inside"}, "model": {"share_layers": True}},
            "share_layers=true with sharing.place=inside: .* cannot become part of them",
        ),
        (
            {"sharing": {"kind": "ple", "place": "inside", "layers": 2}},
            "kind=ple with place=inside: its last layers have several streams.* omoe, mmoe, ml_mmoe or cgc inside",
        ),
    ],
)
def test_what_no_stock_model_can_hold_is_refused_before_anything_is_trained(tiny, tmp_path, settings, refused):
    config = changed(tiny, **settings)
    with pytest.raises(ValueError, match=refused) as error:
        export(config)
    assert "\n" not in str(error.value)
    run = config.model_dump(mode="json", exclude={"name", "seed"}, exclude_unset=True)
    run["train"]["companions"] = []
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({"run": run}))
    assert load_compare(path)
    with pytest.raises(ValueError, match=refused):
        load_compare(path, ["downstream=[configs/downstream/en.yaml]"])
