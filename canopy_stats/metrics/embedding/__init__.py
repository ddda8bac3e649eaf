"""Texts to unit vectors.

``vectors`` says what the embeddings of a run are, ``encoder`` what a way to embed may return, ``models`` holds those of
sentence-transformers, ``embedders`` says which one a name means, ``blocks`` keeps embeddings in a run's folder.

The public functions are in :mod:`canopy_stats.metrics.embed`.
"""
