"""DeepSpeed's JSON, derived from our configuration. Torch-free, so that `cumul plan --deepspeed` shows it at once."""

from typing import Any

from pretrain.config import TrainConfig

LARGE_MODULES = ["torch.nn.Linear", "torch.nn.Embedding"]


def in_bf16(config: TrainConfig, gpu: bool) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and gpu)


def deepspeed_config(config: TrainConfig, world_size: int, gpu: bool) -> dict[str, Any]:
    """DeepSpeed's JSON. We own accumulation: a step may have any number of micro-batches, the boundary is `step()`."""
    sizes = {"train.batch_size": config.batch_size}
    sizes |= {f"train.growth.{stage}.batch_size": grown.batch_size or 0 for stage, grown in config.growth.items()}
    for name, size in sizes.items():
        if 0 < size < world_size:
            raise ValueError(f"{name}={size}: {world_size} ranks need an instance each. Raise it, or take fewer ranks.")
    micro = min(config.micro_batch_size, config.batch_size // world_size)
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.clip if config.zero_stage else 0,  # without ZeRO the optimizer clips
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            "offload_optimizer": {"device": "cpu" if config.offload else "none", "pin_memory": gpu},
        },
        "communication_data_type": config.communication,
        "torch_autocast": {
            "enabled": in_bf16(config, gpu),
            "dtype": "bfloat16",
            # under autocast ZeRO lets the gradients of these travel in bf16, whatever communication_data_type says
            "lower_precision_safe_modules": LARGE_MODULES if config.communication == "bf16" else [],
        },
        "steps_per_print": 10**12,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
