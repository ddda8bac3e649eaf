# Reference values of clustered standard errors: clubSandwich on lmer, lm and glm; for GLMMs the sandwich of the clusters' own
# scores from glmmTMB's likelihood (bread: the Hessian of all parameters; meat: gradients of fits to one cluster each, at the estimates).
# Usage: Rscript clustered.R out.json     (R 4.2.2, lme4 1.1.31, clubSandwich 0.5.8, glmmTMB 1.1.5)
suppressMessages({library(jsonlite); library(lme4); library(clubSandwich); library(glmmTMB)})
out <- commandArgs(TRUE)[1]
set.seed(11)
size <- c(3, 5, 8, 4, 9, 6, 12, 7, 5, 10, 3, 8)
school <- rep(seq_along(size), size); n <- length(school)
data <- data.frame(school = school, class = paste(school, ave(school, school, FUN = function(s) rep(1:2, length.out = length(s)))),
                   x = round(rnorm(n), 3), arm = c("a", "b", "c")[1 + school %% 3])
data$y <- round(2 + 0.5 * data$x + (data$arm == "b") + rnorm(12, 0, 1)[school] + rnorm(n) * (1 + abs(data$x)), 3)
data$hit <- rbinom(n, 1, plogis(0.3 + 0.8 * data$x + rnorm(12, 0, 0.8)[school]))
data$count <- rnbinom(n, size = 2, mu = exp(1 + 0.3 * data$x + rnorm(12, 0, 0.6)[school]))
data$w <- rep(c(1, 2), length.out = n)
test <- function(m, cluster, kind) {
  v <- vcovCR(m, cluster = cluster, type = kind); t <- coef_test(m, vcov = v)
  p <- nrow(t); l <- diag(p)[(p - 1):p, , drop = FALSE]; w <- Wald_test(m, constraints = l, vcov = v, test = "HTZ")
  df <- if ("df_Satt" %in% names(t)) t$df_Satt else t$df
  list(kind = kind, vcov = unname(as.matrix(v)), se = t$SE, df = df, f = w$Fstat, f_df = w$df_denom, f_p = w$p_val)
}
all <- function(name, m, cluster) list(name = name, beta = unname(if (isS4(m)) fixef(m) else coef(m)),
                                       tests = lapply(c("CR0", "CR1", "CR2", "CR3"), function(k) test(m, cluster, k)))
scores <- function(formula, family, dispformula = ~1) {
  m <- glmmTMB(formula, data, family = family, dispformula = dispformula)
  par <- m$fit$par
  g <- t(sapply(unique(data$school), function(s) {
    part <- glmmTMB(formula, data[data$school == s, ], family = family, dispformula = dispformula, doFit = FALSE)
    one <- TMB::MakeADFun(part$data.tmb, part$parameters, map = part$mapArg, random = part$randomArg, silent = TRUE, DLL = "glmmTMB")
    as.numeric(one$gr(par))
  }))
  h <- solve(optimHess(par, m$obj$fn, m$obj$gr)); p <- sum(names(par) == "beta")
  v <- h %*% crossprod(g) %*% h
  list(beta = unname(par[1:p]), vcov = unname(v[1:p, 1:p]), dispersion_se = unname(sqrt(diag(v)[names(par) == "betad"])))
}
lmer1 <- function(f, ...) lmer(f, data, control = lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10)), ...)
res <- list(
  all("lmer", lmer1(y ~ x + arm + (1 | school)), data$school),
  all("lmer nested", lmer1(y ~ x + arm + (1 + x | school) + (1 | class)), data$school),
  all("lmer ml", lmer1(y ~ x + arm + (1 | class), REML = FALSE), data$school),
  all("lm", lm(y ~ x + arm, data), data$school),
  all("logit", glm(hit ~ x + arm, binomial, data, epsilon = 1e-12), data$school),
  all("poisson", glm(count ~ x + arm, poisson, data, epsilon = 1e-12), data$school))
write_json(list(r = R.version.string, clubSandwich = as.character(packageVersion("clubSandwich")), data = data, fits = res,
                binomial = scores(hit ~ x + (1 | school), binomial), nbinom2 = scores(count ~ x + (1 | school), nbinom2),
                gaussian = scores(y ~ x + (1 | school), gaussian, ~x)), out, digits = 12, auto_unbox = TRUE, dataframe = "columns")
