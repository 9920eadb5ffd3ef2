"""A run from first stage to export, on one rank, through DeepSpeed."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import records
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, ErnieForMaskedLM

from pretrain.config import Config, load_config
from pretrain.data.batch import Source
from pretrain.engine import make_engine
from pretrain.export import export
from pretrain.guard import Guard
from pretrain.loop import State, optimizer_step
from pretrain.model.model import TASK_IDS
from pretrain.optimizer import learning_rate
from pretrain.report import Report
from pretrain.run import Typed, claim_folder, locked, stage_folder, wanted_stages
from pretrain.tasks.spec import ENTITY, LEVEL, PHRASE, UNIT_START, WORD_START, Tokens
from pretrain.train import (
    build_model,
    evaluate,
    first_shape,
    load_finished,
    load_weights,
    rate_of,
    read_sources,
    steps_of,
    train,
)
from pretrain.world import join

TYPED = Typed(Path("tiny.yaml"))


def changed(config: Config, **sections) -> Config:
    tree = config.model_dump(mode="json")
    for section, values in sections.items():
        tree[section] = {**tree[section], **values} if isinstance(values, dict) else values
    return Config.model_validate(tree)


def with_prior(config: Config, folder: Path, **sizes) -> Config:
    tree = config.model_dump(mode="json")
    tree["model"] = {"prior": str(folder), "dropout": 0.0, "attention_dropout": 0.0, **sizes}
    tree["corpus"]["tokenizer"] = str(folder)
    return Config.model_validate(tree)


def run(config, stages=None):
    with Report(config) as report:
        train(config, stages, report, TYPED)


def weights(config, stage):
    return load_file(stage_folder(config, stage) / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_stages_build_on_each_other_and_export_loads_in_transformers(tiny):
    run(tiny)
    steps = records(tiny, "step")
    assert [r["run_step"] for r in steps] == list(range(1, 25))
    assert all(loss == loss and loss > 0 for r in steps for loss in r["loss"].values())  # no NaN
    evaluations = {(r["stage"], r["task"]) for r in records(tiny, "evaluation")}
    word = {"knowledge_masking", "capitalization"}
    assert evaluations == {(1, task) for task in word} | {(2, task) for task in tiny.tasks}

    folder = export(tiny)
    model, _, _ = load_finished(tiny, 2)
    model.eval().encoder.set_attn_implementation("sdpa")
    ids = torch.randint(5, 100, (2, 12))
    task_ids = torch.full_like(ids, 3)
    with torch.no_grad():
        ours = model.encoder(ids, task_type_ids=task_ids)
        theirs = AutoModel.from_pretrained(folder)(ids, task_type_ids=task_ids)
        logits = ErnieForMaskedLM.from_pretrained(folder)(ids, task_type_ids=task_ids).logits
    assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
    assert torch.equal(ours.pooler_output, theirs.pooler_output)
    torch.testing.assert_close(logits, model.read("knowledge_masking", ours.last_hidden_state), atol=1e-5, rtol=0)
    tokens = AutoTokenizer.from_pretrained(folder)("w1 w2", "W3")
    assert tokens["input_ids"] == [2, 6, 7, 3, 8, 3] and tokens["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    heads = load_file(folder / "task_heads.safetensors")
    assert heads["sentence_reordering.weight"].shape == (33, 32)
    assert "sentence_distance" in (folder / "README.md").read_text()


def test_one_stage_at_a_time_equals_all_at_once(tiny):
    run(tiny)
    apart = changed(tiny, name="apart")
    run(apart, [1])
    run(apart, [2])
    assert same(weights(tiny, 2), weights(apart, 2))


def test_finished_stages_are_not_trained_again(tiny):
    run(tiny, [1])
    written = (stage_folder(tiny, 1) / "model.safetensors").stat().st_mtime_ns
    run(tiny, [1])
    assert (stage_folder(tiny, 1) / "model.safetensors").stat().st_mtime_ns == written
    assert len(records(tiny, "step")) == tiny.stages()[0].total


def test_a_stage_without_its_predecessor_names_the_command(tiny):
    with Report(tiny) as report, pytest.raises(ValueError, match=r"make stage1 CONFIG=mine\.yaml ARGS=seed=0"):
        train(tiny, [2], report, Typed(Path("mine.yaml"), ["seed=0"]))


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"train": {"lr": 5e-4}}, "train.lr"),
        ({"seed": 3}, "seed"),
        ({"schedule": {"steps_per_task": 7}}, "steps_per_task"),
        ({"corpus": {"mask_share": 0.2}}, "corpus.mask_share was 0.15"),
        ({"corpus": {"mask_levels": "phases"}}, "corpus.mask_levels was 'mixed'"),
        ({"corpus": {"mask_levels": {"basic": 1.0}}}, "corpus.mask_levels was 'mixed'"),
    ],
)
def test_a_changed_setting_is_not_mixed_into_a_run(tiny, sections, named):
    run(tiny, [1])
    with pytest.raises(ValueError, match=named):
        claim_folder(changed(tiny, **sections))


def test_settings_that_train_nothing_may_change(tiny):
    run(tiny, [1])
    claim_folder(changed(tiny, log={"every": 3}, train={"checkpoint_every": 2}))


def test_an_interrupted_stage_goes_on_where_it_stopped(tiny):
    """Ctrl-C finishes the step and saves; the next run ends with the weights of an unbroken one, bit for bit."""
    run(tiny)
    broken = changed(tiny, name="broken", model={"dropout": 0.1})
    whole = changed(tiny, name="whole", model={"dropout": 0.1})
    run(whole)

    class Interrupting(Report):
        def step(self, record):
            super().step(record)
            if record["run_step"] in (3, 14):
                os.kill(os.getpid(), signal.SIGINT)

    for _ in range(2):
        with Interrupting(broken) as report:
            train(broken, None, report, TYPED)
    assert records(broken, "step")[-1]["run_step"] == 15
    run(broken)
    assert same(weights(whole, 2), weights(broken, 2))
    losses = [[(r["run_step"], r["loss"]) for r in records(config, "step")] for config in (whole, broken)]
    assert losses[0] == losses[1]


def test_masking_is_drawn_as_the_run_says_from_a_corpus_that_is_not_built_anew(tiny):
    """40 documents of one-token words, all maskable."""
    for share in (0.1, 0.4):
        config = changed(tiny, corpus={"mask_share": share})
        for split in ("train", "validation"):
            source = read_sources(config, split, ["knowledge_masking"])["knowledge_masking"]
            examples = [source.at(position) for position in range(len(source.instances))]
            masked = sum(len(example.targets["knowledge_masking"].labels) for example in examples)
            assert masked / sum(len(example.ids) - 2 for example in examples) == pytest.approx(share, abs=0.02)


LEVELS = [PHRASE, ENTITY]
FLAGS = [level | WORD_START | start for level in LEVELS * 4 for start in (UNIT_START, 0, 0)]
WORDS = [([Tokens(np.arange(10, 10 + len(FLAGS)), np.array(FLAGS, np.uint8))], 0)]
"""An instance of four phrases and four entities of three words each."""


def source_of(config: Config, task: str, split: str = "train") -> Source:
    return replace(read_sources(config, split, [task])[task], instances=WORDS)


@pytest.mark.parametrize("task", ["knowledge_masking", "sentence_distance"])
def test_the_phase_follows_from_the_position_in_the_feed_of_the_step(tiny, task):
    """6 steps of 8: 16 instances a phase. Companions go by the task that they ride on."""
    source = source_of(changed(tiny, corpus={"mask_levels": "phases", "mask_share": 0.25}), task)

    def levels(position: int) -> list[int]:
        companions = [] if task == "knowledge_masking" else ["knowledge_masking"]
        where = source.at(position, companions).targets["knowledge_masking"].positions
        return sorted(FLAGS[place - 1] & LEVEL for place in where)

    assert any(len(set(levels(position))) > 1 for position in range(16))
    assert all(levels(position) == [PHRASE] * 6 for position in range(16, 32))
    assert all(levels(position) == [ENTITY] * 6 for position in range(32, 48))


@pytest.mark.parametrize("mode", ["phases", {"entity": 1.0}])
def test_validation_masks_the_same_whatever_levels_training_masks(tiny, mode):
    one, other = (
        source_of(config, "knowledge_masking", "validation").draw(0, "validation")
        for config in (tiny, changed(tiny, corpus={"mask_levels": mode}))
    )
    assert (one.ids == other.ids).all()


def test_same_seed_same_bytes_other_seed_other_weights(tiny):
    runs = [changed(tiny, name=name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    for config in runs:
        run(config, [1])
    first, again, other = ((stage_folder(config, 1) / "model.safetensors").read_bytes() for config in runs)
    assert first == again != other


def test_moments_are_carried_or_reset_as_configured(tiny):
    reset = changed(tiny, name="reset", train={"moments": "reset"})
    for config in (tiny, reset):
        run(config)
    carried, fresh = (json.loads((stage_folder(c, 2) / "state.json").read_text())["updates"] for c in (tiny, reset))
    in_stage_1 = tiny.stages()[0].total
    assert carried["encoder"] == fresh["encoder"] + in_stage_1
    assert carried["head.sentence_distance"] == fresh["head.sentence_distance"]


def test_evaluations_at_token_marks_change_nothing_and_survive_a_kill(tiny):
    """Every mark is passed once, in a run that was interrupted too."""
    marked = changed(tiny, name="marked", evaluate={"every_tokens": 1000})
    run(tiny)
    broken = changed(marked, name="broken", train={"checkpoint_every": 1})

    class Interrupting(Report):
        def evaluation(self, found):
            super().evaluation(found)
            if len(records(self.config, "evaluation")) >= 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Interrupting(broken) as report:
        train(broken, None, report, TYPED)
    for config in (marked, broken):
        run(config)
        assert same(weights(tiny, 2), weights(config, 2))
    found = [
        [(r["tokens"], r["task"], r["loss"]) for r in records(config, "evaluation")] for config in (marked, broken)
    ]
    assert found[0] == found[1]
    marks = sorted({tokens // 1000 for tokens, _, _ in found[0]})
    assert marks == list(range(1, records(tiny, "step")[-1]["tokens"] // 1000 + 1)) and len(marks) > 3
    within = [task for tokens, task, _ in found[0] if tokens < records(tiny, "step")[7]["tokens"]]
    assert set(within) == {"knowledge_masking", "capitalization"}


def test_runs_of_any_seed_are_evaluated_on_the_same_instances(tiny):
    one, other = (
        read_sources(changed(tiny, seed=seed), "validation", ["knowledge_masking"])["knowledge_masking"]
        for seed in (0, 1)
    )
    assert (one.draw(3, "validation").ids == other.draw(3, "validation").ids).all()


def test_evaluate_repeats_what_training_recorded(tiny):
    run(tiny)
    before = records(tiny, "evaluation")
    with Report(tiny) as report:
        evaluate(tiny, report)
    again = records(tiny, "evaluation")[len(before) :]
    keys = ("stage", "task", "metric", "chance", "detail")
    assert [[r[k] for k in keys] for r in before] == [[r[k] for k in keys] for r in again]
    assert [r["loss"] for r in before] == pytest.approx([r["loss"] for r in again], rel=1e-5)


def test_another_tokenizer_is_refused(tiny):
    path = tiny.corpus.folder() / "tokenizer.json"
    path.write_text(path.read_text().replace('"w7"', '"other"'))
    with Report(tiny) as report, pytest.raises(ValueError, match=r"tokenizer\.json is not the tokenizer"):
        train(tiny, [1], report, TYPED)


def ernie_checkpoint(folder: Path, vocab_size: int = 100) -> Path:
    shape = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = ErnieForMaskedLM(
        ErnieForMaskedLM.config_class(**shape, intermediate_size=32, type_vocab_size=4, use_task_id=True)
    )
    model.save_pretrained(folder)
    return folder


def test_a_vocabulary_larger_than_the_models_is_refused(tiny, tmp_path):
    config = with_prior(tiny, ernie_checkpoint(tmp_path / "small", vocab_size=50))
    with Report(config) as report, pytest.raises(ValueError, match=r"100 entries.*50"):
        train(config, [1], report, TYPED)


def test_a_size_that_contradicts_the_prior_is_refused(tiny, tmp_path):
    config = with_prior(tiny, ernie_checkpoint(tmp_path / "prior"), layers=12)
    with Report(config) as report, pytest.raises(ValueError, match=r"model.layers=12.*has 1"):
        train(config, [1], report, TYPED)


def test_tasks_added_later_start_from_the_task_row_of_an_ernie_prior(tiny, tmp_path):
    config = with_prior(tiny, ernie_checkpoint(tmp_path / "prior"))
    run(config, [1])
    prior = load_file(tmp_path / "prior" / "model.safetensors")["ernie.embeddings.task_type_embeddings.weight"]
    shape = type(load_finished(config, 1)[0].config).from_json_file(stage_folder(config, 1) / "config.json")
    model = build_model(config, config.tasks, shape)
    new = load_weights(model, stage_folder(config, 1))
    rows = model.task_embeddings.rows
    assert "encoder.embeddings.task_type_embeddings.rows.sentence_distance" in new
    assert torch.equal(rows["sentence_distance"], prior[0])
    exported = load_file(export(config) / "model.safetensors")["ernie.embeddings.task_type_embeddings.weight"]
    assert torch.equal(exported[TASK_IDS["ir_relevance"]], prior[0])
    assert not torch.equal(exported[TASK_IDS["capitalization"]], prior[0])


def test_the_configuration_that_a_run_keeps_can_be_used_again(tiny, tmp_path):
    config = with_prior(tiny, ernie_checkpoint(tmp_path / "prior"))
    run(config, [1])
    kept = load_config(config.folder() / "config.yaml")
    claim_folder(kept)
    assert wanted_stages(kept, [2], TYPED) == [2]
    run(kept, [2])


def test_a_corpus_that_was_built_anew_is_not_mixed_into_a_run(tiny):
    run(tiny, [1])
    path = tiny.corpus.folder() / "manifest.json"
    path.write_text(path.read_text().replace("made by hand", "made anew"))
    for work in (lambda: run(tiny, [2]), lambda: export(tiny)):
        with pytest.raises(ValueError, match="another corpus"):
            work()


def test_export_refuses_a_configuration_that_was_not_trained(tiny):
    run(tiny, [1])
    with pytest.raises(ValueError, match=r"train\.batch_size"):
        export(changed(tiny, train={"batch_size": 64}))


def test_two_trainings_do_not_share_a_run(tiny):
    with locked(tiny), pytest.raises(ValueError, match="another process"):
        run(tiny, [1])


def test_a_step_whose_task_finds_no_target_moves_no_head(tiny):
    """A batch without a cased letter, say: no loss, no NaN, and the head rests."""
    world = join()
    engine = make_engine(build_model(tiny, tiny.tasks, first_shape(tiny, None)), tiny.train, world, Guard({}))
    sources = read_sources(tiny, "train", ["knowledge_masking", "capitalization"])
    (batch,) = steps_of(tiny, 1, sources, State(stage=1), world)[1]
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = batch._replace(targets={"capitalization": (nothing, nothing)}, counts={"capitalization": 0})
    before = engine.module.heads["capitalization"].weight.clone()
    result = optimizer_step(engine, [empty], 1e-3, world)
    assert float(result.losses["capitalization"]) == 0
    assert torch.equal(engine.module.heads["capitalization"].weight, before)
    assert all(parameter.isfinite().all() for parameter in engine.module.parameters())


def test_the_learning_rate_spans_a_stage_or_the_run(tiny):
    """Over the run, it is that of a single stage as long as the run, whichever way the schedule cuts it."""
    train = {"warmup_steps": 3, "decay": "linear", "lr_spans": "run"}
    cut, joint = changed(tiny, train=train), changed(tiny, train=train, schedule={"kind": "joint"})
    lengths = [stage.total for stage in cut.stages()]
    whole = [rate_of(joint, 1)(State(stage=1, step=n, run_step=n)) for n in range(sum(lengths))]
    states = [State(stage=1, step=n, run_step=n) for n in range(lengths[0])]
    states += [State(stage=2, step=n, run_step=lengths[0] + n) for n in range(lengths[1])]
    assert [rate_of(cut, state.stage)(state) for state in states] == whole
    anew = changed(cut, train={"lr_spans": "stage"})
    assert rate_of(anew, 2)(states[lengths[0]]) == rate_of(anew, 1)(states[0]) == whole[0]


@pytest.mark.parametrize("decay", ["noam", "linear"])
@given(num_steps=st.integers(1, 300), warmup=st.integers(0, 400))
def test_the_learning_rate_rises_to_its_peak_and_falls(decay, num_steps, warmup):
    rates = [learning_rate(step, num_steps, 2.0, warmup, decay) for step in range(1, num_steps + 1)]
    top = max(1, min(warmup, num_steps))
    assert rates[: top - 1] == sorted(rates[: top - 1]) and rates[top - 1 :] == sorted(rates[top - 1 :], reverse=True)
    assert min(rates) > 0 and max(rates) <= 2.0
    assert rates[top - 1] == pytest.approx(2.0) or warmup > num_steps
