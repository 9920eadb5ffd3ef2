"""The stochastic answer network: a head that looks at a pair several times (Liu et al. 2018; MT-DNN, section 3)."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune.declare import San

FIRST, SECOND = 1, 2
"""The number of a text's tokens in `parts`; 0: special tokens and padding."""


class AnswerHead(nn.Module):
    """Premise p and hypothesis h, their tokens' vectors, to log-probabilities of the classes.

    s₀ = Σ softmax(w₀·h) h; then in each of K steps x = Σ softmax(s W₁ p) p, s = GRU(s, x) and P = softmax(W₃ [s; x;
    |s − x|; s ⊙ x]). The answer is the mean of the K probabilities. In training each is left out with the probability
    `dropout` (where none would be left, none is); in evaluation all count. The paper counts the steps from 0, where its
    x is not defined; we count from 1. In single precision: next to the encoder it costs nothing.
    """

    def __init__(self, hidden: int, classes: int, san: San):
        super().__init__()
        self.san = san
        self.start = nn.Linear(hidden, 1, bias=False)
        self.look = nn.Linear(hidden, hidden, bias=False)
        self.cell = nn.GRUCell(hidden, hidden)
        self.answer = nn.Linear(4 * hidden, classes)

    def forward(self, vectors: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        """vectors (pairs, tokens, hidden), parts (pairs, tokens) -> (pairs, classes)."""
        premise, hypothesis, vectors = parts == FIRST, parts == SECOND, vectors.float()
        with torch.autocast(vectors.device.type, enabled=False):
            state = attended(self.start(vectors)[..., 0], vectors, hypothesis)
            answers = []
            for _ in range(self.san.steps):
                seen = attended((vectors @ self.look(state)[..., None])[..., 0], vectors, premise)
                state = self.cell(seen, state)
                answers.append(self.answer(torch.cat([state, seen, (state - seen).abs(), state * seen], -1)))
        return mean_answer(torch.stack(answers, 1).log_softmax(-1), self.san.dropout if self.training else 0.0)


def attended(scores: torch.Tensor, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax of scores (pairs, tokens) where the mask is, by which vectors are summed: (pairs, hidden). A text of no
    token at all, as one of control characters, is seen as everything."""
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return (weights[:, None] @ vectors)[:, 0]


def mean_answer(answers: torch.Tensor, dropout: float) -> torch.Tensor:
    """Log of the mean probability over the steps that are kept: (pairs, steps, classes) -> (pairs, classes)."""
    kept = torch.ones(answers.shape[:2], dtype=torch.bool, device=answers.device)
    if dropout:  # else nothing is drawn: predicting leaves the generator as it is
        kept = torch.rand(answers.shape[:2], device=answers.device) >= dropout
    kept |= ~kept.any(1, keepdim=True)
    return answers.masked_fill(~kept[..., None], -torch.inf).logsumexp(1) - kept.sum(1, keepdim=True).log()


class AnswerNetwork(nn.Module):
    """An encoder under this head, in the shape of transformers' models with a head."""

    base_model_prefix = "encoder"

    def __init__(self, encoder: PreTrainedModel, classes: int, san: San):
        super().__init__()
        self.encoder = encoder
        self.head = AnswerHead(encoder.config.hidden_size, classes, san)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        parts: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        vectors = self.encoder(input_ids, attention_mask=attention_mask, **types).last_hidden_state
        return SequenceClassifierOutput(logits=self.head(vectors, parts))

    def save_pretrained(self, folder: Path) -> None:
        """The encoder as transformers does, and the head beside it, which transformers does not know."""
        self.encoder.save_pretrained(folder)
        save_file(self.head.state_dict(), folder / "san.safetensors")
