"""Distillation (DistilBERT, Sanh et al. 2019, section 3): a student learns from a frozen teacher of more layers.

loss = a · T² · KL(softmax(t / T) ‖ softmax(s / T)) + b · masked LM + c · (1 − cos(h_s, h_t)), with the logits s, t and
the last hidden states h of student and teacher. The first and the last term are means over all tokens, masked LM is one
over the masked ones. Weights and T are those of the command that Hugging Face published with the code of the paper.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import ErnieConfig

from corpus_tools.checkpoint import read_files
from corpus_tools.tokenizer import is_uncased, load_tokenizer
from pretrain.config import DistillConfig, ModelConfig
from pretrain.data.batch import Batch
from pretrain.model.model import MASKED_LM_NAMES, Model, ernie_config, load_prior
from pretrain.model.prior import Prior, read_prior
from pretrain.tasks import knowledge_masking

MASKED = knowledge_masking.NAME
SOFT_TARGETS, HIDDEN_STATES = "soft_targets", "hidden_states"
TEACHER = "distill.teacher"
DISTILBERT_EPS = 1e-12
"""Of every LayerNorm in transformers' DistilBERT, where it is no setting."""


class Teacher(NamedTuple):
    """Not a module, so that what holds it neither trains nor keeps its weights."""

    model: Model
    fingerprint: str


class Student(Model):
    """A model whose loss also compares it with its teacher, who is there only where it is trained."""

    teacher: Teacher | None = None

    def __init__(
        self, config: ErnieConfig, labels: Mapping[str, Sequence[str] | None], seed: int, distill: DistillConfig
    ):
        super().__init__(config, labels, seed)
        self.distill = distill
        self.loss_weights = dict(zip((SOFT_TARGETS, MASKED, HIDDEN_STATES), distill.weights, strict=True))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of masked words, summed over its targets, and those of the comparison, summed over all tokens."""
        assert self.teacher is not None
        where, labels = batch.targets[MASKED]
        where, batch = batch.read[where], batch.reading_all()
        with torch.no_grad():
            wanted = self.teacher.model.encode(batch)[: batch.num_tokens]
            soft = self.teacher.model.read(MASKED, wanted)
        hidden = self.encode(batch)[: batch.num_tokens]
        logits = self.read(MASKED, hidden).float()
        return {
            MASKED: functional.cross_entropy(logits[where], labels, reduction="sum"),
            SOFT_TARGETS: soft_loss(logits, soft.float(), self.distill.temperature),
            HIDDEN_STATES: (1 - functional.cosine_similarity(hidden.float(), wanted.float(), dim=-1)).sum(),
        }


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of logits (tokens, classes), softened by T; summed over tokens."""
    ours, theirs = (functional.log_softmax(logits / temperature, -1) for logits in (student, teacher))
    return functional.kl_div(ours, theirs, reduction="sum", log_target=True) * temperature**2


def read_teacher(distill: DistillConfig, tokenizer: Tokenizer) -> Teacher:
    """Frozen, without dropout. Raises ValueError where it has no masked-LM head, or another tokenizer."""
    theirs = load_tokenizer(distill.teacher)
    if (theirs.get_vocab(), is_uncased(theirs)) != (tokenizer.get_vocab(), is_uncased(tokenizer)):
        raise ValueError(
            f"{TEACHER}={distill.teacher} has another tokenizer than the corpus: its logits are of other words. "
            f"Build the corpus with corpus.tokenizer={distill.teacher}."
        )
    prior = read_weights(distill)
    shape = ernie_config(ModelConfig(dropout=0, attention_dropout=0), prior, 0, 0, 0)
    model = Model(shape, {MASKED: None}, seed=0)
    load_prior(model, prior)
    return Teacher(model.requires_grad_(False).eval(), fingerprint_of(distill))


def student_weights(distill: DistillConfig) -> Prior:
    """What a student begins with: the teacher's embeddings, head, and some of its layers."""
    prior = read_weights(distill)
    layers = distill.taken(prior.config["num_hidden_layers"])
    eps = prior.config.get("layer_norm_eps", DISTILBERT_EPS)
    if distill.shape == "distilbert" and eps != DISTILBERT_EPS:
        raise ValueError(
            f"{TEACHER}={distill.teacher} has layer_norm_eps={eps:g}, DistilBERT only knows {DISTILBERT_EPS:g}. "
            "Set distill.shape=ernie."
        )
    tensors = {name: tensor for name, tensor in prior.tensors.items() if not name.startswith("encoder.layer.")}
    for number, taken in enumerate(layers):
        theirs = f"encoder.layer.{taken}."
        tensors |= {
            name.replace(theirs, f"encoder.layer.{number}."): tensor
            for name, tensor in prior.tensors.items()
            if name.startswith(theirs)
        }
    return Prior(prior.config | {"num_hidden_layers": len(layers)}, tensors)


def read_weights(distill: DistillConfig) -> Prior:
    """The teacher's. Raises ValueError where it has no masked-LM head."""
    prior = read_prior(distill.teacher, TEACHER)
    if missing := [name for name in MASKED_LM_NAMES if name not in prior.tensors]:
        raise ValueError(
            f"{TEACHER}={distill.teacher} has no masked-LM head ({missing[0]} is missing), so that there are no soft "
            "targets. Take a checkpoint of AutoModelForMaskedLM."
        )
    return prior


def fingerprint_of(distill: DistillConfig) -> str:
    """SHA-256 of the teacher's weights."""
    return sha256(read_files(distill.teacher, ["model.safetensors"], TEACHER)["model.safetensors"]).hexdigest()
