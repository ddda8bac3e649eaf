# Reference values on lme4's classic data (sleepstudy, Penicillin, Pastes), which mixedlm also carries.
# Usage: Rscript classic_fits.R out.json     (R 4.2.2, lme4 1.1.31, lmerTest 3.1.3)
suppressMessages({library(jsonlite); library(lme4); library(lmerTest)})
args <- commandArgs(TRUE)
one <- function(name, data, formula, REML = TRUE) {
  f <- lmerTest::lmer(as.formula(formula), data, REML = REML)
  co <- coef(summary(f)); v <- as.data.frame(VarCorr(f))
  re <- ranef(f, condVar = TRUE)[[1]]; pv <- attr(re, "postVar")
  list(name = name, formula = formula, REML = REML, logLik = as.numeric(logLik(f)), params = unname(co[, 1]), bse = unname(co[, 2]),
       df = unname(co[, 3]), sdcor = v$sdcor, group = rownames(ranef(f)[[1]])[1:3], ranef = unname(as.matrix(re)[1:3, , drop = FALSE]),
       condsd = sqrt((if (is.list(pv)) pv[[1]] else pv)[1, 1, 1:3]), aic = AIC(f), bic = BIC(f))
}
res <- list(one("sleep_slope", sleepstudy, "Reaction ~ Days + (1 + Days | Subject)"),
            one("sleep_uncorrelated", sleepstudy, "Reaction ~ Days + (1 + Days || Subject)"),
            one("sleep_ml", sleepstudy, "Reaction ~ Days + (1 | Subject)", FALSE),
            one("penicillin", Penicillin, "diameter ~ 1 + (1 | plate) + (1 | sample)"),
            one("pastes_nested", Pastes, "strength ~ 1 + (1 | batch/cask)"))
write_json(list(r = R.version.string, lme4 = as.character(packageVersion("lme4")), lmerTest = as.character(packageVersion("lmerTest")), fits = res),
           args[1], digits = 12, auto_unbox = TRUE, pretty = TRUE)
