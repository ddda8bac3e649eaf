"""Frozen records and every stored column, declared once.

This module imports nothing from the package and nothing heavy: every other module may import it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SCHEMA_VERSION = 2

STOP = "stop"
"""Finish reason of a rollout that an end token or a stop string ended (also exactly at the cap)."""
LENGTH = "length"
"""Finish reason of a rollout that the length cap ended."""


class UserError(ValueError):
    """Input that cannot be used. The message is one or two lines: what is wrong, and what to do next."""


class Caution(UserWarning):
    """Something that is no mistake and that whoever asked should know: given as a warning, in one line."""


@dataclass(frozen=True, slots=True)
class SamplingPolicy:
    """The sampling law: repetition penalty, minimum length and suppressed tokens; then temperature, top-k, top-p and
    min-p; then the ends: end tokens, stop strings, the length cap.

    What comes before the temperature acts as in transformers' processors of the same names.

    Parameters
    ----------
    temperature : float
        Divides the logits; must be positive and finite.
    top_k : int, optional
        Keep the k most likely tokens; ties at the boundary are kept.
    top_p : float, optional
        Keep the smallest set of most likely tokens whose mass reaches top_p (0 < top_p <= 1); ties are kept.
    min_p : float, optional
        Keep tokens whose probability is at least min_p times that of the most likely one (0 <= min_p <= 1).
    max_new_tokens : int
        The length cap, in tokens; it is part of the law.
    stop_token_ids : sequence of int
        Tokens that end a rollout beside the model's own end tokens.
    stop_strings : sequence of str
        A rollout ends at the token that completes one of these in the text so far, also where the string began in an
        earlier token or in the prompt, and where the token goes on after it. The token is kept.
    repetition_penalty : float, optional
        Logits of the tokens that prompt or rollout already hold are divided by it where positive, else multiplied.
    min_new_tokens : int
        Until so many tokens are drawn, no end token can be: neither the model's own nor one of ``stop_token_ids``.
        Stop strings may still end the rollout.
    suppress_tokens : sequence of int
        Tokens that are never drawn.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_new_tokens: int = 4000
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    repetition_penalty: float | None = None
    min_new_tokens: int = 0
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(0 < self.temperature < float("inf"), "temperature", self.temperature, "a positive, finite number")
        _require(_whole(self.max_new_tokens) and self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens,
                 "a whole number of at least 1")
        _require(self.top_k is None or (_whole(self.top_k) and self.top_k >= 1), "top_k", self.top_k,
                 "a whole number of at least 1, or None for no filter")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1, or None")
        _require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1, or None")
        penalty = self.repetition_penalty
        _require(penalty is None or 0 < penalty < float("inf"), "repetition_penalty", penalty,
                 "a positive, finite number, or None")
        _require(_whole(self.min_new_tokens) and 0 <= self.min_new_tokens <= self.max_new_tokens, "min_new_tokens",
                 self.min_new_tokens, f"a whole number from 0 to max_new_tokens ({self.max_new_tokens})")
        for name in ("stop_token_ids", "suppress_tokens"):
            object.__setattr__(self, name, _token_ids(name, getattr(self, name)))
        object.__setattr__(self, "stop_strings", _texts("stop_strings", self.stop_strings))

    @property
    def truncates(self) -> bool:
        """Whether any filter may remove tokens: top-k, top-p or min-p."""
        return self.top_k is not None or (self.top_p or 1.0) < 1 or (self.min_p or 0.0) > 0

    @property
    def penalises(self) -> bool:
        """Whether the law depends on which tokens the text already holds."""
        return self.repetition_penalty not in (None, 1)

    @property
    def processes(self) -> bool:
        """Whether anything acts on the logits before the temperature."""
        return self.penalises or self.min_new_tokens > 0 or bool(self.suppress_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name. Those that came later are left out at their defaults: a law keeps its dictionary, and so
        its hash, when the package learns of new ones."""
        defaults = {f.name: f.default for f in fields(self) if f.name in _LATER_FIELDS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
                if name not in defaults or value != defaults[name]}

    def label(self) -> str:
        """A short name for tables, such as ``T=1 top-k=100 cap=4000``; different laws have different names."""
        numbers = {"rep": self.repetition_penalty, "T": self.temperature, "top-k": self.top_k, "top-p": self.top_p,
                   "min-p": self.min_p, "min": self.min_new_tokens or None}
        lists = {"suppress": self.suppress_tokens, "stop-ids": self.stop_token_ids, "stop": self.stop_strings}
        return " ".join([*(f"{k}={v:g}" for k, v in numbers.items() if v is not None),
                         *(f"{k}={_short_list(v)}" for k, v in lists.items() if v), f"cap={self.max_new_tokens}"])


_LATER_FIELDS = ("stop_token_ids", "stop_strings", "repetition_penalty", "min_new_tokens", "suppress_tokens")


def _short_list(values: tuple[Any, ...]) -> str:
    """The values as JSON where that is short, else their number and the start of a hash."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= 40 else f"{len(values)}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _token_ids(name: str, values: Any) -> tuple[int, ...]:
    listed = _listed(name, values, "a list of token ids")
    _require(all(_whole(v) and v >= 0 for v in listed), name, values, "a list of token ids, whole numbers from 0")
    return tuple(int(v) for v in listed)


def _texts(name: str, values: Any) -> tuple[str, ...]:
    listed = _listed(name, values, "a list of texts")
    _require(all(isinstance(v, str) and v and _encodes(v) for v in listed), name, values,
             "a list of texts, none of them empty or with a lone surrogate")
    return listed


def _listed(name: str, values: Any, wanted: str) -> tuple[Any, ...]:
    _require(isinstance(values, Sequence | np.ndarray | set | frozenset) and not isinstance(values, str | bytes), name,
             values, wanted)
    return tuple(sorted(values) if isinstance(values, set | frozenset) else values)


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UserError(f"{name} is {value!r}; it must be {wanted}.")


_DECIDED_HERE = {"messages", "conversation", "tokenize", "add_generation_prompt", "continue_final_message",
                 "chat_template", "return_dict", "return_tensors", "padding", "truncation", "max_length",
                 "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"}
"""What a template is given anyway, or what is none of its arguments."""
_A_MAPPING = "a mapping of names to texts, numbers or lists"


def _template_kwargs(given: Any) -> dict[str, Any]:
    """Arguments of a chat template, which a manifest can hold."""
    try:
        kept: dict[str, Any] = json.loads(json.dumps(given or {}, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        _require(False, "template_kwargs", given, _A_MAPPING)
    _require(isinstance(kept, dict), "template_kwargs", given, _A_MAPPING)
    decided = sorted(kept.keys() & _DECIDED_HERE)
    if decided:
        raise UserError(f"template_kwargs holds {decided[0]!r}, which is decided here; leave it out.")
    return kept


RENDERED_TEXT = "rendered-text"
"""``chat`` as the paper ran it: the rendered template is tokenised again, with whatever BOS the tokenizer adds."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model, and how prompts are put to it.

    Parameters
    ----------
    model : str, path or transformers model
        Hub name, folder, GGUF file, or a loaded causal language model.
    tokenizer : str, path or tokenizer, optional
        Where it is not the one beside the adapter or the model.
    adapter : str or path, optional
        Adapter (peft) that is merged into the weights.
    revision : str, optional
        Commit or tag of a hub name.
    chat : bool or "rendered-text", optional
        Whether the chat template is applied; None means for variants other than ``base``. "rendered-text" tokenises
        the rendered template once more, so that tokenizers which add a BOS add a second one.
    system, enable_thinking, template_kwargs
        System message, and arguments of the chat template; they exist inside a chat template only.
    dtype, device : str
        "auto" is float32 on a CPU, the checkpoint's own type on a GPU; and the GPU where there is one.
    """

    model: Any
    tokenizer: Any = None
    adapter: str | Path | None = None
    revision: str | None = None
    chat: bool | str | None = None
    system: str | None = None
    enable_thinking: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "template_kwargs", _template_kwargs(self.template_kwargs))
        _require(self.chat in (None, True, False, RENDERED_TEXT), "chat", self.chat,
                 f"True, False, {RENDERED_TEXT!r}, or None (the template for variants other than 'base')")
        if self.chat is False and (self.system is not None or self.template_arguments):
            raise UserError("A system prompt, enable_thinking and template_kwargs only exist inside a chat template; "
                            "drop them, or set chat=True.")

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is given beside the messages."""
        if self.enable_thinking is None:
            return dict(self.template_kwargs)
        if "enable_thinking" in self.template_kwargs:
            raise UserError("enable_thinking stands in template_kwargs too; give it once.")
        return {**self.template_kwargs, "enable_thinking": self.enable_thinking}

    @property
    def origin(self) -> dict[str, str | None]:
        """Names and paths as they were given, for the manifest; None for an object, which cannot be found again."""
        named = {name: getattr(self, name) for name in ("model", "tokenizer", "adapter", "revision")}
        return {name: str(thing) if isinstance(thing, str | Path) else None for name, thing in named.items()}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, as its file has it and as the model receives it.

    ``source`` is what the user wrote (a string, a list of chat messages, or a list of token ids), ``token_ids``
    what is fed to the model, and ``prompt_hash`` the SHA-256 of the canonical JSON of ``source`` alone: it names
    the prompt across files, families and variants, and keys its randomness.
    """

    prompt_id: str
    prompt_hash: str
    source: str | list[dict[str, str]] | list[int]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One drawn rollout. ``steps`` maps each name of :data:`STEP_TERMS` to a float32 array of shape (N,); less is known
    of a rollout that came from elsewhere without its model (see :data:`STEPS_OF`). ``text`` None is decoded from the
    token ids."""

    prompt_index: int
    rollout: int
    token_ids: np.ndarray  # (N,) int32, end token included
    finish_reason: str
    steps: Mapping[str, np.ndarray]
    text: str | None = None


class Engine(Protocol):
    """What draws rollouts. ``sample`` is called once per shard, and its batch schedule may depend on the shard and
    the batch size alone; rollouts come in any order, and each depends only on its key
    (seed, family, variant, prompt hash, rollout index)."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Provenance for the manifest: model, revision or weight hash, dtype, device, threads, versions."""
        ...

    def encode(self, source: Any) -> tuple[int, ...]:
        """A prompt's source as the token ids that the model receives."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a rollout, without special tokens."""
        ...

    def sample(self, prompts: Sequence[Prompt], rollouts: Sequence[tuple[int, int]], policy: SamplingPolicy,
               key: RunKey, batch_size: int) -> Iterator[Rollout]:
        """Draw the (prompt index, rollout index) pairs of one shard."""
        ...


@dataclass(frozen=True, slots=True)
class RunKey:
    """The run's share of the randomness key."""

    seed: int
    family: str
    variant: str


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

IMPORTED = "imported"
"""The engine of a run that was drawn elsewhere."""

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


def printable(text: str) -> str:
    """Text that may go to a terminal: control characters and escapes are written out, as ``\\x1b``; line breaks and
    tabs stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def names(columns: Sequence[Column]) -> list[str]:
    """The columns' names, in their stored order."""
    return [c.name for c in columns]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides a run's content. Two runs with equal configurations are the same run."""

    family: str
    variant: str
    task: str
    n_rollouts: int
    seed: int
    policy: SamplingPolicy
    engine: str
    batch_size: int
    prompts_hash: str
    model: Mapping[str, Any] = field(default_factory=dict)
    """What the engine says of itself: model, weight hash or revision, adapter, dtype, device, threads, chat
    template, system prompt, versions of the packages that decide the numbers."""
    code_version: str = ""
    terms: str = EXACT
    """What is known of the entropies: one of :data:`TERMS`. Whatever was drawn here is exact."""
    counts: tuple[int, ...] | None = None
    """Rollouts of each prompt, where they are not as many of each; ``n_rollouts`` is then the largest of them."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; those that came later are left out at their defaults."""
        later = {**({"terms": self.terms} if self.terms != EXACT else {}),
                 **({"counts": list(self.counts)} if self.counts is not None else {})}
        whole = {**asdict(self), "policy": self.policy.to_dict(), "model": dict(self.model), **later}
        return {k: v for k, v in whole.items() if k not in ("terms", "counts") or k in later}

    def rollouts_of(self, n_prompts: int) -> list[int]:
        """How many rollouts each of the prompts has."""
        return [self.n_rollouts] * n_prompts if self.counts is None else list(self.counts)
