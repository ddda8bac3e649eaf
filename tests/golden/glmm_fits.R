# More reference fits by glmmTMB: one family, nesting, weights, offsets, tiny, singular, two crossed slopes, gaussian dispersion.
# Usage: Rscript glmm_fits.R panels-folder out.json     (R 4.2.2, glmmTMB 1.1.5, lme4 1.1.31)
suppressMessages({library(jsonlite); library(glmmTMB); library(splines)})
args <- commandArgs(TRUE)
panel <- function(name) {
  d <- read.csv(gzfile(file.path(args[1], paste0(name, ".csv.gz"))))
  d$R_sc <- as.numeric(scale(d$R_bar)); d$D_beta <- pmin(pmax(d$D, 1e-6), 1 - 1e-6)
  d$w <- 0.5 + (seq_len(nrow(d)) %% 3) / 2; d$shift <- 0.1 * (seq_len(nrow(d)) %% 5)
  d$model_variant <- relevel(factor(d$model_variant), ref = "base"); d$task <- relevel(factor(d$task), ref = "completion"); d
}
a <- panel("panel_a"); c <- panel("panel_c_random_slopes"); b <- panel("panel_b_with_zeros_and_ones")
data(sleepstudy, package = "lme4")
fit_one <- function(name, data, formula, family = beta_family(), disp = ~1, weights = NULL, offset = NULL) {
  data$.w <- if (is.null(weights)) rep(1, nrow(data)) else data[[weights]]
  data$.o <- if (is.null(offset)) rep(0, nrow(data)) else data[[offset]]
  start <- if (family$family == "ordbeta") list(psi = c(-3, 3)) else NULL
  f <- suppressWarnings(glmmTMB(as.formula(formula), data, family = family, dispformula = disp, weights = .w, offset = .o, start = start))
  co <- summary(f)$coefficients
  v <- VarCorr(f)$cond
  list(name = name, formula = formula, dispformula = deparse(disp), logLik = as.numeric(logLik(f)), pdHess = f$sdr$pdHess,
       params = unname(fixef(f)$cond), bse = unname(co$cond[, 2]), disp = unname(fixef(f)$disp),
       disp_bse = if (is.null(co$disp)) NULL else unname(co$disp[, 2]),
       sd = unname(unlist(lapply(v, function(m) attr(m, "stddev")))), psi = unname(f$fit$par[names(f$fit$par) == "psi"]),
       fitted = unname(fitted(f)[1:5]), population = unname(predict(f, re.form = NA, type = "response")[1:5]),
       se_link = unname(predict(f, se.fit = TRUE, type = "link")$se.fit[1:5]))
}
one <- function(name, ...) tryCatch(fit_one(name, ...), error = function(e) { message(name, ": ", conditionMessage(e)); NULL })
q <- subset(a, model_name == "Qwen3-8b")
tiny <- q[q$task == "math" & q$prompt_id < 12, ]
res <- list(
  one("one_family", q, "D_beta ~ R_sc*model_variant + task + (1|prompt_uid)", disp = ~model_variant),
  one("nested", c, "D_beta ~ R_sc*model_variant + (1|task/prompt_uid)", disp = ~R_sc),
  one("weighted", q, "D_beta ~ R_sc*model_variant + task + (1|prompt_uid)", weights = "w"),
  one("offset", q, "D_beta ~ R_sc*model_variant + task + (1|prompt_uid)", offset = "shift"),
  one("tiny", tiny, "D_beta ~ R_sc + model_variant + (1|prompt_uid)"),
  one("no_random", q, "D_beta ~ R_sc*model_variant + task", disp = ~task),
  one("slopes_two", c, "D_beta ~ R_sc*model_variant + task + (1+R_sc|prompt_uid) + (0+R_sc|model_name)", disp = ~model_variant),
  one("gauss_slope", sleepstudy, "Reaction ~ Days + (1+Days|Subject)", gaussian(), ~Days),
  one("ordbeta_crossed", b, "D ~ R_sc + model_variant + (1|prompt_uid) + (1|model_name)", ordbeta(), ~task))
write_json(list(r = R.version.string, glmmTMB = as.character(packageVersion("glmmTMB")), fits = Filter(Negate(is.null), res)), args[2], digits = 12, auto_unbox = TRUE,
           pretty = TRUE, null = "null")
