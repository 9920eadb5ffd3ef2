"""The last stage of a finished run, measured on every validation instance."""

import torch

from pretrain.checkpoint import write_tensors
from pretrain.compare.answers import FILE
from pretrain.config import Config
from pretrain.evaluate import predict, reading
from pretrain.run import last_finished
from pretrain.train import fit, load_finished, read_sources
from pretrain.world import join


def measure(config: Config) -> None:
    """Write its answers. Raises ValueError where no stage is finished."""
    world = join()
    model, tasks, _ = load_finished(config, last_finished(config))
    fit(model, config, world.device)
    tensors = {}
    with reading(model.to(world.device), config.train, world):
        for task, source in read_sources(config, "validation", tasks).items():
            found = predict(model, source, config.evaluate.instances, config.train.micro_batch_size, world)
            for name in ("labels", "predictions", "sizes"):
                tensors[f"{task}.{name}"] = torch.from_numpy(getattr(found, name))
    write_tensors(config.folder() / FILE, tensors)
