"""What every kind of sharing promises: its equation, a neutral start, and that what is another's stays as it is."""

import re
from math import log

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import ErnieConfig

from pretrain.config import Config, SharingConfig
from pretrain.data.batch import Batch, Example, Target, pack
from pretrain.model.model import TASK_IDS, Model
from pretrain.plan import plan
from pretrain.sharing.build import build_sharing, read_gates
from pretrain.sharing.inside import cue_of
from pretrain.sharing.owners import owner_of
from pretrain.sharing.parts import Block, Gate
from pretrain.sharing.penalty import joint_feature, low_rank, mean, stacks
from pretrain.sharing.size import shared_parameters, shared_work
from pretrain.tasks import TASKS, families_of
from pretrain.world import join

WORD, STRUCTURE, SEMANTIC = "capitalization", "sentence_distance", "ir_relevance"
THREE = [WORD, STRUCTURE, SEMANTIC]
USES = {"semantic-aware": ["word-aware", "structure-aware"], "structure-aware": ["word-aware"]}
KINDS = {
    "asymmetric": {"kind": "asymmetric", "uses": USES},
    "customized": {"kind": "customized", "width": 5},
    "omoe": {"kind": "omoe", "experts": 3},
    "mmoe": {"kind": "mmoe"},
    "cgc": {"kind": "cgc", "task_experts": 2, "shared_experts": 3},
    "cross_stitch": {"kind": "cross_stitch", "levels": 3},
    "cross_stitch per channel": {"kind": "cross_stitch", "per_channel": True},
    "ml_mmoe": {"kind": "ml_mmoe", "experts": 2},
    "ple": {"kind": "ple", "task_experts": 1, "shared_experts": 3, "levels": 3},
    "ple, more of its own": {"kind": "ple", "task_experts": 2, "shared_experts": 1},
}
INSIDE = {
    "omoe inside": {"kind": "omoe", "place": "inside", "layers": 2},
    "mmoe inside": {"kind": "mmoe", "place": "inside"},
    "ml_mmoe inside": {"kind": "ml_mmoe", "place": "inside", "layers": 2},
    "cgc inside": {"kind": "cgc", "place": "inside", "layers": 2, "shared_experts": 2},
    "ple inside": {"kind": "ple", "place": "inside", "layers": 2, "shared_experts": 2},
    "ple inside, three layers": {"kind": "ple", "place": "inside", "layers": 3, "task_experts": 2},
}


def shape(hidden: int) -> ErnieConfig:
    return ErnieConfig(
        vocab_size=100, hidden_size=hidden, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, type_vocab_size=4, use_task_id=True, task_type_vocab_size=7,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def build(settings: dict, hidden: int = 8, tasks=tuple(THREE), seed: int = 0) -> torch.nn.Module:
    return build_sharing(SharingConfig.model_validate(settings), tasks, shape(hidden), seed)


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    """As after some training: nothing is neutral."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module


# Equations, by hand: an expert whose matrices are zero adds its last bias, so E(x) = x + c


def adds(block: Block, *constant: float) -> None:
    block.inner.weight.data.zero_()
    block.outer.bias.data = torch.tensor(constant).float()


def shares(gate: Gate, *wanted: float) -> None:
    """These shares for every state whose first element is 1 (the gate is linear and has no bias)."""
    gate.weight.data = torch.tensor([[log(share), 0.0] for share in wanted])


X = torch.tensor([[1.0, 0.0]])


def assert_is(found: Tensor, *wanted: float) -> None:
    torch.testing.assert_close(found, torch.tensor([wanted]).float(), atol=1e-5, rtol=0)


def test_omoe_mixes_the_experts_by_one_gate():
    module = build({"kind": "omoe", "experts": 2}, 2)
    adds(module.experts[0], 4, 0)
    adds(module.experts[1], 0, 8)
    shares(module.gate, 0.75, 0.25)
    assert_is(module(WORD, X), 1 + 3, 2)
    assert_is(module(STRUCTURE, X), 1 + 3, 2)


def test_mmoe_mixes_them_by_a_gate_per_task():
    module = build({"kind": "mmoe", "experts": 2}, 2)
    adds(module.experts[0], 4, 0)
    adds(module.experts[1], 0, 8)
    shares(module.gates[WORD], 0.75, 0.25)
    shares(module.gates[STRUCTURE], 0.25, 0.75)
    assert_is(module(WORD, X), 1 + 3, 2)
    assert_is(module(STRUCTURE, X), 1 + 1, 6)


def test_cgc_mixes_the_tasks_own_and_the_shared_experts():
    module = build({"kind": "cgc", "task_experts": 1, "shared_experts": 2}, 2)
    adds(module.own[WORD][0], 4, 0)
    adds(module.own[STRUCTURE][0], -4, 0)
    adds(module.shared[0], 0, 8)
    adds(module.shared[1], 0, 40)
    shares(module.gates[WORD], 0.5, 0.25, 0.25)
    shares(module.gates[STRUCTURE], 0.25, 0.5, 0.25)
    assert_is(module(WORD, X), 1 + 2, 2 + 10)
    assert_is(module(STRUCTURE, X), 1 - 1, 4 + 10)


def test_ml_mmoe_gives_each_level_what_the_task_got_from_the_one_below():
    module = build({"kind": "ml_mmoe", "experts": 2, "levels": 2}, 2)
    for level in module.levels:
        adds(level.experts[0], 0, 4)
        adds(level.experts[1], 0, 8)
        shares(level.gates[WORD], 0.5, 0.5)
        shares(level.gates[STRUCTURE], 0.25, 0.75)
    module.levels[1].gates[WORD].weight.data = torch.tensor([[0, log(3) / 6], [0, 0]])  # reads the 6 of level 1
    assert_is(module(WORD, X), 1, 6 + 0.75 * 4 + 0.25 * 8)
    assert_is(module(STRUCTURE, X), 1, 7 + 7)


def test_ple_has_a_shared_stream_that_reads_all_experts():
    module = build({"kind": "ple", "task_experts": 1, "shared_experts": 1, "levels": 2}, 2, (WORD, STRUCTURE))
    for level in module.levels:
        adds(level.own[WORD][0], 0, 4)
        adds(level.own[STRUCTURE][0], 0, 8)
        adds(level.shared[0], 0, 16)
        shares(level.gates[WORD], 0.75, 0.25)
        shares(level.gates[STRUCTURE], 0.5, 0.5)
    shares(module.shared_gates[0], 0.25, 0.25, 0.5)
    word, structure, shared = 0.75 * 4 + 0.25 * 16, 0.5 * 8 + 0.5 * 16, 0.25 * 4 + 0.25 * 8 + 0.5 * 16
    assert_is(module(WORD, X), 1, 0.75 * (word + 4) + 0.25 * (shared + 16))
    assert_is(module(STRUCTURE, X), 1, 0.5 * (structure + 8) + 0.5 * (shared + 16))


def test_asymmetric_reads_its_own_bottom_and_those_that_it_uses():
    module = build({"kind": "asymmetric", "uses": {"structure-aware": ["word-aware"]}}, 2)
    adds(module.bottoms["word-aware"], 4, 0)
    adds(module.bottoms["structure-aware"], 0, 8)
    assert_is(module(WORD, X), 1 + 4, 0)
    assert_is(module(STRUCTURE, X), 1 + 2, 4)  # their average
    module.joins["structure-aware"].weight.data = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert_is(module(STRUCTURE, X), 8, 5)  # of [1, 8; 5, 0]
    assert_is(module(SEMANTIC, X), 1, 0)


def test_customized_reads_a_shared_bottom_and_its_own():
    module = build({"kind": "customized"}, 2)
    adds(module.shared, 4, 0)
    adds(module.bottoms["word-aware"], 0, 8)
    assert_is(module(WORD, X), 1 + 2, 4)
    assert_is(module(STRUCTURE, X), 1 + 2, 0)


def test_cross_stitch_mixes_the_families_after_every_level():
    module = build({"kind": "cross_stitch", "levels": 2}, 2, (WORD, STRUCTURE))
    for level in module.levels:
        adds(level.bottoms["word-aware"], 0, 4)
        adds(level.bottoms["structure-aware"], 0, 8)
    word, structure = 0.9 * 4 + 0.1 * 8, 0.1 * 4 + 0.9 * 8
    assert_is(module(WORD, X), 1, 0.9 * (word + 4) + 0.1 * (structure + 8))
    assert_is(module(STRUCTURE, X), 1, 0.1 * (word + 4) + 0.9 * (structure + 8))


def test_cross_stitch_may_have_a_row_for_every_channel():
    module = build({"kind": "cross_stitch", "levels": 1, "per_channel": True}, 2, (WORD, STRUCTURE))
    (level,) = module.levels
    adds(level.bottoms["word-aware"], 4, 4)
    adds(level.bottoms["structure-aware"], 8, 8)
    level.rows["word-aware"].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert_is(module(WORD, X), 1 + 4, 8)


def test_rows_of_cross_stitch_sum_to_one_with_any_number_of_families():
    for tasks in (THREE, THREE[:2]):
        for level in build({"kind": "cross_stitch"}, tasks=tasks).levels:
            for row in level.rows.values():
                assert row.weight.sum().item() == pytest.approx(1) and row.weight.max().item() == pytest.approx(0.9)
                assert row.weight.shape == (1, len(families_of(tasks)))


# What holds for all kinds


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_states_pass_unchanged(kind):
    module, states = build(KINDS[kind]), torch.randn(5, 8)
    for task in THREE:
        torch.testing.assert_close(module(task, states), states, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_parameter_is_without_a_gradient(kind):
    module = stirred(build(KINDS[kind]))
    for task in THREE:
        module(task, torch.randn(5, 8)).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_leaves_alone_what_belongs_to_others_yet_its_gradient_passes_through(kind):
    module, weights = stirred(build(KINDS[kind])), torch.randn(5, 8)
    states = torch.randn(5, 8, requires_grad=True)
    for task in THREE:
        module.zero_grad()
        (gradient,) = torch.autograd.grad((module(task, states) * weights).sum(), states, retain_graph=True)
        (module(task, states) * weights).sum().backward()
        learning = {owner_of(name) for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
        assert learning <= {None, task, TASKS[task].family.value} and learning
        step = torch.randn(5, 8)
        with torch.no_grad():
            ahead, behind = (module.double()(task, states.double() + sign * 1e-5 * step) for sign in (1, -1))
            module.float()
        measured = ((ahead - behind) * weights).sum() / 2e-5
        assert (gradient * step).sum().item() == pytest.approx(measured.item(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_states_result_does_not_depend_on_the_others(kind):
    module, states = stirred(build(KINDS[kind])), torch.randn(5, 8)
    together = module(WORD, states)
    torch.testing.assert_close(torch.cat([module(WORD, state[None]) for state in states]), together)
    assert len(module(WORD, states[:0])) == 0


@pytest.mark.parametrize("kind", ["cgc", "ple", "mmoe"])
def test_initial_values_are_addressed_by_seed_and_name(kind):
    many, few = (dict(build(KINDS[kind], tasks=tasks).named_parameters()) for tasks in (THREE, THREE[1:]))
    same = [name for name, weight in few.items() if many[name].shape == weight.shape]
    assert any(STRUCTURE in name for name in same)
    assert all(torch.equal(many[name], few[name]) for name in same)
    other = dict(build(KINDS[kind], seed=1).named_parameters())
    assert not any(torch.equal(many[name], other[name]) for name in many if name.endswith("inner.weight"))


@pytest.mark.parametrize("kind", KINDS | INSIDE)
def test_the_planned_size_is_the_real_one(kind):
    settings = SharingConfig.model_validate((KINDS | INSIDE)[kind])
    module = build_sharing(settings, THREE, shape(8), 0)
    assert shared_parameters(settings, THREE, 8) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_planned_work_is_at_most_that_which_torch_counts_for_the_dearest_task(kind):
    """At most: what rests has no gradient of its own."""
    settings, states = SharingConfig.model_validate(KINDS[kind]), torch.randn(50, 64, requires_grad=True)
    module, counted = build_sharing(settings, THREE, shape(64), 0), []
    for task in THREE:
        with FlopCounterMode(display=False) as counter:
            module(task, states).sum().backward()
        counted.append(counter.get_total_flops())
    planned = 6 * shared_work(settings, THREE, 64) * 50
    assert 0.7 * planned < max(counted) < 1.06 * planned


def test_the_plan_shows_what_sharing_adds():
    def planned(**sharing) -> str:
        console = Console(width=200)
        with console.capture() as captured:
            console.print(plan(Config.model_validate({"sharing": sharing})))
        return captured.get()

    def operations(text: str) -> float:
        number, unit = re.search(r"FLOP, at most.* ([\d.]+) (\w)$", text, re.M).groups()
        return float(number) * {"P": 1, "E": 1000}[unit]

    assert "ple on top of it" in planned(kind="ple")
    hard, top, inside, streams = (
        operations(planned(**settings))
        for settings in (
            {"kind": "hard"},
            {"kind": "mmoe"},
            {"kind": "mmoe", "place": "inside"},
            {"kind": "ple", "place": "inside", "layers": 3},
        )
    )
    assert hard < top and hard < inside < streams


# Gates


def test_gates_tell_shares_and_entropy_per_task_and_level():
    module = build({"kind": "ml_mmoe", "experts": 2}, 2).train()
    shares(module.levels[0].gates[WORD], 0.75, 0.25)
    for _ in range(2):
        module(WORD, X.repeat(3, 1))
    world = join()
    first, second = read_gates(module, world)[WORD]
    assert first["load"] == pytest.approx([0.75, 0.25]) and second["load"] == pytest.approx([0.5, 0.5])
    assert first["entropy"] == pytest.approx(-0.75 * log(0.75) - 0.25 * log(0.25))
    assert second["entropy"] == pytest.approx(log(2))
    assert read_gates(module, world) == {}
    module.eval()(WORD, X)
    assert read_gates(module, world) == {}


def test_a_gate_leaves_out_experts_in_training_and_the_others_share_what_they_had():
    module = build({"kind": "mmoe", "experts": 2, "gate_dropout": 0.4}, 2).train()
    gate = module.gates[WORD]
    shares(gate, 0.75, 0.25)
    torch.manual_seed(0)
    found = gate(X.repeat(4000, 1), WORD)
    counts = {first: (found[:, 0] - first).abs().lt(1e-6).double().mean().item() for first in (1.0, 0.75, 0.0)}
    # the second is left out; both stay, or none would; the first is left out
    assert counts == pytest.approx({1.0: 0.24, 0.75: 0.52, 0.0: 0.24}, abs=0.03)
    torch.testing.assert_close(found.sum(1), torch.ones(4000))
    assert read_gates(module, join())[WORD][0]["load"] == pytest.approx([0.75, 0.25])
    state = torch.get_rng_state()
    assert_is(gate.eval()(X), 0.75, 0.25)
    assert torch.equal(torch.get_rng_state(), state)


# Inside the encoder


def example(length: int, seed: int, where=(0,), task: str = STRUCTURE) -> Example:
    rng = np.random.default_rng(seed)
    target = Target(np.array(where), np.zeros(len(where), np.int64))
    return Example(rng.integers(5, 100, length), rng.integers(0, 2, length), {task: target})


def test_inside_a_sentence_is_gated_by_its_cls_and_words_by_themselves():
    batch = pack(STRUCTURE, [example(3, 0), example(2, 1)])
    states = torch.arange(5.0)[None, :, None]
    assert cue_of(STRUCTURE, states, batch.layout).flatten().tolist() == [0, 0, 0, 3, 3]
    assert cue_of(WORD, states, batch.layout) is states


LABELS = {"knowledge_masking": None, WORD: ["no", "yes"], STRUCTURE: ["a", "b", "c"], SEMANTIC: ["a", "b", "c"]}


def model_with(settings: dict) -> Model:
    sharing = SharingConfig.model_validate(settings)
    return Model(shape(8), LABELS, 0, build_sharing(sharing, list(LABELS), shape(8), 0), sharing.penalty)


@pytest.mark.parametrize("kind", KINDS | INSIDE)
def test_a_model_begins_as_the_one_with_hard_sharing(kind):
    hard, model = Model(shape(8), LABELS, 0), model_with((KINDS | INSIDE)[kind])
    assert not any(name.startswith("sharing.") for name in hard.state_dict())
    for task, where in ((STRUCTURE, (0,)), (WORD, (1, 4))):
        batch = pack(task, [example(9, 0, where, task), example(6, 1, where, task)])
        assert model(batch)[task].item() == pytest.approx(hard(batch)[task].item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS | INSIDE)
def test_in_bf16_the_loss_is_nearly_the_same(kind):
    model = model_with((KINDS | INSIDE)[kind])
    stirred(model.sharing)
    batch = pack(WORD, [example(9, 0, (1, 4), WORD), example(6, 1, (1, 4), WORD)])
    exact = model(batch)[WORD].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)[WORD]
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def embedded(model: Model, batch: Batch) -> Tensor:
    """What enters the first layer, (1, slots, hidden)."""
    ids = batch.ids[None]
    return model.encoder.embeddings(
        input_ids=ids,
        token_type_ids=batch.types[None],
        position_ids=batch.positions[None],
        task_type_ids=torch.full_like(ids, TASK_IDS[batch.task]),
    )


@pytest.mark.parametrize("kind", ["omoe inside", "mmoe inside", "ml_mmoe inside", "cgc inside"])
def test_inside_experts_are_mixed_in_the_last_layers(kind):
    """The equation, layer by layer, with all slots read."""
    model = model_with(INSIDE[kind]).eval()
    stirred(model.sharing)
    batch = pack(WORD, [example(9, 0, range(9), WORD)])
    with torch.no_grad():
        found = model.encode(batch)
        hidden = embedded(model, batch)
        model.encoder.set_attn_implementation("eager")
        plain = len(model.encoder.encoder.layer) - len(model.sharing.layers)
        for number, layer in enumerate(model.encoder.encoder.layer):
            attended = layer.attention(hidden)[0]
            feed_forward = layer.output.dense(layer.intermediate(attended))
            added = attended if number < plain else model.sharing.layers[number - plain](WORD, attended)
            hidden = layer.output.LayerNorm(feed_forward + added)
    torch.testing.assert_close(found, hidden[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["ple inside", "ple inside, three layers"])
@pytest.mark.parametrize("task", [WORD, STRUCTURE])
def test_inside_ple_has_a_stream_for_every_task_and_a_shared_one(kind, task):
    """The equation, layer by layer and stream by stream, for one instance with all slots read."""
    model = model_with(INSIDE[kind]).eval()
    stirred(model)
    layers = model.sharing.layers
    batch = pack(task, [example(9, 0, task=task)]).reading_all()
    with torch.no_grad():
        found = model.encode(batch)
        hidden = embedded(model, batch)
        model.encoder.set_attn_implementation("eager")
        plain = len(model.layers) - len(layers)
        for layer in model.layers[:plain]:
            hidden = layer(hidden)
        streams = dict.fromkeys([*LABELS, "shared"], hidden)
        for number, layer in enumerate(model.layers[plain:]):
            attended = {name: layer.attention(stream)[0] for name, stream in streams.items()}
            cues = attended if task == WORD else {name: states[:, :1] for name, states in attended.items()}
            own = {name: [expert(attended[name]) for expert in layers[number].own[name]] for name in LABELS}
            common = [expert(attended["shared"]) for expert in layers[number].shared]
            experts = {name: [*own[name], *common] for name in LABELS}
            experts["shared"] = [*(output for outputs in own.values() for output in outputs), *common]
            gates = {name: layers[number].gates[name].weight for name in LABELS}
            if number < len(layers) - 1:
                gates["shared"] = model.sharing.shared_gates[number].weight
            streams = {}
            for name, gate in gates.items():
                weighed = (cues[name] @ gate.T).softmax(-1)
                residual = sum(weighed[..., n : n + 1] * output for n, output in enumerate(experts[name]))
                feed_forward = layer.output.dense(layer.intermediate(attended[name]))
                streams[name] = layer.output.LayerNorm(feed_forward + residual)
    torch.testing.assert_close(found, streams[task][0], atol=1e-5, rtol=0)


def batches_of_all_tasks() -> list[Batch]:
    where = {WORD: (1, 4), "knowledge_masking": (1, 2)}
    return [
        pack(task, [example(9, 0, where.get(task, (0,)), task), example(6, 1, where.get(task, (0,)), task)])
        for task in LABELS
    ]


@pytest.mark.parametrize("kind", INSIDE)
def test_inside_no_parameter_is_without_a_gradient(kind):
    model = stirred(model_with(INSIDE[kind]))
    for batch in batches_of_all_tasks():
        model(batch)[batch.task].backward()
    names = [name for name, p in model.sharing.named_parameters() if p.grad is None or not p.grad.any()]
    assert names == []


@pytest.mark.parametrize("kind", INSIDE)
def test_inside_a_loss_leaves_alone_what_belongs_to_others_yet_its_gradient_passes_through(kind):
    model = stirred(model_with(INSIDE[kind])).double()
    words = model.encoder.embeddings.word_embeddings.weight
    step = torch.randn_like(words)
    for batch in batches_of_all_tasks():
        model.zero_grad()
        model.predict(batch)[batch.task].square().sum().backward()
        learning = {owner_of(name) for name, p in model.sharing.named_parameters() if p.grad is not None}
        assert learning <= {None, batch.task} and learning
        with torch.no_grad():
            words += 1e-6 * step
            ahead = model.predict(batch)[batch.task].square().sum().item()
            words -= 2e-6 * step
            behind = model.predict(batch)[batch.task].square().sum().item()
            words += 1e-6 * step
        measured = (ahead - behind) / 2e-6
        assert (words.grad * step).sum().item() == pytest.approx(measured, rel=1e-3, abs=1e-5)


def test_inside_ple_computes_no_stream_that_nobody_reads():
    """Attention sees one stream before the experts, all in the middle, and the task's and the shared one at last."""
    model, batch = model_with(INSIDE["ple inside, three layers"]), batches_of_all_tasks()[0]
    seen = {}
    for number, layer in enumerate(model.layers):
        for name, module in (("attention", layer.attention.output), ("forward", layer.output)):
            module.register_forward_hook(
                lambda _, __, found, key=(number, name): seen.setdefault(key, []).append(tuple(found.shape[:2]))
            )
    model(batch)
    slots, reads, streams = len(batch.ids), len(batch.read), len(LABELS) + 1
    assert seen == {
        (0, "attention"): [(1, slots)],
        (0, "forward"): [(streams, slots)],
        (1, "attention"): [(1, slots)] * streams,
        (1, "forward"): [(2, slots)],
        (2, "attention"): [(1, reads)] * 2,
        (2, "forward"): [(1, reads)],
    }


@pytest.mark.parametrize("kind", INSIDE)
def test_inside_any_attention_gives_the_same(kind):
    model = stirred(model_with(INSIDE[kind])).eval()
    for batch in batches_of_all_tasks():
        found = []
        for attention in ("one_by_one", "in_rows"):
            model.encoder.set_attn_implementation(attention)
            found.append(model.predict(batch)[batch.task])
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", INSIDE)
def test_inside_an_instance_does_not_touch_the_others(kind):
    model = model_with(INSIDE[kind]).eval()
    stirred(model.sharing)
    batches = [pack(STRUCTURE, [example(9, 0), example(7, seed)]) for seed in (1, 2)]
    (one, changed), (other, again) = (model.predict(batch)[STRUCTURE] for batch in batches)
    assert torch.equal(one, other) and not torch.equal(changed, again)


# Regularised sharing


def test_penalties_by_hand():
    stack = torch.tensor([[[1.0, 0.0]], [[3.0, 4.0]]])  # two tasks, 1 × 2
    assert mean(stack).item() == pytest.approx(2 * (1 + 4))
    assert joint_feature(stack).item() == pytest.approx(10**0.5 + 4)
    assert low_rank(stack).item() == pytest.approx(torch.linalg.svdvals(stack[:, 0]).sum().item())
    many = torch.randn(5, 6, 7)
    assert low_rank(many).item() == pytest.approx(torch.linalg.svdvals(many.flatten(1)).sum().item(), rel=1e-4)


@pytest.mark.parametrize("penalty", [mean, joint_feature, low_rank])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_penalties_and_their_gradients_are_finite_where_all_tasks_are_equal(penalty, value):
    stack = (value * torch.randn(4, 8).repeat(3, 1, 1)).requires_grad_()
    loss = penalty(stack)
    loss.backward()
    assert loss.isfinite() and stack.grad.isfinite().all()
    torch.testing.assert_close(stack.grad[0], stack.grad[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["asymmetric", "customized", "cross_stitch", "cgc", "ple", "cgc inside", "ple inside"])
def test_a_penalty_is_about_all_but_moves_only_those_that_are_awake(kind):
    model = model_with({**(KINDS | INSIDE)[kind], "penalty": {"kind": "mean", "weight": 0.5}})
    stirred(model.sharing)
    place = "inside" if "inside" in kind else "sharing"
    owner = WORD if kind.startswith(("cgc", "ple")) else "word-aware"
    value = model.regularise({f"{place}.{owner}", "sharing"})
    value.backward()
    assert {owner_of(name) for name, p in model.sharing.named_parameters() if p.grad is not None} == {owner}
    everyone = {f"{place}.{name}" for name in (*LABELS, *families_of(LABELS))}
    assert model.regularise(everyone).item() == pytest.approx(value.item())
    found = stacks(model.sharing, (".inner.weight", ".outer.weight"), everyone)
    assert value.item() == pytest.approx(0.5 * sum(mean(stack).item() for stack in found))
    assert {len(stack) for stack in found} == {len(LABELS) if owner == WORD else 3}


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharing": {"kind": "moe"}}, "sharing.kind: Input should be 'hard', 'asymmetric'"),
        ({"sharing": {"kind": "cgc", "experts": 8}}, "kind=cgc does not read experts=8.*omoe, mmoe, ml_mmoe"),
        ({"sharing": {"kind": "mmoe", "layers": 2}}, "layers=2 is read where place=inside"),
        ({"sharing": {"kind": "customized", "place": "inside"}}, "kind=customized does not read place=inside"),
        ({"sharing": {"kind": "ple", "place": "inside"}}, "ple inside with layers=1 is cgc"),
        ({"sharing": {"kind": "ml_mmoe", "place": "inside"}}, "ml_mmoe inside with layers=1 is mmoe"),
        ({"sharing": {"kind": "ple", "place": "inside", "layers": 2, "levels": 3}}, "levels=3 is read where place=top"),
        ({"sharing": {"kind": "mmoe", "place": "inside", "layers": 2}}, "mmoe inside with layers=2 is ml_mmoe"),
        ({"sharing": {"kind": "cgc", "place": "inside", "layers": 9}}, "sharing.layers=9: the encoder has 4 layers"),
        ({"sharing": {"kind": "ple", "levels": 1}}, "ple with levels=1 is cgc"),
        ({"sharing": {"kind": "asymmetric", "uses": {"word": []}}}, "sharing.uses"),
        (
            {"sharing": {"kind": "asymmetric", "uses": {"word-aware": ["word-aware"]}}},
            "word-aware reads its own bottom anyway",
        ),
        (
            {"tasks": THREE[:1], "sharing": {"kind": "asymmetric", "uses": {"word-aware": ["semantic-aware"]}}},
            "no task is semantic-aware",
        ),
        ({"tasks": THREE[:1], "sharing": {"kind": "cross_stitch"}}, "all tasks are word-aware"),
        ({"sharing": {"kind": "mmoe", "penalty": {"kind": "mean"}}}, "kind=mmoe has none of one shape"),
        ({"sharing": {"kind": "cgc", "penalty": {"weight": 0.5}}}, "weight=0.5 is read where there is a kind"),
        (
            {"sharing": {"kind": "cgc", "penalty": {"kind": "mean"}}, "train": {"zero_stage": 3}},
            "penalty.kind=mean needs train.zero_stage=2 or less",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name(settings, message):
    from pretrain.config import validated

    with pytest.raises(ValueError, match=message) as refused:
        validated(settings, Config)
    assert "\n" not in str(refused.value)
