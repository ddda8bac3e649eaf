"""Every stored column, declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """One stored column: its name, its Arrow type by name, its unit, and its meaning in one line."""

    name: str
    dtype: str
    unit: str
    meaning: str


def _columns(*rows: tuple[str, str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


STEP_COLUMNS = _columns(
    ("prompt_id", "string", "", "prompt within its task"),
    ("rollout", "int32", "index", "rollout of the prompt, from 0"),
    ("step", "int32", "index", "position in the rollout, from 0"),
    ("token_id", "int32", "id", "token that was drawn"),
    ("entropy", "float32", "nats", "entropy of the law's next-token distribution"),
    ("surprisal_variance", "float32", "nats^2", "variance of minus the log-probability under the law (varentropy)"),
    ("logprob", "float32", "nats", "log-probability of the drawn token under the law"),
    ("stop_probability", "float32", "probability", "chance under the law that this step ends the rollout"),
    ("kept_mass", "float32", "probability", "share of the untruncated distribution that the filters keep"),
    ("entropy_full_offpolicy", "float32", "nats", "entropy of the untruncated law (without top-k, top-p and min-p)"),
    ("logprob_full_offpolicy", "float32", "nats", "log-probability of the drawn token under the untruncated law"),
    ("stop_probability_full_offpolicy", "float32", "probability", "chance of ending of the untruncated law"),
)
STEP_TERMS = tuple(c.name for c in STEP_COLUMNS if c.dtype == "float32")

ROLLOUT_COLUMNS = _columns(
    ("prompt_id", "string", "", "prompt within its task"),
    ("prompt_uid", "string", "", "task/prompt_id: the same prompt for every family and variant"),
    ("rollout", "int32", "index", "rollout of the prompt, from 0"),
    ("length", "int32", "tokens", "N: tokens drawn, end token included"),
    ("finish_reason", "string", "", "stop (an end token was drawn, also exactly at the cap) or length"),
    ("entropy_sum", "float64", "nats", "H: sum of the steps' entropies"),
    ("entropy_rate", "float64", "nats/token", "r = H / N"),
    ("surprisal_sum", "float64", "nats", "S: minus the sum of the drawn tokens' log-probabilities"),
    ("stop_hazard_sum", "float64", "expected stops", "A: sum of the steps' end-token probabilities"),
    ("surprisal_variance_sum", "float64", "nats^2", "predictable variance of S - H: summed surprisal_variance"),
    ("stop_variance_sum", "float64", "stops^2", "predictable variance of 1{stopped} - A: sum of p (1 - p)"),
    ("entropy_sum_full_offpolicy", "float64", "nats", "H of the untruncated law along this rollout"),
    ("surprisal_sum_full_offpolicy", "float64", "nats", "S of the untruncated law along this rollout"),
    ("stop_hazard_sum_full_offpolicy", "float64", "expected stops", "A of the untruncated law along this rollout"),
    ("token_ids", "list<int32>", "ids", "the tokens drawn"),
    ("text", "string", "", "decoded text without special tokens, white space as the model wrote it"),
)

EXACT, INTERVAL, MISSING = "exact", "interval", "missing"
"""What is known of a run's entropies: each step's, bounds of each step's, or nothing."""
TERMS = (EXACT, INTERVAL, MISSING)

_KEY_STEPS, _KEY_ROLLOUTS = STEP_COLUMNS[:4], ROLLOUT_COLUMNS[:5]
_BOUNDED_STEPS = _columns(
    ("entropy_low", "float32", "nats", "least entropy that the logged probabilities allow"),
    ("entropy_high", "float32", "nats", "largest entropy that the logged probabilities and the vocabulary allow"),
    ("logprob", "float32", "nats", "logged log-probability of the drawn token"),
)
_BOUNDED_ROLLOUTS = _columns(
    ("entropy_sum_low", "float64", "nats", "least H: sum of the steps' entropy_low"),
    ("entropy_sum_high", "float64", "nats", "largest H: sum of the steps' entropy_high"),
    ("entropy_rate_low", "float64", "nats/token", "least r"),
    ("entropy_rate_high", "float64", "nats/token", "largest r"),
    ("surprisal_sum", "float64", "nats", "S of the logged log-probabilities"),
)
_TEXT_COLUMNS = ROLLOUT_COLUMNS[-2:]
STEPS_OF = {EXACT: STEP_COLUMNS, INTERVAL: _KEY_STEPS + _BOUNDED_STEPS, MISSING: _KEY_STEPS}
"""Columns of the steps by what is known of the entropies. A token id of -1 is one that was not told."""
ROLLOUTS_OF = {EXACT: ROLLOUT_COLUMNS, INTERVAL: _KEY_ROLLOUTS + _BOUNDED_ROLLOUTS + _TEXT_COLUMNS,
               MISSING: _KEY_ROLLOUTS + _TEXT_COLUMNS}

PROMPT_COLUMNS = _columns(
    ("prompt_id", "string", "", "prompt within its task"),
    ("prompt_hash", "string", "", "SHA-256 of the prompt's source: equal across the runs that share the prompt"),
    ("source", "string", "", "what was asked: a text, or chat messages or token ids as JSON"),
    ("prompt_token_ids", "list<int32>", "ids", "what the model received"),
)

PANEL_COLUMNS = _columns(
    ("task", "string", "", "task of the prompt"),
    ("prompt_id", "string", "", "prompt within its task"),
    ("prompt_uid", "string", "", "task/prompt_id: grouping factor of the mixed models"),
    ("model_name", "string", "", "family"),
    ("model_variant", "string", "", "checkpoint of the family: base, instruct, ..."),
    ("D", "float64", "1 - cosine", "semantic diversity: 1 - mean pairwise cosine of the rollouts' embeddings"),
    ("log_VS", "float64", "nats", "entropy of the eigenvalues of K/M (log Vendi score)"),
    ("VS", "float64", "effective texts", "Vendi score"),
    ("R_bar", "float64", "nats/token", "mean entropy rate over rollouts"),
    ("N_bar", "float64", "tokens", "mean length over rollouts"),
    ("CE", "float64", "nats", "canopy entropy of the capped law: mean of H"),
    ("cov_NR", "float64", "nats", "population covariance of N and r over rollouts"),
    ("rho_pearson", "float64", "", "Pearson correlation of N and r"),
    ("rho_spearman", "float64", "", "Spearman correlation of N and r (mid-ranks)"),
    ("rho_kendall", "float64", "", "Kendall tau-b of N and r"),
    ("BF", "float64", "tokens", "branching factor exp(R_bar)"),
    ("GenPPL", "float64", "tokens", "generation perplexity exp(CE / N_bar)"),
    ("truncation_rate", "float64", "share", "rollouts that the cap ended"),
    ("M", "int64", "rollouts", "rollouts of the prompt"),
    ("CE_cv", "float64", "nats", "CE with control variates"),
    ("N_bar_cv", "float64", "tokens", "N_bar with control variates"),
    ("R_bar_cv", "float64", "nats/token", "R_bar with control variates"),
    ("cov_cv", "float64", "nats", "CE_cv - N_bar_cv * R_bar_cv"),
    ("se_D", "float64", "1 - cosine", "jackknife standard error of D over rollouts"),
    ("se_R", "float64", "nats/token", "jackknife standard error of R_bar"),
    ("se_N", "float64", "tokens", "jackknife standard error of N_bar"),
    ("cov_DR", "float64", "", "jackknife covariance of D and R_bar"),
    ("cov_DN", "float64", "", "jackknife covariance of D and N_bar"),
    ("cov_RN", "float64", "", "jackknife covariance of R_bar and N_bar"),
    ("embedder", "string", "", "embedding model, with its version or hash"),
    ("embed_truncated_share", "float64", "share", "texts longer than the embedder reads"),
    ("empty_share", "float64", "share", "texts that are empty once stripped"),
    ("law", "string", "", "sampling law"),
    ("dtype", "string", "", "floating-point type of the model"),
    ("engine", "string", "", "what drew the rollouts"),
    ("seed", "int64", "", "seed of the run"),
    ("run_id", "string", "", "identity of the run's configuration"),
    ("prompt_hash", "string", "", "SHA-256 of the prompt's source: equal across the runs that share the prompt"),
)

ENTROPY_COLUMNS = ("R_bar", "CE", "cov_NR", "rho_pearson", "rho_spearman", "rho_kendall", "BF", "GenPPL", "CE_cv",
                   "N_bar_cv", "R_bar_cv", "cov_cv", "se_R", "cov_DR", "cov_RN")
"""Columns of a panel that only exact terms give: a panel of other runs does not have them."""
BOUND_COLUMNS = _columns(
    ("R_bar_low", "float64", "nats/token", "least mean entropy rate that the logged probabilities allow"),
    ("R_bar_high", "float64", "nats/token", "largest mean entropy rate"),
    ("CE_low", "float64", "nats", "least canopy entropy"),
    ("CE_high", "float64", "nats", "largest canopy entropy"),
    ("cov_NR_low", "float64", "nats", "least covariance of N and r"),
    ("cov_NR_high", "float64", "nats", "largest covariance of N and r"),
    ("BF_low", "float64", "tokens", "least branching factor"),
    ("BF_high", "float64", "tokens", "largest branching factor"),
    ("GenPPL_low", "float64", "tokens", "least generation perplexity"),
    ("GenPPL_high", "float64", "tokens", "largest generation perplexity"),
)
_PLAIN_PANEL = tuple(c for c in PANEL_COLUMNS if c.name not in ENTROPY_COLUMNS)
PANELS_OF = {EXACT: PANEL_COLUMNS, MISSING: _PLAIN_PANEL, INTERVAL: _PLAIN_PANEL + BOUND_COLUMNS}
"""Columns of a panel by what is known of the entropies in it."""

UNITS = {c.name: c.unit for c in (*STEP_COLUMNS, *ROLLOUT_COLUMNS, *PANEL_COLUMNS, *_BOUNDED_STEPS, *_BOUNDED_ROLLOUTS,
                                  *BOUND_COLUMNS)}


def names(columns: Sequence[Column]) -> list[str]:
    """The columns' names, in their stored order."""
    return [c.name for c in columns]
