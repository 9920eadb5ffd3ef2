import json
import os
import random
import re
from pathlib import Path

import made
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, BertForMaskedLM, BertTokenizer
from typer.testing import CliRunner

from finetune import load_suite, read_results, run_suite
from finetune.declare import declared
from finetune.metrics import METRICS
from finetune.pseudo_likelihood import pseudo_log_likelihoods
from finetune.read import read_split
from finetune.train import read_task
from launch.cli import app

TRAINED = ["single", "pair", "similarity", "tokens", "ranking"]


def suite(data: Path, *kinds: str, **settings) -> dict:
    return {kind: declared(kind, made.task(kind, data, **settings)) for kind in kinds}


@pytest.mark.parametrize("kind", TRAINED)
def test_every_kind_learns_an_easy_set(kind, tmp_path):
    encoder = made.checkpoint(tmp_path / "encoder", "ernie" if kind in ("pair", "ranking") else "bert")
    (result,) = run_suite(suite(tmp_path, kind), encoder, tmp_path, [0], tmp_path / "out", say=lambda line: None)
    assert result.score > result.chance + 0.4 * (1 - result.chance), (result.score, result.chance, result.epochs)
    assert result.split == "test" and result.selected_on == "dev"
    assert result.epochs[result.best_epoch - 1] == max(result.epochs)
    assert METRICS[result.metric](result.labels, result.predictions) == result.score == result.scores[result.metric]
    assert all(new.startswith("classifier.") for new in result.new)


def test_the_same_seed_gives_the_same_scores_and_what_is_finished_is_kept(tmp_path):
    encoder = made.checkpoint(tmp_path / "encoder")
    one = suite(tmp_path, "single", train=64, test=30, epochs=1)
    said = []
    first = run_suite(one, encoder, tmp_path, [0, 1], tmp_path / "one", say=said.append)
    again = run_suite(one, encoder, tmp_path, [1, 0], tmp_path / "two", say=said.append)
    scores = [(result.epochs, result.score, result.predictions) for result in first]
    assert scores == [(result.epochs, result.score, result.predictions) for result in reversed(again)]
    assert sum(line.startswith("new, not from encoder: classifier.bias") for line in said) == 2  # once a call
    before = {path: path.read_bytes() for path in (tmp_path / "one").rglob("*.json")}
    said.clear()
    kept = run_suite(one, encoder, tmp_path, [0, 1, 2], tmp_path / "one", say=said.append)
    assert kept[:2] == first and len(read_results(tmp_path / "one")) == 3
    assert {path: path.read_bytes() for path in before} == before
    assert all("seed 0" not in line and "seed 1" not in line for line in said)


def test_another_declaration_or_other_weights_are_refused(tmp_path):
    encoder = made.checkpoint(tmp_path / "encoder")
    one = suite(tmp_path, "single", train=32, test=20, epochs=1)
    run_suite(one, encoder, tmp_path, [0], tmp_path / "out", say=print)
    other = {"single": one["single"].model_copy(update={"lr": 1e-4})}
    with pytest.raises(ValueError, match=r"seed0.json was made with single.lr=0.003, now it is 0.0001"):
        run_suite(other, encoder, tmp_path, [0], tmp_path / "out")
    made.checkpoint(tmp_path / "encoder", intermediate_size=48)
    with pytest.raises(ValueError, match="was made with other weights"):
        run_suite(one, encoder, tmp_path, [0], tmp_path / "out")


def test_the_best_epoch_is_kept_and_a_saved_model_predicts_the_same(tmp_path):
    encoder = made.checkpoint(tmp_path / "encoder")
    one = suite(tmp_path, "single", epochs=3, test=40)
    (result,) = run_suite(one, encoder, tmp_path, [0], tmp_path / "out", say=print, save=True)
    folder = tmp_path / "out/encoder/single/seed0"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    texts = [json.loads(line)["a"] for line in (tmp_path / "single/test.jsonl").read_text().splitlines()]
    with torch.no_grad():
        found = [model(**tokenizer(text, return_tensors="pt")).logits.argmax().item() for text in texts]
    assert found == result.predictions


def test_rows_are_used_refused_or_left_out(tmp_path):
    lines = [f"good film {n}\t{n % 2}" for n in range(20)]
    lines[3:6] = ["no tab here", "\t1", "no label\t"]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("a\tlabel\n" + "\n".join(lines) + "\n")
    tree = {"kind": "single", "text": ["a"], "files": {"train": "train.tsv", "dev": "dev.tsv"}}
    rows = read_task("own", declared("own", tree | {"limit": {"train": 5}}), tmp_path).splits
    assert rows["train"].counts() == {"rows": 20, "used": 5, "refused": 3, "left_out": 12}
    assert rows["dev"].counts() == {"rows": 20, "used": 17, "refused": 3, "left_out": 0}
    assert [line.removeprefix(str(tmp_path)) for line in rows["dev"].refused] == [
        "/dev.tsv:5: more or fewer fields than the header", "/dev.tsv:6: a is empty", "/dev.tsv:7: no label",
    ]  # fmt: skip


def test_tokens_of_a_string_are_its_characters_and_queries_are_grouped(tmp_path):
    rows = [{"a": "ab c", "label": "O B-X I-X O"}, {"a": ["x", "y"], "label": ["O"]}, {"a": "x", "label": "Z"}]
    made.jsonl(tmp_path / "t.jsonl", rows)
    files = {"train": "t.jsonl", "dev": "t.jsonl"}
    read = read_split("t", declared("t", {"kind": "tokens", "text": ["a"], "files": files}), "train", tmp_path)
    assert read.examples[0].texts == ("a", "b", " ", "c")
    assert [line.partition(": ")[2] for line in read.refused] == ["2 tokens, 1 tags", "tag 'Z' is not O, B-… or I-…"]
    grades = [("q", "x", 0), ("r", "u", 1), ("q", "y", 2), ("r", "v", 1), ("q", "z", -1), ("q", "w", "?")]
    made.jsonl(tmp_path / "r.jsonl", [{"a": a, "b": b, "label": label} for a, b, label in grades])
    files = {"train": "r.jsonl", "dev": "r.jsonl"}
    read = read_split("r", declared("r", {"kind": "ranking", "text": ["a", "b"], "files": files}), "dev", tmp_path)
    assert [(item.texts, item.label) for item in read.examples] == [(("q", "x", "y"), (0.0, 2.0))]
    assert read.counts() == {"rows": 6, "used": 2, "refused": 4, "left_out": 0}


BAD = {
    "unknown key": ({"lable": "x"}, "Did you mean own.label"),
    "unknown split": ({"files": {"trian": "x"}}, "Did you mean own.files.train"),
    "unknown kind": ({"kind": "singel"}, "own.kind"),
    "wrong metric": ({"metric": "pearson"}, "unknown metric of kind single 'pearson'"),
    "columns": ({"text": ["a", "b"]}, "kind single has 1 column"),
    "no range": ({"kind": "similarity", "text": ["a", "b"]}, "needs the range"),
    "no dev": ({"files": {"train": "single/train.jsonl"}}, "needs the split dev"),
    "absolute": ({"files": {"train": "/x.tsv", "dev": "y.tsv"}}, "relative to the data root"),
    "missing file": ({"files": {"train": "no.jsonl", "dev": "no.jsonl"}}, "no.jsonl does not exist"),
    "missing column": ({"text": ["c"]}, r"train.jsonl:1 has no column 'c'. It has: a, label"),
    "unknown class": ({"classes": ["0", "2"]}, r"train.jsonl:\d+ has the class '1'. Known: 0, 2"),
    "not a table": ({"files": {"train": "x.xlsx", "dev": "x.xlsx"}}, "none of .tsv, .csv, .jsonl"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path):
    change, message = BAD[name]
    tree = made.task("single", tmp_path, train=8, test=4) | change
    with pytest.raises(ValueError, match=message) as error:
        read_task("own", declared("own", tree), tmp_path)
    assert "\n" not in str(error.value)


def test_no_data_root_and_bad_checkpoints_are_one_line(tmp_path):
    one = suite(tmp_path, "single", train=8, test=4)
    encoder = made.checkpoint(tmp_path / "encoder")
    with pytest.raises(ValueError, match="Give --data ROOT"):
        run_suite(one, encoder, None, [0], tmp_path / "out")
    with pytest.raises(ValueError, match=r"unknown task 'singel'. Did you mean single"):
        run_suite(one, encoder, tmp_path, [0], tmp_path / "out", ["singel"])
    with pytest.raises(ValueError, match="no such directory"):
        run_suite(one, "./nowhere", tmp_path, [0], tmp_path / "out")
    (tmp_path / "encoder/model.safetensors").rename(tmp_path / "encoder/pytorch_model.bin")
    with pytest.raises(ValueError, match="no safetensors in it"):
        run_suite(one, encoder, tmp_path, [0], tmp_path / "out")


def test_an_encoder_whose_weights_do_not_fit_is_refused(tmp_path):
    encoder = made.checkpoint(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder/config.json").read_text())
    (tmp_path / "encoder/config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="lacks 16 weights of the encoder"):
        run_suite(suite(tmp_path, "single", train=8, test=4), encoder, tmp_path, [0], tmp_path / "out")


def test_a_data_set_of_the_hub_is_read_where_there_is_no_data_root(tmp_path):
    rng = random.Random(1)
    for split in ("train", "validation"):
        made.jsonl(tmp_path / f"set/{split}.jsonl", [line for _ in range(30) for line in made.row("single", rng)])
    hub = {"dataset": str(tmp_path / "set"), "train": "train", "dev": "validation", "text": ["a"]}
    one = {"own": declared("own", {"kind": "single", "text": ["text"], "hub": hub, "epochs": 1})}
    encoder = made.checkpoint(tmp_path / "encoder")
    (result,) = run_suite(one, encoder, None, [0], tmp_path / "out")
    assert result.rows["train"]["used"] == 30 and result.classes == ["0", "1"]
    assert result.split == result.selected_on == "dev"


# Minimal pairs


def pairs_task(folder: Path) -> dict:
    rng = random.Random(3)
    rows = [
        {"good": f"{prefix} good", "bad": f"{prefix} bad", "kind": f"kind {n % 2}"}
        for n in range(12)
        for prefix in [" ".join(rng.choices(made.OTHER, k=4))]
    ]
    made.jsonl(folder / "pairs.jsonl", rows)
    tree = {"kind": "minimal_pairs", "text": ["good", "bad"], "group": "kind", "files": {"test": "pairs.jsonl"}}
    return {"pairs": declared("pairs", tree)}


def with_bias(folder: Path, **bias: float) -> str:
    """A masked language model that looks at nothing, and prefers words by a bias."""
    made.checkpoint(folder, "masked_lm")
    model = BertForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        model.cls.predictions.transform.LayerNorm.weight.zero_()
        model.cls.predictions.transform.LayerNorm.bias.zero_()
        for word, value in bias.items():
            model.cls.predictions.bias[made.VOCAB.index(word)] = value
    model.save_pretrained(folder)
    return str(folder)


def test_minimal_pairs_of_a_uniform_model_are_ties_and_of_one_that_knows_all_right(tmp_path):
    task = pairs_task(tmp_path)
    (tied,) = run_suite(task, with_bias(tmp_path / "uniform"), tmp_path, [0, 1], tmp_path / "out")
    assert tied.score == tied.chance == 0.5 and set(tied.predictions) == {0.5}
    (known,) = run_suite(task, with_bias(tmp_path / "knows", good=3.0), tmp_path, [0], tmp_path / "out")
    assert known.score == 1 and known.groups == {"kind 0": 1, "kind 1": 1}
    (wrong,) = run_suite(task, with_bias(tmp_path / "wrong", bad=3.0), tmp_path, [0], tmp_path / "out")
    assert wrong.score == 0
    assert METRICS["pair_accuracy"](known.labels, known.predictions) == 1


def test_pseudo_log_likelihood_is_the_sum_over_masked_tokens(tmp_path):
    made.checkpoint(tmp_path, "masked_lm")
    model, tokenizer = BertForMaskedLM.from_pretrained(tmp_path).eval(), BertTokenizer.from_pretrained(tmp_path)
    texts = ["the film was good", "bad", "the plot it was"]
    expected = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        total = 0.0
        for place in range(1, ids.shape[1] - 1):
            masked = ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            with torch.no_grad():
                total += model(masked).logits[0, place].log_softmax(-1)[ids[0, place]].item()
        expected.append(total)
    assert pseudo_log_likelihoods(model, tokenizer, texts, 32).tolist() == pytest.approx(expected, abs=1e-5)


def test_minimal_pairs_need_a_masked_lm_head(tmp_path):
    with pytest.raises(ValueError, match="no masked-LM head"):
        run_suite(pairs_task(tmp_path), made.checkpoint(tmp_path / "encoder"), tmp_path, [0], tmp_path / "out")


# Command and documents


def test_the_command_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {kind: made.task(kind, tmp_path / "data", train=32, test=20) for kind in ("single", "pair")}
    Path("suite.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["finetune", "suite.yaml", made.checkpoint(Path("one")), made.checkpoint(Path("two"), "ernie")]
    arguments += ["--data", "data", "--seeds", "2", "--set", "single.epochs=1", "--set", "pair.epochs=1"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "single  seed 1  epoch 1/1  dev accuracy" in done.output and "average" in done.output
    assert len(list(Path("finetuned").glob("*/*/seed?.json"))) == 8
    assert re.search(r"pair .*\d\.\d{3} ± \d\.\d{3}", done.output)


def test_the_example_of_the_documentation_works(tmp_path):
    text = (Path(__file__).parents[2] / "docs/finetuning.md").read_text("utf-8")
    table, example = re.search(r"```tsv\n(.*?)```", text, re.S)[1], re.search(r"```yaml\n(.*?)```", text, re.S)[1]
    (tmp_path / "mine.yaml").write_text(example)
    task = load_suite(tmp_path / "mine.yaml")["reviews"]
    for file in (task.files.train, task.files.dev):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(table)
    encoder = made.checkpoint(tmp_path / "encoder")
    (result,) = run_suite({"reviews": task}, encoder, tmp_path, [0], tmp_path / "out")
    assert result.rows["train"]["refused"] == 0 and result.rows["train"]["used"] > 1


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs/downstream").glob("*.yaml")))
def test_the_suites_that_come_with_it_are_valid(path):
    for task in load_suite(path).values():
        assert task.files or task.hub


DATA = Path(os.environ.get("CUMUL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets, where CUMUL_DATA says")
@pytest.mark.parametrize("name", ["en", "zh"])
def test_rows_of_the_suites_add_up(name):
    for task_name, task in load_suite(Path(__file__).parents[2] / f"configs/downstream/{name}.yaml").items():
        for split, rows in read_task(task_name, task, DATA).splits.items():
            assert rows.used and rows.rows == rows.used + len(rows.refused), (task_name, split)
