"""The public names, each from the module that holds it: for editors, type checkers, and the first use of a name."""

from . import metrics as metrics, mixed as mixed, oracle as oracle, report as report, slope as slope
from .checks import check as check
from .doors.audit import audit as audit
from .doors.compare import compare as compare
from .doors.importing import import_rollouts as import_rollouts
from .doors.scores import read_inspect as read_inspect, read_lm_eval as read_lm_eval
from .doors.training import training_callback as training_callback
from .end_tokens import end_in_top_k as end_in_top_k
from .metrics import measure as measure, paired_bootstrap as paired_bootstrap
from .metrics.embed import embed as embed
from .metrics.judge import add_rse as add_rse, judge as judge
from .metrics.judging.local import EmbeddingJudge as EmbeddingJudge
from .metrics.judging.openai import OpenAIJudge as OpenAIJudge
from .metrics.people import correct_judge as correct_judge
from .metrics.rho import rho as rho
from .metrics.rho_change import rho_change as rho_change
from .metrics.reward import best_rollouts as best_rollouts, keep_best as keep_best, reward as reward
from .metrics.trajectory import trajectory as trajectory
from .mixed import (
    anova as anova,
    bootstrap as bootstrap,
    glmm as glmm,
    hypothesis as hypothesis,
    lmm as lmm,
    load_fit as load_fit,
    means as means,
    plot_effects as plot_effects,
    power as power,
    profile as profile,
    quantile_residuals as quantile_residuals,
    slopes as slopes,
    to_marginaleffects as to_marginaleffects,
    variance_shares as variance_shares,
)
from .panels import load_demo_panel as load_demo_panel, panel as panel
from .runs import generate as generate, rescore as rescore
from .schema import SamplingPolicy as SamplingPolicy, UserError as UserError
from .slope import (
    Scenario as Scenario,
    simulate_panel as simulate_panel,
    slope_change as slope_change,
    slope_power as slope_power,
    slope_scrutiny as slope_scrutiny,
    slope_table as slope_table,
    specification_curve as specification_curve,
)
from .slope.contrasts import slope_contrasts as slope_contrasts
from .slope.factorial import template_factorial as template_factorial
from .slope.rivals import slope_rivals as slope_rivals
from .store import open_run as open_run
from .study import read_study as read_study, run_study as run_study

__version__: str
