"""Paragraphs into sentences (sentencex), Chinese sentences into words (rjieba, or jieba as the reference).

English needs no word segmenter: the tokenizer's own splitting makes the words. A Chinese text without 。！？ is one
sentence. sentencex leaves some closing brackets at the start of the next sentence; they go back to what they close.
"""

import logging

import rjieba
import sentencex

CLOSING = "”’」』）】》〉〗〕"


def sentences(paragraph: str, language: str) -> list[str]:
    """The sentences in order, stripped and never empty; only whitespace between them is lost."""
    found: list[str] = []
    for piece in sentencex.segment(language, paragraph):
        sentence = piece.strip()
        if found and language == "zh":
            rest = sentence.lstrip(CLOSING)
            found[-1] += sentence[: len(sentence) - len(rest)]
            sentence = rest.strip()
        if sentence:
            found.append(sentence)
    return found


def words(text: str, segmenter: str = "rjieba") -> list[str]:
    """Chinese words; whitespace and punctuation are words too, so joining them gives the text back."""
    if segmenter == "rjieba":
        return rjieba.cut(text)
    import jieba  # 0.2 s and 60 MB for its dictionary: only where it is asked for

    jieba.setLogLevel(logging.WARNING)
    return jieba.lcut(text)
