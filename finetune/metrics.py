"""Metrics of (labels, predictions), in numpy, fast enough for some thousand resamples of the examples.

Classes are their numbers, scores floats, tags lists of BIO tags, grades and ranking scores lists of floats, one list a
query. What is undefined, as a correlation with a constant, is 0.
"""

from collections.abc import Callable, Sequence
from math import comb
from typing import Any

import numpy as np
from scipy.stats import rankdata

Metric = Callable[[Any, Any], float]
Tags = Sequence[Sequence[str]]
Grades = Sequence[Sequence[float]]


def accuracy(labels: Sequence[int], predictions: Sequence[int]) -> float:
    return float(np.mean(np.asarray(labels) == np.asarray(predictions)))


def confusion(labels: Sequence[int], predictions: Sequence[int]) -> np.ndarray:
    """(classes, classes) counts, a row for each label."""
    truth, found = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    size = int(max(truth.max(), found.max())) + 1
    return np.bincount(truth * size + found, minlength=size * size).reshape(size, size)


def f1(labels: Sequence[int], predictions: Sequence[int]) -> float:
    """Of class 1."""
    truth, found = np.asarray(labels) == 1, np.asarray(predictions) == 1
    return ratio(2 * np.sum(truth & found), np.sum(truth) + np.sum(found))


def macro_f1(labels: Sequence[int], predictions: Sequence[int]) -> float:
    """Mean over the classes that occur among labels or predictions."""
    table = confusion(labels, predictions)
    both = table.sum(0) + table.sum(1)
    return float(np.mean(2 * np.diag(table)[both > 0] / both[both > 0]))


def matthews(labels: Sequence[int], predictions: Sequence[int]) -> float:
    """Of two classes or more: R_K of Gorodkin 2004."""
    table = confusion(labels, predictions).astype(np.float64)
    truth, found, total = table.sum(1), table.sum(0), table.sum()
    covariance = np.trace(table) * total - truth @ found
    return ratio(covariance, np.sqrt((total**2 - found @ found) * (total**2 - truth @ truth)))


def pearson(labels: Sequence[float], predictions: Sequence[float]) -> float:
    x, y = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return ratio(x @ y, np.sqrt((x @ x) * (y @ y)))


def spearman(labels: Sequence[float], predictions: Sequence[float]) -> float:
    return pearson(rankdata(labels), rankdata(predictions))


def pearson_spearman(labels: Sequence[float], predictions: Sequence[float]) -> float:
    """Mean of the two, as GLUE reports STS-B."""
    return (pearson(labels, predictions) + spearman(labels, predictions)) / 2


def span_f1(labels: Tags, predictions: Tags) -> float:
    """Micro-averaged over entities, as seqeval's default."""
    return f1_of_counts(span_counts(labels, predictions))


def span_counts(labels: Tags, predictions: Tags) -> np.ndarray:
    """(sentences, 3) entities: true, found, correct. Sums of rows are what F1 needs."""
    pairs = [(spans(truth), spans(found)) for truth, found in zip(labels, predictions, strict=True)]
    return np.array([(len(truth), len(found), len(truth & found)) for truth, found in pairs], np.int64).reshape(-1, 3)


def f1_of_counts(counts: np.ndarray) -> float:
    """`counts`: rows of span_counts, any number, repeated or not."""
    true, found, correct = counts.sum(0)
    return ratio(2 * correct, true + found)


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """(begin, end, type) in BIO; an I that continues nothing begins an entity, as in conlleval and seqeval."""
    found, begin, kind = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, now = tag.partition("-")
        if kind and (mark != "I" or now != kind):
            found.add((begin, place, kind))
            kind = ""
        if mark != "O" and not kind:
            begin, kind = place, now
    return found


def ndcg(labels: Grades, predictions: Grades) -> float:
    return float(np.mean(ndcg_of_queries(labels, predictions)))


def ndcg_of_queries(labels: Grades, predictions: Grades) -> np.ndarray:
    """(queries,). Gain is the grade; texts of equal score share their places: constant scores get what chance does."""
    return np.array([ndcg_of_query(*query) for query in zip(labels, predictions, strict=True)])


def ndcg_of_query(grades: Sequence[float], scores: Sequence[float]) -> float:
    gain = np.asarray(grades, np.float64)
    discount = 1 / np.log2(np.arange(len(gain)) + 2)
    _, group, size = np.unique(-np.asarray(scores, np.float64), return_inverse=True, return_counts=True)
    shared = np.bincount(np.sort(group), discount) / size
    return ratio(float(gain @ shared[group]), float(np.sort(gain)[::-1] @ discount))


def mrr(labels: Grades, predictions: Grades) -> float:
    return float(np.mean(mrr_of_queries(labels, predictions)))


def mrr_of_queries(labels: Grades, predictions: Grades) -> np.ndarray:
    """(queries,). 1 ÷ place of the first text of a grade above 0; among equal scores, what chance would give."""
    return np.array([mrr_of_query(*query) for query in zip(labels, predictions, strict=True)])


def mrr_of_query(grades: Sequence[float], scores: Sequence[float]) -> float:
    relevant, score = np.asarray(grades) > 0, np.asarray(scores, np.float64)
    if not relevant.any():
        return 0.0
    best = score[relevant].max()
    above, tied = int(np.sum(score > best)), int(np.sum(score == best))
    good = int(np.sum(relevant & (score == best)))
    orders = comb(tied, good)
    places = range(1, tied - good + 2)
    return sum(comb(tied - place, good - 1) / orders / (above + place) for place in places)


def pair_accuracy(labels: Sequence[str], predictions: Sequence[float]) -> float:
    """Predictions are 1 where the good sentence scored higher, ½ where both scored the same, else 0."""
    return float(np.mean(predictions))


def ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "f1": f1,
    "pearson_spearman": pearson_spearman,
    "pearson": pearson,
    "spearman": spearman,
    "span_f1": span_f1,
    "ndcg": ndcg,
    "mrr": mrr,
    "pair_accuracy": pair_accuracy,
}
