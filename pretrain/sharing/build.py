"""From the settings to a module, and what the log and the optimizer ask of it."""

from collections.abc import Sequence

from torch import nn
from transformers import ErnieConfig

from pretrain.config import SharingConfig
from pretrain.sharing.asymmetric import Asymmetric
from pretrain.sharing.cgc import Cgc
from pretrain.sharing.cross_stitch import CrossStitch
from pretrain.sharing.customized import Customized
from pretrain.sharing.hard import Hard
from pretrain.sharing.inside import Inside
from pretrain.sharing.ml_mmoe import MultiLevelMmoe
from pretrain.sharing.mmoe import Mmoe
from pretrain.sharing.omoe import Omoe
from pretrain.sharing.parts import Gate, Parts
from pretrain.sharing.ple import Ple, PleInside
from pretrain.world import World

ON_TOP = {
    "asymmetric": Asymmetric,
    "customized": Customized,
    "omoe": Omoe,
    "mmoe": Mmoe,
    "cgc": Cgc,
    "cross_stitch": CrossStitch,
    "ml_mmoe": MultiLevelMmoe,
    "ple": Ple,
}
IN_A_LAYER = {"omoe": Omoe, "mmoe": Mmoe, "ml_mmoe": Mmoe, "cgc": Cgc}


def build_sharing(settings: SharingConfig, tasks: Sequence[str], shape: ErnieConfig, seed: int) -> nn.Module:
    """For all tasks of a configuration, known yet or not. Raises ValueError where the encoder has too few layers."""
    if settings.kind == "hard":
        return Hard()
    width = settings.width or shape.hidden_size
    parts = Parts(shape, width, settings.gate_dropout, seed, normed=settings.place == "top")
    if settings.place == "top":
        return ON_TOP[settings.kind](settings, tasks, parts)
    settings.fit(shape.num_hidden_layers)
    if settings.kind == "ple":
        return PleInside(settings, tasks, parts)
    kind, layers = IN_A_LAYER[settings.kind], parts.at("layers")
    return Inside([kind(settings, tasks, layers.at(number)) for number in range(settings.layers)])


def read_gates(sharing: nn.Module, world: World) -> dict[str, list[dict]]:
    """Per task and level, of the training steps since the last call: entropy in nats, mean share of each expert.

    Experts of CGC and PLE come as its own, then the shared ones. Collective.
    """
    gates = [module for module in sharing.modules() if isinstance(module, Gate)]
    found: dict[str, list[dict]] = {}
    for gate in gates:
        for task, seen in gate.seen.items():
            *shares, entropy, number = world.sum(seen.tolist())
            if number:
                levels = found.setdefault(task, [])
                levels.append({"entropy": entropy / number, "load": [share / number for share in shares]})
        gate.seen = {}
    return found
