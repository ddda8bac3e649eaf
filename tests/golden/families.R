# Reference fits of every response family on panels/families.csv.gz, a simulated panel of 8 models (4 base, 4 tuned) that
# answer 45 items of 3 tasks: crossed random intercepts of item and model, one response column a family.
# Usage: Rscript families.R panels/families.csv.gz families.json
# (R 4.2.2, glmmTMB 1.1.5, lme4 1.1.31, ordinal 2022.11-16)
suppressMessages({library(jsonlite); library(lme4); library(glmmTMB); library(ordinal)})
args <- commandArgs(TRUE)
d <- read.csv(gzfile(args[1]))
for (name in c("model", "item", "variant", "task")) d[[name]] <- factor(d[[name]])
d$rating <- factor(d$rating, ordered = TRUE)
d$row <- factor(seq_len(nrow(d)))
d$inner <- pmin(pmax(d$passed / d$trials, 0.05), 0.95)
d$share <- d$passed / d$trials
d$log_latency <- log(d$latency)

table_of <- function(m) if (is.null(m)) NULL else list(params = as.list(setNames(m[, 1], rownames(m))), bse = as.list(setNames(m[, 2], rownames(m))))
spread <- function(v) lapply(v, function(m) as.numeric(attr(m, "stddev")))
CROSSED <- "variant*x + task + (1|item) + (1|model)"
ONE <- "variant*x + task + (1|item)"

tmb <- function(name, response, right, family, ...) {
  f <- suppressWarnings(glmmTMB(as.formula(paste(response, "~", right)), d, family = family, ...))
  co <- summary(f)$coefficients
  dispersion <- if (is.null(co$disp)) list(params = as.list(fixef(f)$disp)) else table_of(co$disp)
  list(name = name, logLik = as.numeric(logLik(f)), cond = table_of(co$cond), disp = dispersion, zi = table_of(co$zi),
       varcorr = spread(VarCorr(f)$cond), pdHess = f$sdr$pdHess, mean = unname(predict(f, type = "response")[1:6]),
       population = unname(predict(f, type = "response", re.form = NA)[1:6]),
       se_link = unname(predict(f, type = "link", se.fit = TRUE)$se.fit[1:6]))
}
# clmm's "loglog" is what clm, MASS::polr and glm call "cloglog" (checked on models without random terms).
cumulative <- function(name, link, right) {
  f <- clmm(as.formula(paste("rating ~", right)), d, link = link, control = clmm.control(maxIter = 500, gradTol = 1e-7))
  list(name = name, logLik = as.numeric(logLik(f)), cond = table_of(summary(f)$coefficients), varcorr = spread(VarCorr(f)))
}
nagq <- function(name, formula, family, n) {
  f <- glmer(as.formula(formula), d, family = family, nAGQ = n, control = glmerControl(tolPwrss = 1e-12, optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 1e5)))
  list(name = name, deviance = -2 * as.numeric(logLik(f)), cond = table_of(coef(summary(f))), varcorr = spread(VarCorr(f)), nodes = n)
}
fits <- list(
  tmb("binomial", "correct", CROSSED, binomial()),
  tmb("binomial_slope", "correct", "variant*x + task + (1+x|item) + (1|model)", binomial()),
  tmb("binomial_probit", "correct", ONE, binomial(link = "probit")),
  tmb("binomial_cloglog", "correct", ONE, binomial(link = "cloglog")),
  tmb("binomial_trials", "cbind(passed, trials-passed)", CROSSED, binomial()),
  tmb("binomial_share", "share", CROSSED, binomial(), weights = d$trials),
  tmb("binomial_weights", "correct", ONE, binomial(), weights = d$w),
  tmb("betabinomial", "cbind(passed_od, trials-passed_od)", CROSSED, betabinomial()),
  tmb("betabinomial_disp", "cbind(passed_od, trials-passed_od)", CROSSED, betabinomial(), dispformula = ~variant),
  tmb("poisson", "count", CROSSED, poisson()),
  tmb("poisson_offset", "events", "variant*x + task + offset(log(exposure)) + (1|item) + (1|model)", poisson()),
  tmb("poisson_rows", "count_nb2", "variant*x + task + (1|item) + (1|row)", poisson()),
  tmb("nbinom2", "count_nb2", CROSSED, nbinom2()),
  tmb("nbinom2_disp", "count_nb2", CROSSED, nbinom2(), dispformula = ~variant),
  tmb("nbinom1", "count_nb1", CROSSED, nbinom1()),
  tmb("nbinom1_disp", "count_nb1", CROSSED, nbinom1(), dispformula = ~x),
  tmb("gamma_log", "latency", CROSSED, Gamma(link = "log")),
  tmb("gamma_disp", "latency", CROSSED, Gamma(link = "log"), dispformula = ~variant),
  tmb("lognormal", "log_latency", CROSSED, gaussian(), dispformula = ~variant),
  tmb("zi_poisson", "count_zip", ONE, poisson(), ziformula = ~variant),
  tmb("zi_nbinom1", "count_zi", ONE, nbinom1(), ziformula = ~1),
  tmb("zi_nbinom2", "count_zi", CROSSED, nbinom2(), ziformula = ~variant),
  tmb("hurdle_poisson", "count_zip", CROSSED, truncated_poisson(), ziformula = ~variant + x),
  tmb("hurdle_nbinom2", "count_zi", ONE, truncated_nbinom2(), ziformula = ~variant),
  tmb("beta_probit", "inner", ONE, beta_family(link = "probit")),
  cumulative("cumulative", "logit", CROSSED), cumulative("cumulative_probit", "probit", CROSSED),
  cumulative("cumulative_cloglog", "loglog", ONE),
  nagq("binomial_agq15", "correct ~ variant + x + (1|item)", binomial, 15),
  nagq("poisson_agq9", "count ~ variant + x + (1|item)", poisson, 9))
versions <- list(R = R.version.string, glmmTMB = as.character(packageVersion("glmmTMB")), lme4 = as.character(packageVersion("lme4")), ordinal = as.character(packageVersion("ordinal")))
write_json(c(versions, list(fits = fits)), args[2], digits = 12, auto_unbox = TRUE, pretty = TRUE, null = "null")
