from pathlib import Path

import pytest
import yaml

from pretrain.config import Config, dump_config, load_config
from pretrain.run import claim_folder


def test_yaml_overrides_defaults_and_the_command_line_overrides_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {lr: 1e-3, clip: 0.5}\n")
    config = load_config(path, ["train.clip=2", "corpus.sources=[a.txt, b.txt]", "model.prior="])
    assert (config.train.lr, config.train.clip, config.model.prior) == (1e-3, 2.0, None)
    assert config.corpus.sources == ["a.txt", "b.txt"]
    assert config.train.batch_size == Config().train.batch_size


@pytest.mark.parametrize("word", ["off", "online", "offline"])
def test_words_that_yaml_takes_for_truth_values_are_words(word):
    assert load_config(None, [f"log.wandb={word}"]).log.wandb == word


@pytest.mark.parametrize(("word", "value"), [("true", True), ("no", False)])
def test_truth_values_are_understood_where_they_are_asked_for(word, value):
    tasks = "tasks=[knowledge_masking]"
    assert load_config(None, [tasks, f"corpus.lowercase={word}"]).corpus.lowercase is value


def test_the_dumped_configuration_is_read_back_equal(tmp_path):
    config = load_config(
        None,
        [
            "name=no",
            "log.wandb=off",
            "train.betas=[0.8, 0.9]",
            "model.intermediate=100",
            "corpus.mask_levels={basic: 0.5, entity: 0.5}",
        ],
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert Config.model_validate(yaml.safe_load(path.read_text())) == config


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("schedule.step_per_task=10", "'schedule.step_per_task'. Did you mean schedule.steps_per_task?"),
        ("trian.lr=1", "'trian'. Did you mean train?"),
        ("tasks=[knowledge_maskin]", "'knowledge_maskin'. Did you mean knowledge_masking?"),
        ("schedule.kind=sequental", "'sequental'. Did you mean sequential?"),
        ("train.lr=fast", "train.lr: Input should be a valid number, unable to parse string as a number (got 'fast')"),
        ("train.batch_size=0", "train.batch_size: Input should be greater than or equal to 1 (got 0)"),
        ("train.decay=cosine", "train.decay: Input should be 'noam' or 'linear' (got 'cosine')"),
        ("train=3", "train is a section"),
        ("name.first=x", "name: Input should be a valid string"),
        ("train.lr", "not section.key=value"),
        ("tasks=[a", "'[a' is not a YAML value"),
        ("name=../elsewhere", "name: String should match pattern"),
        ("tasks=[token_document, token_document]", "each task once"),
        ("model.hidden=17", "hidden=17 cannot be cut into heads=4"),
        ("corpus.language=zh", "task capitalization does not exist in language 'zh'"),
        ("corpus.lowercase=false", "needs an uncased tokenizer"),
        ("corpus.mask_levels=phase", "corpus.mask_levels: choose mixed, phases, or shares"),
        ("corpus.mask_levels={word: 1}", "corpus.mask_levels: unknown level 'word'. Known: basic, phrase, entity."),
        ("corpus.mask_levels={basic: 0.5, phrase: 0.4}", "the shares of basic, phrase add up to 0.9, not to 1."),
        ("corpus.mask_levels={basic: .nan}", "basic=nan is no share"),
        ("train.companions=[sentence_distance]", "sentence_distance is a sentence-level task"),
        ("train.growth={4: {steps: 10}}", "train.growth: stage 4 does not exist: this schedule has stages 1 to 3."),
        ("train.growth={1: {steps: 10, batch_size: 5}}", "batches of 5, of which train.batch_size=32 is no multiple"),
        ("train.growth={1: {steps: 10, max_length: 900}}", "sequences of 900 tokens, corpus.max_length is 128"),
        ("train.growth={1: {step: 10}}", "train.growth.1.steps"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(override, says):
    with pytest.raises(ValueError) as caught:
        load_config(None, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [1", b"- a\n- b\n", b"name: \xff\n"])
def test_a_file_that_is_no_configuration_is_named(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.yaml") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"nowhere\.yaml"):
        load_config(Path("nowhere.yaml"))


def test_stages_add_families_or_single_tasks():
    families = Config().groups()
    assert [len(group) for group in families] == [3, 2, 2]
    assert [task for group in families for task in group] == Config().tasks
    assert load_config(None, ["schedule.over=tasks"]).groups() == [[task] for task in Config().tasks]


def test_a_setting_that_changed_in_the_middle_of_a_run_is_named_with_both_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim_folder(load_config(None, ["name=run"]))
    Path("runs/run/stage1").mkdir()
    claim_folder(load_config(None, ["name=run", "log.every=3", "corpus.executor=ray"]))
    with pytest.raises(ValueError, match=r"corpus.mask_levels was 'mixed' .* is \{'basic': 1.0\} now"):
        claim_folder(load_config(None, ["name=run", "corpus.mask_levels={basic: 1.0}"]))


def test_a_setting_that_did_not_exist_when_a_run_began_had_its_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim_folder(load_config(None, ["name=run"]))
    Path("runs/run/stage1").mkdir()
    path = Path("runs/run/config.yaml")
    tree = yaml.safe_load(path.read_text())
    del tree["model"]["share_layers"], tree["distill"]
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"model.share_layers was False .* is True now"):
        claim_folder(load_config(None, ["name=run", "model.share_layers=true"]))
    claim_folder(load_config(None, ["name=run"]))
