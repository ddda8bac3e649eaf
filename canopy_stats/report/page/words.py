"""The words that tables and figures use, each explained once; ``docs/glossary.md`` has them and more."""

from __future__ import annotations

import re
from collections.abc import Mapping

WORDS: Mapping[str, str] = {
    "BF": "Branching factor: exp of the mean entropy rate, in equally likely next tokens.",
    "cap": "The length cap of the law; rollouts that reach it are cut, and counted.",
    "CE*": "Canopy entropy in nats: the entropy of a whole rollout, length included. Mean length × mean entropy rate + "
           "Cov(N, r).",
    "cell": "One family and task.",
    "Cov": "Covariance of length and entropy rate over the rollouts of a prompt, in nats.",
    "D": "Semantic diversity: one minus the mean cosine over the pairs of a prompt's rollouts, as embedded.",
    "GenPPL": "Generation perplexity: exp(CE* / mean length).",
    "law": "The distribution that tokens are really drawn from: temperature, filters, end tokens and length cap.",
    "log VS": "Logarithm of the Vendi score.",
    "N": "Length of a rollout in tokens, end token included; of a prompt the mean over its rollouts.",
    "Pearson": "Pearson's correlation of length and entropy rate within a prompt, pooled through Fisher's z.",
    "q": "p-value adjusted for the number of rows: bounds the expected share of false ones among findings.",
    "R": "Entropy rate: nats per token of a rollout; of a prompt the mean over its rollouts.",
    "ratio": "Tuned slope over base slope. Its 95% set is Fieller's: without bounds where the base slope is not "
             "clearly away from zero.",
    "robust": "The slope at rates and lengths that base and tuned share, levels and slopes free in every family and "
              "task, errors of rate and diversity corrected.",
    "rollout": "One sampled answer to a prompt.",
    "RSE": "Semantic entropy: entropy of the clusters of rollouts that a judge calls the same.",
    "slope": "How much diversity rises with the entropy rate: D per nat/token in linear models, log-odds of D per "
             "standard deviation of the rate in beta models.",
    "Kendall": "Kendall's correlation of length and entropy rate within a prompt, pooled.",
    "Spearman": "Spearman's correlation of length and entropy rate within a prompt, pooled through Fisher's z.",
    "variant": "A checkpoint of a family: base, or what was made of it.",
    "VS": "Vendi score: an effective number of different texts.",
}
_PLAIN = re.compile(r"\s*%$| \(.*\)$")


def meaning(heading: str) -> str:
    """What a table's heading means; empty where that needs no word."""
    return WORDS.get(heading) or WORDS.get(_PLAIN.sub("", heading), "")
