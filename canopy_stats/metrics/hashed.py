"""Embeddings without a model: hashed words and word pairs. Nothing is fitted, so a text's embedding depends on that
text alone.

Inverse document frequencies would have to be learnt from some collection: from one run's texts, and base and tuned
model would be measured with different rulers; from all runs' texts, and adding a run would change the others'
diversity. Frequent words are damped by the logarithm of their count instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canopy_stats.schema import UserError

FEATURES = 1024
_WORD_OR_SIGN = r"(?u)\w+|[^\w\s]"


def identity() -> dict[str, Any]:
    """What decides these embeddings."""
    return {"name": "tfidf", "version": "hashed-1", "features": FEATURES, "max_tokens": None}


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit rows (n, 1025): 1 + log(count) of words, signs and pairs of them, hashed into 1,024 signed cells.

    The sign of a cell comes from the hash, so that collisions add nothing to a cosine on average. The last
    coordinate belongs to texts without any word or sign: they are alike, and orthogonal to all others.
    """
    counts = _vectorizer().transform(texts).astype(np.float32)
    counts.data = np.sign(counts.data) * (1 + np.log(np.maximum(np.abs(counts.data), 1)))
    rows = np.zeros((len(texts), FEATURES + 1), np.float32)
    rows[:, :FEATURES] = counts.toarray()
    norm = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    rows[norm == 0, FEATURES] = 1
    scale = np.where(norm == 0, 1, norm)[:, None]
    return (rows / scale).astype(np.float32)


def _vectorizer() -> Any:
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError:
        raise UserError("The tfidf embedder needs scikit-learn: pip install scikit-learn.") from None
    return HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), token_pattern=_WORD_OR_SIGN, norm=None,
                             alternate_sign=True)
