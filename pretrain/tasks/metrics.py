"""Validation metrics over (labels, predictions), and what guessing reaches. Where undefined they are 0, never NaN."""

import numpy as np

from pretrain.tasks.spec import Score


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.mean(labels == predictions)) if len(labels) else 0.0


def majority_share(labels: np.ndarray) -> float:
    """The accuracy of always naming the most frequent label."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels)) if len(labels) else 0.0


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1."""
    hits = np.sum((labels == 1) & (predictions == 1))
    named = np.sum(labels == 1) + np.sum(predictions == 1)
    return float(2 * hits / named) if named else 0.0


def balanced_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The mean recall of the classes that occur: naming one class alone earns 1 / their number."""
    recalls = [np.mean(predictions[labels == label] == label) for label in np.unique(labels)]
    return float(np.mean(recalls)) if recalls else 0.0


def accuracy_beside_majority(labels: np.ndarray, predictions: np.ndarray) -> Score:
    return Score(accuracy(labels, predictions), majority_share(labels))
