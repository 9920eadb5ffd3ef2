"""Sharing, balancing and encoders in one run."""

import pytest
from conftest import records
from safetensors.torch import load_file
from test_resume import break_off
from test_train import changed, run, same, weights
from transformers import AutoModel

from pretrain.config import DistillConfig
from pretrain.export import export
from pretrain.run import stage_folder

TOGETHER = {
    "ple, uncertainty": {"sharing": {"kind": "ple"}, "balancing": {"kind": "uncertainty"}},
    "experts inside shared layers, gradnorm": {
        "sharing": {"kind": "cgc", "place": "inside"},
        "balancing": {"kind": "gradnorm", "probe_every": 3},
        "model": {"share_layers": True, "embedding": 16},
    },
    "cross-stitch with a penalty on narrow embeddings, dwa": {
        "sharing": {"kind": "cross_stitch", "penalty": {"kind": "mean"}},
        "balancing": {"kind": "dwa", "window": 3},
        "model": {"embedding": 16},
    },
}


@pytest.mark.parametrize("settings", TOGETHER.values(), ids=TOGETHER)
def test_they_go_together_and_survive_a_kill_bit_for_bit(tiny, settings):
    whole, broken = (changed(tiny, name=name, **settings) for name in ("whole", "broken"))
    run(whole)
    break_off(broken, 14)
    run(broken)
    assert same(weights(whole, 2), weights(broken, 2))
    assert same(*(load_file(stage_folder(config, 2) / "moments.safetensors") for config in (whole, broken)))
    shown = [[(record["loss"], record["weight"]) for record in records(config, "step")] for config in (whole, broken)]
    assert shown[0] == shown[1]
    assert any(weight != 1 for _, of in shown[0] for weight in of.values())
    if settings["sharing"].get("place") != "inside":
        assert AutoModel.from_pretrained(export(whole)).num_parameters()


def test_a_student_has_neither(tiny):
    student = DistillConfig(teacher="there")
    for settings in ({"sharing": {"kind": "mmoe"}}, {"balancing": {"kind": "dwa"}}):
        (section,) = settings
        with pytest.raises(ValueError, match=f"{section} is between tasks, and distill has one"):
            changed(tiny, tasks=["knowledge_masking"], distill=student, **settings)
