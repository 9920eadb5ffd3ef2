"""Distillation: its losses against the paper's, what moves, resume, ranks, refusals, and what is exported."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import records
from ranks import run_ranks
from safetensors.torch import load_file, save_file
from test_resume import break_off
from test_train import changed, run, same, weights
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
)

from finetune.checkpoint import load_model
from launch.cli import distill
from pretrain.config import Config, DistillConfig, dump_config, load_config, resolved
from pretrain.data.batch import Example, Target, pack
from pretrain.engine import make_engine
from pretrain.export import export
from pretrain.guard import Guard
from pretrain.loop import optimizer_step
from pretrain.model.model import ernie_config, load_prior
from pretrain.model.student import (
    HIDDEN_STATES,
    MASKED,
    SOFT_TARGETS,
    Student,
    read_teacher,
    soft_loss,
    student_weights,
)
from pretrain.plan import operations, parameters, read_sizes, written_sizes
from pretrain.run import stage_folder
from pretrain.train import load_finished
from pretrain.world import join

SHAPE = dict(
    vocab_size=100, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


def bert(folder, corpus, seed=0, **shape) -> BertForMaskedLM:
    """A teacher: weights large enough that its layers and its opinions differ."""
    torch.manual_seed(seed)
    model = BertForMaskedLM(BertConfig(**SHAPE | shape, initializer_range=0.2)).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text((corpus / "tokenizer.json").read_text())
    return model


def student_of(tiny: Config, teacher, **settings) -> Config:
    tree = tiny.model_dump(mode="json")
    tree |= {"tasks": [MASKED], "model": {"dropout": 0.1, "attention_dropout": 0.1}}
    tree["schedule"]["steps_per_task"] = 12
    tree["distill"] = {"teacher": str(teacher), **settings}
    return Config.model_validate(tree)


def altered(config: Config, **sections) -> Config:
    """As a user would write it: without the sizes that the teacher decides."""
    tree = resolved(config)
    for section, values in sections.items():
        tree[section] = {**tree[section], **values} if isinstance(values, dict) else values
    return Config.model_validate(tree)


@pytest.fixture
def config(tiny, tmp_path) -> Config:
    bert(tmp_path / "teacher", tiny.corpus.folder())
    return student_of(tiny, tmp_path / "teacher")


def parts(config: Config):
    """A student with its teacher, neither with dropout."""
    distill = config.distill
    prior = student_weights(distill)
    shape = ernie_config(config.model.model_copy(update={"dropout": 0, "attention_dropout": 0}), prior, 0, 0, 4)
    student = Student(shape, {MASKED: None}, 0, distill)
    load_prior(student, prior)
    student.teacher = read_teacher(distill, Tokenizer.from_file(str(config.corpus.folder() / "tokenizer.json")))
    return student


def batch_of(lengths, seed=0, multiple=1):
    rng = np.random.default_rng(seed)
    target = Target(np.array([1, 4]), np.array([7, 8]))
    return pack(
        MASKED, [Example(rng.integers(5, 100, n), np.zeros(n, np.int64), {MASKED: target}) for n in lengths], multiple
    )


def test_soft_targets_by_hand():
    """Logits ln 4 and 0 at T = 2 are ln 2 and 0: (⅔, ⅓). Against (½, ½): ⅔ ln 4/3 + ⅓ ln 2/3, times 2²."""
    teacher, student = torch.tensor([[math.log(4), 0.0]]), torch.zeros(1, 2)
    wanted = 4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))
    assert soft_loss(student, teacher, 2.0).item() == pytest.approx(wanted)
    assert soft_loss(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-7)


def test_the_losses_are_those_of_the_paper_computed_by_transformers(config, tmp_path):
    """Student and teacher as two BERTs, padding nowhere: KL by `batchmean`, cosine by torch's own loss."""
    student = parts(config)
    batch = batch_of([12, 12])
    teacher = BertForMaskedLM.from_pretrained(tmp_path / "teacher").eval()
    pupil = BertForMaskedLM.from_pretrained(tmp_path / "teacher").eval()
    pupil.bert.encoder.layer = torch.nn.ModuleList([pupil.bert.encoder.layer[number] for number in (0, 2)])
    ids = batch.ids.view(2, 12)
    with torch.no_grad():
        found = student.eval()(batch)
        ours, theirs = (model(ids, output_hidden_states=True) for model in (pupil, teacher))
    s, t = ours.logits.flatten(0, 1), theirs.logits.flatten(0, 1)
    soft = torch.nn.KLDivLoss(reduction="batchmean")((s / 2).log_softmax(-1), (t / 2).softmax(-1)) * 2**2
    h_s, h_t = ours.hidden_states[-1].flatten(0, 1), theirs.hidden_states[-1].flatten(0, 1)
    cosine = torch.nn.CosineEmbeddingLoss(reduction="mean")(h_s, h_t, torch.ones(24))
    at = torch.tensor([1, 4, 13, 16])
    masked = torch.nn.functional.cross_entropy(s[at], torch.tensor([7, 8, 7, 8]))
    assert found[SOFT_TARGETS].item() / 24 == pytest.approx(soft.item(), rel=1e-4)
    assert found[HIDDEN_STATES].item() / 24 == pytest.approx(cosine.item(), rel=1e-4)
    assert found[MASKED].item() / 4 == pytest.approx(masked.item(), rel=1e-4)


def test_a_student_with_all_layers_agrees_with_its_teacher(tiny, tmp_path):
    bert(tmp_path / "teacher", tiny.corpus.folder())
    student = parts(student_of(tiny, tmp_path / "teacher", layers=[0, 1, 2, 3]))
    found = student(batch_of([9, 20]))
    assert found[SOFT_TARGETS].item() == pytest.approx(0, abs=1e-3)
    assert found[HIDDEN_STATES].item() == pytest.approx(0, abs=1e-3)


def test_padding_is_not_compared(config):
    student = parts(config).eval()
    for name, loss in student(batch_of([9, 20], multiple=64)).items():
        assert loss.item() == pytest.approx(student(batch_of([9, 20]))[name].item(), rel=1e-5)


@pytest.mark.parametrize("chosen", [(5.0, 2.0, 1.0), (1.0, 0.0, 0.0)])
def test_a_step_descends_the_weighted_sum_of_means(config, chosen):
    """Over two micro-batches of unequal size; compared with the gradient of one batch, written out."""
    config = altered(config, distill={"weights": chosen}, train={"clip": 0.0})
    engine = make_engine(parts(config), config.train, join(), Guard({}))
    taken = optimizer_step(engine, [batch_of([9]), batch_of([20, 30], seed=1)], 0.0, join())
    assert taken.targets == {MASKED: 6, SOFT_TARGETS: 59, HIDDEN_STATES: 59}
    plain = parts(config)
    sums = [plain(batch) for batch in (batch_of([9]), batch_of([20, 30], seed=1))]
    means = {name: (sums[0][name] + sums[1][name]) / taken.targets[name] for name in sums[0]}
    sum(
        weight * means[name] for name, weight in zip((SOFT_TARGETS, MASKED, HIDDEN_STATES), chosen, strict=True)
    ).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters() if p.grad is not None])
    assert taken.norm.item() == pytest.approx(norm.item(), rel=1e-4)


def test_the_teacher_stays_outside(config):
    """Of the weights, of the optimizer, of training; and it does not move."""
    student = parts(config)
    before = {name: tensor.clone() for name, tensor in student.teacher.model.state_dict().items()}
    lone = Student(student.config, {MASKED: None}, 0, config.distill)
    assert student.state_dict().keys() == lone.state_dict().keys()
    engine = make_engine(student, config.train, join(), Guard({}))
    student.train()
    assert not student.teacher.model.training
    optimizer_step(engine, [batch_of([9, 20])], 1e-3, join())
    assert same(before, student.teacher.model.state_dict())
    assert all(p.grad is None for p in student.teacher.model.parameters())


def test_a_student_learns_its_teacher_and_is_exported_as_distilbert(config):
    config = altered(config, schedule={"steps_per_task": 60}, model={"dropout": 0.0, "attention_dropout": 0.0})
    run(config)
    steps = records(config, "step")
    for name in (SOFT_TARGETS, HIDDEN_STATES):
        assert steps[-1]["loss"][name] < 0.8 * steps[0]["loss"][name]
    folder = export(config)
    model, _, _ = load_finished(config, 1)
    model.eval()
    theirs, found = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == "DistilBertForMaskedLM"
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert not any("token_type" in name or "pooler" in name for name in theirs.state_dict())
    batch = pack(
        MASKED,
        [Example(np.arange(5, 35), np.zeros(30, np.int64), {MASKED: Target(np.arange(30), np.zeros(30, np.int64))})],
    )
    with torch.no_grad():
        hidden, logits = model.encode(batch), model.predict(batch)[MASKED]
        seen = AutoModel.from_pretrained(folder)(batch.ids[None]).last_hidden_state[0]
        torch.testing.assert_close(seen, hidden, atol=1e-5, rtol=0)
        torch.testing.assert_close(theirs(batch.ids[None]).logits[0], logits, atol=1e-4, rtol=0)
    _, new = load_model(AutoModelForSequenceClassification, folder)
    assert all("classifier" in name for name in new), "fine-tuning starts from all of it"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs(**tokenizer("w1 w2", return_tensors="pt"))
    assert tokenizer("w1 w2", "w3")["input_ids"] == [2, 6, 7, 3, 8, 3]
    assert "Student of: " in (folder / "README.md").read_text()


def test_one_command_trains_and_exports(config, tmp_path):
    path = tmp_path / "student.yaml"
    path.write_text(dump_config(config))
    words = [sys.executable, "-c", "from launch.cli import main; main()", "distill"]
    done = subprocess.run([*words, str(path)], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "checkpoint: runs/tiny/export", done.stderr
    assert type(AutoModel.from_pretrained(config.folder() / "export")).__name__ == "DistilBertModel"
    path.write_text(dump_config(Config()))
    with pytest.raises(ValueError, match=r"student\.yaml names no teacher"):
        distill(path)


def test_token_types_and_pooler_may_be_kept(config, tmp_path):
    config = student_of(config, tmp_path / "teacher", shape="ernie", layers=[0, 3])
    run(config)
    folder = export(config)
    assert type(AutoModelForMaskedLM.from_pretrained(folder)).__name__ == "ErnieForMaskedLM"
    exported = load_file(folder / "model.safetensors")
    assert "ernie.embeddings.token_type_embeddings.weight" in exported
    begun = parts(config).encoder.pooler.dense.weight
    assert torch.equal(exported["ernie.pooler.dense.weight"], begun), "distillation does not move it"


def test_our_own_export_is_a_teacher(tiny):
    teacher = changed(tiny, name="teacher", tasks=[MASKED])
    run(teacher)
    config = student_of(tiny, export(teacher))
    student = parts(config)
    assert len(student.layers) == 1 and len(student.teacher.model.layers) == 2
    run(config)


def test_interrupted_it_ends_with_the_bits_of_an_unbroken_run(config):
    whole, broken = (altered(config, name=name) for name in ("whole", "broken"))
    run(whole)
    break_off(broken, 8)
    run(broken)
    assert [r["step"] for r in records(broken, "resume")] == [5]
    assert same(weights(whole, 1), weights(broken, 1))
    moments = [load_file(stage_folder(c, 1) / "moments.safetensors") for c in (whole, broken)]
    assert same(*moments)


def test_another_teacher_is_refused_in_the_middle_of_a_run(config, tmp_path):
    break_off(config, 8)
    path = tmp_path / "teacher" / "model.safetensors"
    kept = path.read_bytes()
    bert(tmp_path / "teacher", config.corpus.folder(), seed=1)
    with pytest.raises(ValueError, match=r"step5 had another teacher than .*Put the first one back"):
        run(config)
    path.write_bytes(kept)
    run(config)


@pytest.mark.parametrize("zero_stage", [0, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 2, 3))])
def test_two_ranks_equal_one(config, tmp_path, zero_stage):
    config = altered(config, model={"dropout": 0.0, "attention_dropout": 0.0})
    alone, together = (altered(config, name=name) for name in ("alone", "together"))
    run(alone)
    settings = resolved(altered(together, train={"zero_stage": zero_stage, "micro_batch_size": 3}))
    run_ranks("cases:run", 2, tmp_path, home=str(tmp_path), config=settings, stop=None)
    for one, other in zip(records(alone, "step"), records(together, "step"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)


def test_the_plan_knows_student_and_teacher(config):
    student, teacher = read_sizes(config), written_sizes(config)
    assert (student.layers, teacher.layers) == (2, 4)
    assert parameters(student, {}).layers * 2 == parameters(teacher, {}).layers
    built = parts(config)
    assert parameters(student, {}).layers == sum(p.numel() for p in built.encoder.encoder.parameters())
    assert operations(teacher, 100, 64) == 2 * operations(student, 100, 64)


def drop(folder, part):
    path = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if part not in name}, path)


WRONG = {
    "no head": (lambda folder: drop(folder, "cls."), {}, "has no masked-LM head"),
    "other words": (
        lambda folder: (folder / "tokenizer.json").write_text(
            (folder / "tokenizer.json").read_text().replace("w7", "x7")
        ),
        {},
        "another tokenizer than the corpus",
    ),
    "a layer too many": (lambda folder: None, {"layers": [0, 4]}, "distill.layers: 4 does not exist.*layers 0 to 3"),
    "no teacher": (lambda folder: (folder / "config.json").unlink(), {}, "distill.teacher=.*no config.json"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_teacher_that_cannot_teach_is_refused_with_the_reason(config, tmp_path, wrong):
    change, settings, says = WRONG[wrong]
    change(tmp_path / "teacher")
    with pytest.raises(ValueError, match=says) as caught:
        run(student_of(config, tmp_path / "teacher", **settings))
    assert "\n" not in str(caught.value)


def test_a_norm_that_distilbert_does_not_know_is_refused(config, tmp_path):
    bert(tmp_path / "other", config.corpus.folder(), layer_norm_eps=1e-5)
    with pytest.raises(ValueError, match=r"layer_norm_eps=1e-05.*distill\.shape=ernie"):
        student_weights(DistillConfig(teacher=str(tmp_path / "other")))
    student_weights(DistillConfig(teacher=str(tmp_path / "other"), shape="ernie"))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "distill compares masked words alone"),
        (["tasks=[knowledge_masking]", "model.share_layers=true"], "model.share_layers=True contradicts distill"),
        (
            ["tasks=[knowledge_masking]", "model.prior=here", "corpus.tokenizer=here"],
            "model.prior=here contradicts distill",
        ),
        (["tasks=[knowledge_masking]", "distill.weights=[1, -1, 0]"], "distill.weights.1"),
        (["tasks=[knowledge_masking]", "distill.weights=[0, 0, 0]"], "there is nothing to learn"),
        (["tasks=[knowledge_masking]", "distill.weights=[.inf, 1, 1]"], "distill.weights.0"),
        (["tasks=[knowledge_masking]", "distill.temperature=0"], "distill.temperature"),
    ],
)
def test_what_contradicts_distillation_is_refused(overrides, says):
    with pytest.raises(ValueError, match=says) as caught:
        load_config(None, ["distill.teacher=there", *overrides])
    assert "\n" not in str(caught.value)
