import math
import re
from collections import Counter
from pathlib import Path

import made
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel
from typer.testing import CliRunner

from finetune import Result, Together, load_suite, load_together, read_results, run_suite, run_together
from finetune.declare import San, declared
from finetune.heads import head_of, listwise, loss, unit
from finetune.metrics import METRICS
from finetune.mixing import Pool, exponent, shares, turns
from finetune.results import differences
from finetune.san import AnswerHead, mean_answer
from finetune.train import prepare, read_task
from launch.cli import app

SAN = {"steps": 3, "dropout": 0.2}
SETTINGS = Together(epochs=3, lr=3e-3, batch_size=16)


def suite(data: Path, *kinds: str, **settings) -> dict:
    return {kind: declared(kind, made.task(kind, data, **settings)) for kind in kinds}


def quiet(line: str) -> None:
    pass


# Mixing

POOLS = [Pool("large", [n % 7 for n in range(90)], 10), Pool("small", [3] * 25, 10), Pool("tiny", [5] * 4, 10)]


def test_shares_are_exact_and_annealing_goes_from_proportional_to_uniform():
    batches = [700, 55, 5]
    assert shares(batches, exponent("proportional", 2, 4)) == batches
    assert shares(batches, exponent("uniform", 0, 4)) == [254, 253, 253]
    annealed = [shares(batches, exponent("annealed", epoch, 4)) for epoch in range(4)]
    assert annealed[0] == batches and annealed[-1] == [254, 253, 253]
    assert all(sum(steps) == 760 and min(steps) > 0 for steps in annealed)
    # p ∝ nᵃ with a = 2/3, 1/3: 700^(2/3) = 78.84, 55^(2/3) = 14.46, 5^(2/3) = 2.92; of 760: 622.8, 114.2, 23.1
    assert annealed[1] == [623, 114, 23]
    assert [row[2] for row in annealed] == sorted(row[2] for row in annealed)


@pytest.mark.parametrize("mixing", ["proportional", "annealed", "uniform"])
def test_epochs_have_their_shares_and_examples_come_pass_after_pass(mixing):
    epochs = 5
    seen = [Counter[int]() for _ in POOLS]
    for epoch in range(epochs):
        steps = turns(POOLS, mixing, 0, epoch, epochs)
        wanted = shares([9, 3, 1], exponent(mixing, epoch, epochs))
        assert [sum(turn.task == task for turn in steps) for task in range(3)] == wanted
        for turn in steps:
            seen[turn.task].update(turn.examples)
            assert len(set(turn.examples)) == len(turn.examples) <= 10
        for pool, counts in zip(POOLS, seen, strict=True):
            times = [counts[example] for example in range(len(pool.sizes))]
            assert max(times) - min(times) <= 1
        if mixing == "proportional":
            assert all(set(counts.values()) == {epoch + 1} for counts in seen)


def test_the_order_is_a_function_of_seed_and_epoch():
    late = turns(POOLS, "annealed", 3, 2, 4)
    for epoch in (0, 1):
        assert turns(POOLS, "annealed", 3, epoch, 4) != late
    assert turns(POOLS, "annealed", 3, 2, 4) == late != turns(POOLS, "annealed", 4, 2, 4)
    steps = [turn.task for turn in turns(POOLS, "proportional", 0, 0, 1)]
    assert steps != sorted(steps)
    assert [turn.examples for turn in turns(POOLS, "proportional", 0, 0, 2)] != [
        turn.examples for turn in turns(POOLS, "proportional", 0, 1, 2)
    ]


def test_batches_hold_examples_of_like_length():
    pool = Pool("one", [n * 37 % 101 for n in range(500)], 10)
    spans = [
        max(pool.sizes[example] for example in turn.examples) - min(pool.sizes[example] for example in turn.examples)
        for turn in turns([pool], "proportional", 0, 0, 1)
    ]
    assert len(spans) == 50 and max(spans) <= 4


# Equations


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_the_answer_network_is_its_equation():
    torch.manual_seed(1)
    head, vectors = AnswerHead(4, 3, San(steps=3, dropout=0.5)).eval(), torch.randn(2, 7, 4)
    parts = torch.tensor([[0, 1, 1, 0, 2, 2, 0], [0, 1, 0, 2, 2, 2, 0]])
    weights = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    expected = []
    for row, part in zip(vectors.numpy(), parts.numpy(), strict=True):
        p, h = row[part == 1], row[part == 2]
        s = softmax(h @ weights["start.weight"][0]) @ h
        answers = []
        for _ in range(3):
            x = softmax(p @ weights["look.weight"] @ s) @ p
            given = weights["cell.weight_ih"] @ x + weights["cell.bias_ih"]
            kept = weights["cell.weight_hh"] @ s + weights["cell.bias_hh"]
            (r_x, z_x, n_x), (r_s, z_s, n_s) = np.split(given, 3), np.split(kept, 3)
            z = sigmoid(z_x + z_s)
            s = (1 - z) * np.tanh(n_x + sigmoid(r_x + r_s) * n_s) + z * s
            features = np.concatenate([s, x, abs(s - x), s * x])
            answers.append(softmax(weights["answer.weight"] @ features + weights["answer.bias"]))
        expected.append(np.mean(answers, axis=0))
    with torch.no_grad():
        found = head(vectors, parts)
    assert np.allclose(found.exp().numpy(), expected, atol=1e-6)


def test_dropped_predictions_are_left_out_of_the_mean_and_in_evaluation_all_count():
    probabilities = torch.tensor([[[0.9, 0.1], [0.3, 0.7]]])
    state = torch.get_rng_state()
    assert mean_answer(probabilities.log(), 0.0).exp().tolist() == [pytest.approx([0.6, 0.4])]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    found = mean_answer(probabilities.log().expand(4000, 2, 2), 0.4).exp()[:, 0]
    counts = Counter(round(value, 4) for value in found.tolist())
    assert set(counts) == {0.9, 0.6, 0.3}  # the first alone, both (or none, which counts as both), the second alone
    assert counts[0.9] / 4000 == pytest.approx(0.24, abs=0.03) and counts[0.6] / 4000 == pytest.approx(0.52, abs=0.03)


def test_ranking_is_a_softmax_over_the_texts_of_each_query():
    scores = torch.tensor([math.log(1), math.log(3), math.log(4), math.log(2), math.log(6)])
    grades = torch.tensor([[0, 1, 0.0], [0, 1, math.nan]])
    assert listwise(scores, grades).tolist() == pytest.approx([math.log(8 / 3), math.log(8 / 6)])
    graded = torch.tensor([[1, 3, 0.0]])  # against the grades' shares
    expected = -(0.25 * math.log(1 / 8) + 0.75 * math.log(3 / 8))
    assert listwise(scores[:3], graded).item() == pytest.approx(expected)


def test_guessing_the_mean_score_of_a_similarity_costs_one(tmp_path):
    (task,) = suite(tmp_path, "similarity", train=4, test=4).values()
    scores = [0.1, 0.4, 0.4, 0.9]
    features = [{"labels": score} for score in scores]
    guessed = loss(task, torch.full((4, 1), np.mean(scores)), torch.tensor(scores)).item()
    assert guessed / unit(task, features) == pytest.approx(1)
    assert unit(task, features[1:3]) == 1, "scores that are all the same have no variance"


# Training


def test_heads_begin_as_they_do_alone(tmp_path):
    tasks = suite(tmp_path, "single", "pair", "tokens", train=8, test=4)
    tasks["pair"] = tasks["pair"].model_copy(update={"san": San()})
    folder = Path(made.checkpoint(tmp_path / "encoder"))
    data = [read_task(name, task, tmp_path) for name, task in tasks.items()]
    prepared = [prepare(one, folder, 0) for one in data]
    alone = [head_of(prepare(one, folder, 0).model) for one in reversed(data)][::-1]
    for one, head in zip(prepared, alone, strict=True):
        assert all(torch.equal(tensor, head[name]) for name, tensor in head_of(one.model).items())


def test_tasks_of_every_kind_are_learnt_together_then_alone(tmp_path):
    tasks = suite(tmp_path, "single", "similarity", "tokens", "ranking", epochs=1)
    tasks["pair"] = declared("pair", made.task("pair", tmp_path, epochs=1, san=SAN))
    encoder = made.checkpoint(tmp_path / "encoder", "ernie")
    said = []
    results = run_together(tasks, SETTINGS, encoder, tmp_path, [0], tmp_path / "out", say=said.append)
    assert [result.name for result in results] == ["encoder+together"] * 5 + ["encoder+together+alone"] * 5
    for result in results:
        assert result.score > result.chance + 0.4 * (1 - result.chance), (result.task, result.score, result.epochs)
        assert METRICS[result.metric](result.labels, result.predictions) == result.score
        assert result.together["together.tasks"] == list(tasks)
    first, then = results[:5], results[5:]
    means = np.mean([result.epochs for result in first], axis=0)
    assert {result.best_epoch for result in first} == {int(means.argmax()) + 1} and len(means) == 3
    assert all(result.new for result in first) and not any(result.new for result in then)
    assert re.match(r"together  seed 0  epoch 1/3  dev mean 0\.\d{3}  single \d", said[0])
    assert not (tmp_path / "out/encoder+together/together/seed0").exists()


def test_finished_pieces_are_kept_and_an_interrupted_run_ends_as_an_unbroken_one(tmp_path):
    tasks = suite(tmp_path, "single", "pair", train=32, test=20, epochs=1)
    encoder = made.checkpoint(tmp_path / "encoder", hidden_dropout_prob=0.1)
    settings = Together(epochs=2, mixing="annealed", lr=1e-3)

    def run(out: str, seeds, say=quiet, **more):
        return run_together(tasks, settings, encoder, tmp_path, seeds, tmp_path / out, say=say, **more)

    unbroken = run("unbroken", [0, 1])

    def stop_at(line: str):
        def say(said: str) -> None:
            if said.startswith(line):
                raise KeyboardInterrupt

        return say

    for line in ("together  seed 0  epoch 2/2", "pair  seed 0", "together  seed 1"):
        with pytest.raises(KeyboardInterrupt):
            run("broken", [0, 1], stop_at(line))
    made_before = {path: path.read_bytes() for path in (tmp_path / "broken").rglob("seed0.json")}
    assert len(made_before) == 4
    said = []
    ended = run("broken", [0, 1], said.append)
    assert {path: path.read_bytes() for path in made_before} == made_before
    assert not any("seed 0" in line for line in said)
    assert "together  seed 1  goes on from step 2/4" in said
    same = {"seconds"}
    assert [r.model_dump(exclude=same) for r in ended] == [r.model_dump(exclude=same) for r in unbroken]
    assert len(read_results(tmp_path / "broken")) == 8
    with pytest.raises(ValueError, match=r'was made with together.mixing="annealed", now it is "uniform"'):
        changed = settings.model_copy(update={"mixing": "uniform"})
        run_together(tasks, changed, encoder, tmp_path, [0], tmp_path / "broken", say=quiet)
    with pytest.raises(ValueError, match=r'was made with together.tasks=\["single", "pair"\], now'):
        more = tasks | suite(tmp_path, "tokens", train=8, test=4)
        run_together(more, settings, encoder, tmp_path, [0], tmp_path / "broken", say=quiet)
    with pytest.raises(ValueError, match=r"pair.lr=0.003, now it is 0.1"):
        changed = tasks | {"pair": tasks["pair"].model_copy(update={"lr": 0.1})}
        run_together(changed, settings, encoder, tmp_path, [0], tmp_path / "broken", say=quiet)


def test_a_saved_shared_encoder_is_a_checkpoint_of_its_own(tmp_path):
    tasks = suite(tmp_path, "single", train=32, test=20, epochs=1)
    tasks["pair"] = declared("pair", made.task("pair", tmp_path, train=32, test=20, epochs=1, san=SAN))
    encoder = made.checkpoint(tmp_path / "encoder")
    run_together(tasks, SETTINGS, encoder, tmp_path, [0], tmp_path / "out", say=quiet, save=True)
    folder = tmp_path / "out/encoder+together/together/seed0"
    assert set(load_file(folder / "heads/single.safetensors")) == {"classifier.weight", "classifier.bias"}
    (again,) = run_suite({"single": tasks["single"]}, str(folder), tmp_path, [0], tmp_path / "other", say=quiet)
    assert again.new == ["classifier.bias", "classifier.weight"]
    alone = tmp_path / "out/encoder+together+alone/pair/seed0"
    assert AutoModel.from_pretrained(alone).config.hidden_size == 32
    assert "answer.weight" in load_file(alone / "san.safetensors")


def test_what_cannot_be_learnt_together_is_refused(tmp_path):
    encoder = made.checkpoint(tmp_path / "encoder")
    one = suite(tmp_path, "single", train=8, test=4)
    with pytest.raises(ValueError, match="two tasks or more that train: single is alone"):
        run_together(one, SETTINGS, encoder, tmp_path, [0], tmp_path / "out")
    pairs = {"kind": "minimal_pairs", "text": ["good", "bad"], "files": {"test": "pairs.jsonl"}}
    with pytest.raises(ValueError, match="zero trains nothing"):
        run_together(one | {"zero": declared("zero", pairs)}, SETTINGS, encoder, tmp_path, [0], tmp_path / "out")


BAD = {
    "unknown key": ("together.mixin=uniform", r"Did you mean together.mixing"),
    "unknown mixing": ("together.mixing=sqrt", r"together.mixing: .* \(got 'sqrt'\)"),
    "one epoch": ("together.epochs=1", r"together: mixing=annealed goes from epoch to epoch"),
    "san of one text": ("single.san.steps=5", r"single: san is a head for kind pair"),
    "unknown key of san": ("pair.san.step=5", r"Did you mean pair.san.steps"),
    "no step": ("pair.san.steps=0", r"pair.san.steps: .* \(got 0\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_one_line(name, tmp_path):
    tree = {kind: made.task(kind, tmp_path, train=4, test=4) for kind in ("single", "pair")}
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(tree | {"together": {"mixing": "annealed"}}, sort_keys=False))
    assert load_together(path).mixing == "annealed" and list(load_suite(path)) == ["single", "pair"]
    override, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        load_suite(path, [override])
        load_together(path, [override])
    assert "\n" not in str(error.value)


# Command and documents


def test_the_tutorial_of_the_documentation_works(tmp_path):
    text = (Path(__file__).parents[2] / "docs/finetuning.md").read_text("utf-8").split("## Several tasks at once")[1]
    (tmp_path / "shop.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    tables = dict(re.findall(r"`data/(\S+)/train\.tsv`:\n\n```tsv\n(.*?)```", text, re.S))
    tasks, settings = load_suite(tmp_path / "shop.yaml"), load_together(tmp_path / "shop.yaml")
    assert set(tables) == set(tasks) and tasks["answers"].san and settings.mixing == "annealed"
    for name, table in tables.items():
        (tmp_path / name).mkdir()
        for file in (tasks[name].files.train, tasks[name].files.dev):
            (tmp_path / file).write_text(table)
    encoder = made.checkpoint(tmp_path / "encoder")
    results = run_together(tasks, settings, encoder, tmp_path, [0], tmp_path / "out", say=quiet)
    assert len(results) == 6 and not any(rows["refused"] for result in results for rows in result.rows.values())


def test_the_command_reports_both_steps_beside_one_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {kind: made.task(kind, tmp_path / "data", train=32, test=20, epochs=1) for kind in ("single", "pair")}
    Path("suite.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["finetune", "suite.yaml", made.checkpoint(Path("one")), "--data", "data", "--seeds", "2"]
    more = ["--together", "--set", "together.epochs=1"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "minus" not in done.output
    done = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert re.search(r"average( .*\d\.\d{3}){4}", done.output)
    assert re.search(r"minus one, paired by seed.* \+together .* \+alone .*single", done.output, re.S)
    assert re.search(r"pair +│ +[+-]0\.\d{3} ± \d\.\d{3} │ +[+-]0\.\d{3} ± \d\.\d{3} │\n", done.output)


def test_differences_are_paired_by_seed():
    def result(name: str, task: str, seed: int, score: float) -> Result:
        empty = {
            "kind": "single", "metric": "accuracy", "checkpoint": name, "scores": {}, "chance": 0.5, "split": "dev",
            "selected_on": "dev", "epochs": [], "best_epoch": 1, "seconds": 0, "classes": [], "labels": [],
            "predictions": [], "rows": {}, "new": [], "weights": "", "declaration": {},
        }  # fmt: skip
        return Result(name=name, task=task, seed=seed, score=score, **empty)

    scores = {"a": ([0.5, 0.9], [0.5, 0.5]), "a+together": ([0.6, 0.98], [0.4, 0.4, 0.4])}
    found = [
        result(name, task, seed, score)
        for name, of in scores.items()
        for task, its in zip(("x", "y"), of, strict=True)
        for seed, score in enumerate(its)
    ]
    shown = differences(found, "a")
    cells = dict(zip(shown.columns[0]._cells, shown.columns[1]._cells, strict=True))
    # x: 0.10 and 0.08, so mean 0.09 ± 12.706 · 0.01; y: −0.1 twice; their averages by seed: 0 and −0.01
    assert cells == {"x": "+0.090 ± 0.127", "y": "-0.100 ± 0.000", "average": "-0.005 ± 0.064"}
