"""Zero-shot minimal pairs: which of two sentences does a masked language model hold for likelier?

The score of a sentence is its pseudo-log-likelihood (Salazar et al. 2020): every token is masked in turn, and the
log-probabilities, in nats, of what stood there are summed. Nothing is trained.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from finetune.checkpoint import load_model, load_tokenizer
from finetune.read import Rows

BATCH_TOKENS = 4096
"""In one pass."""


def preferences(folder: Path, rows: Rows, max_length: int) -> list[float]:
    """One a pair: 1 where the good sentence scores higher, ½ where both score the same, else 0.

    Raises ValueError where the checkpoint has no masked-LM head.
    """
    tokenizer = load_tokenizer(folder)
    model, new = load_model(AutoModelForMaskedLM, folder)
    if new:
        raise ValueError(
            f"the checkpoint lacks {new[0]}: it has no masked-LM head, which minimal pairs are scored by. "
            "Leave out this task for it."
        )
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    length = min(max_length, tokenizer.model_max_length, model.config.max_position_embeddings)
    sentences = [text for item in rows.examples for text in item.texts]
    scores = pseudo_log_likelihoods(model, tokenizer, sentences, length).reshape(-1, 2)
    return ((np.sign(scores[:, 0] - scores[:, 1]) + 1) / 2).tolist()


@torch.no_grad()
def pseudo_log_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], max_length: int
) -> np.ndarray:
    """(sentences,) in nats. Only inputs of one length share a batch: padding would decide between equals."""
    model.eval()
    encoded = tokenizer(list(sentences), truncation=True, max_length=max_length, return_special_tokens_mask=True)
    by_length: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for sentence, special in enumerate(encoded["special_tokens_mask"]):
        by_length[len(special)] += [(sentence, place) for place, mark in enumerate(special) if not mark]
    totals = np.zeros(len(sentences))
    inputs = [name for name in tokenizer.model_input_names if name in encoded]
    for length, masked in sorted(by_length.items()):
        size = max(1, BATCH_TOKENS // length)
        for begin in range(0, len(masked), size):
            rows, places = map(list, zip(*masked[begin : begin + size], strict=True))
            batch = {name: torch.tensor([encoded[name][row] for row in rows], device=model.device) for name in inputs}
            each = torch.arange(len(rows))
            truth = batch["input_ids"][each, places].clone()
            batch["input_ids"][each, places] = tokenizer.mask_token_id
            logits = model(**batch).logits[each, places].float()
            found = logits.log_softmax(-1).gather(1, truth[:, None])[:, 0]
            np.add.at(totals, rows, found.double().cpu().numpy())
    return totals
