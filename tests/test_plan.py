import json

import pytest
from rich.console import Console

from corpus_tools.shards import FORMAT
from pretrain.config import load_config
from pretrain.plan import Sizes, count_classes, human, memory, operations, parameters, plan, read_sizes, stage_tokens
from pretrain.schedule import SCHEDULES, Stage

SIZES = Sizes(vocabulary=300, hidden=64, layers=3, heads=4, intermediate=160, positions=64, types=4, tasks=7)


def test_parameters_are_those_of_the_real_model():
    from transformers import ErnieConfig

    from pretrain.model.model import Model

    shape = ErnieConfig(
        vocab_size=SIZES.vocabulary, hidden_size=SIZES.hidden, num_hidden_layers=SIZES.layers,
        num_attention_heads=SIZES.heads, intermediate_size=SIZES.intermediate, type_vocab_size=SIZES.types,
        max_position_embeddings=SIZES.positions, use_task_id=True, task_type_vocab_size=SIZES.tasks,
    )  # fmt: skip
    classes = {"knowledge_masking": None, "capitalization": ["no", "yes"], "sentence_distance": ["a", "b", "c"]}
    model = Model(shape, classes, seed=0)
    count = parameters(SIZES, {task: labels and len(labels) for task, labels in classes.items()})
    assert count.heads == sum(p.numel() for p in model.heads.parameters())
    idle_rows = (SIZES.tasks - len(classes)) * SIZES.hidden
    assert count.encoder - idle_rows == sum(p.numel() for p in model.encoder.parameters())
    assert count.layers == sum(p.numel() for p in model.encoder.encoder.parameters())


def test_operations_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import ErnieConfig, ErnieModel

    sizes, length, batch = SIZES._replace(hidden=128, intermediate=512), 64, 2
    shape = ErnieConfig(
        vocab_size=300, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=512,
        attn_implementation="eager",
    )  # fmt: skip
    model = ErnieModel(shape, add_pooling_layer=False)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(batch, length, dtype=torch.long)).last_hidden_state.sum().backward()
    counted = counter.get_total_flops()
    assert operations(sizes, batch * length, length) == pytest.approx(counted, rel=0.02)


def test_masked_words_add_the_work_of_their_head():
    without, with_head = operations(SIZES, 1000, 64), operations(SIZES, 1000, 64, predicted=150)
    assert with_head - without == 6 * 64 * (64 + 300) * 150


def test_tokens_are_steps_times_batch_times_length():
    assert stage_tokens(Stage({"a": 3, "b": 4}), batch_size=16, max_length=128) == 7 * 16 * 128


def test_memory_shrinks_with_what_is_shared():
    def of(zero: int, ranks: int, sequences: int = 4):
        return memory(SIZES, 1_000_000, zero, ranks, sequences, 64, 0.15)

    alone = of(0, 1)
    assert (alone.weights, alone.gradients, alone.moments) == (4e6, 4e6, 8e6)
    assert of(0, 8) == alone
    assert of(1, 8).moments == 1e6 and of(1, 8).gradients == 4e6 and of(1, 8).weights == 4.5e6
    assert of(2, 8).gradients == 0.5e6 and of(2, 8).weights == 4.5e6
    assert of(3, 8).gradients == 0.5e6 and of(3, 8).weights == 1e6
    assert of(0, 1, sequences=8).activations == 2 * alone.activations


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_plan_shows_the_whole_budget_of_every_task(kind):
    config = load_config(None, [f"schedule.kind={kind}", "schedule.steps_per_task=1000"])
    budgets = {"knowledge_masking": "7,000"} if kind == "alone" else dict.fromkeys(config.tasks, "1,000")
    console = Console(width=200)
    with console.capture() as captured:
        console.print(plan(config, 2))
    lines = captured.get().splitlines()
    for task, budget in budgets.items():
        (line,) = [line for line in lines if line.startswith(task)]
        assert line.split()[-1] == budget
    (total,) = [line for line in lines if line.startswith("steps ")]
    assert total.split()[-1] == "7,000"
    tokens = human(7000 * config.train.batch_size * config.corpus.max_length)
    (line,) = [line for line in lines if line.startswith("tokens")]
    assert line.rstrip().endswith(tokens)


def printed(config) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(plan(config))
    return captured.get()


def test_classes_of_marked_pairs_are_known_once_the_corpus_is_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = ["knowledge_masking", "discourse_relation"]
    config = load_config(None, [f"tasks=[{','.join(tasks)}]", "corpus.relations=[pairs.tsv]"])
    assert "without discourse_relation: its classes are those of its files" in printed(config)
    assert count_classes(config) == ({"knowledge_masking": None}, ["discourse_relation"])
    labels = {"knowledge_masking": None, "discourse_relation": ["and", "but", "so"]}
    built = {
        "format": FORMAT,
        "tokenizer": {"vocab_size": 400},
        "tasks": {task: {"labels": labels[task]} for task in tasks},
    }
    config.corpus.folder().mkdir(parents=True)
    (config.corpus.folder() / "manifest.json").write_text(json.dumps(built))
    assert count_classes(config) == ({"knowledge_masking": None, "discourse_relation": 3}, [])
    assert "known once" not in printed(config)


def test_prior_weights_bring_their_size(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "vocab_size": 99, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,'
        ' "intermediate_size": 32, "max_position_embeddings": 40, "type_vocab_size": 2}'
    )
    sizes = read_sizes(load_config(None, [f"model.prior={tmp_path}", f"corpus.tokenizer={tmp_path}"]))
    assert sizes == Sizes(99, 8, 2, 2, 32, 40, 4, 7)


def test_an_empty_directory_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"model\.prior=.*no config\.json"):
        read_sizes(load_config(None, [f"model.prior={tmp_path}", f"corpus.tokenizer={tmp_path}"]))


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (12_345, "12.3 k"),
        (999_700, "1.00 M"),
        (585e6, "585 M"),
        (2e18, "2.00 E"),
    ],
)
def test_numbers_have_three_figures_and_a_unit(number, shown):
    assert human(number) == shown
