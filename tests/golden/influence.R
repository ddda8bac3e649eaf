# Reference values of leaving out levels: refits of lmer and glmmTMB, and Cook's distances from their coefficients.
# Usage: Rscript influence.R out.json     (R 4.2.2, lme4 1.1.31, glmmTMB 1.1.5)
suppressMessages({library(jsonlite); library(lme4); library(glmmTMB)})
out <- commandArgs(TRUE)[1]
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10))
one <- function(name, m, data, group) {
  coefficients <- function(fit) if (inherits(fit, "glmmTMB")) fixef(fit)$cond else fixef(fit)
  spread <- function(fit) if (inherits(fit, "glmmTMB")) vcov(fit)$cond else as.matrix(vcov(fit))
  levels <- sort(unique(data[[group]])); full <- coefficients(m); p <- length(full)
  refits <- lapply(levels, function(s) update(m, data = data[data[[group]] != s, ]))
  beta <- t(sapply(refits, coefficients)); se <- t(sapply(refits, function(r) sqrt(diag(spread(r)))))
  moved <- sweep(-beta, 2, -full)
  list(name = name, levels = levels, dfbetas = unname(moved / se),
       cook = apply(moved, 1, function(d) drop(t(d) %*% solve(spread(m), d))) / p)
}
sleep <- transform(sleepstudy, Subject = as.integer(as.character(Subject)))
binary <- transform(cbpp, herd = as.integer(as.character(herd)), late = as.integer(period) > 2)
m1 <- lmer(Reaction ~ Days + (Days | Subject), sleep, control = tight)
m2 <- lmer(Reaction ~ Days + (1 | Subject), sleep, REML = FALSE, control = tight)
m3 <- glmmTMB(cbind(incidence, size - incidence) ~ late + (1 | herd), binary, family = binomial)
res <- list(one("slopes", m1, sleep, "Subject"), one("intercepts", m2, sleep, "Subject"), one("binomial", m3, binary, "herd"),
            one("by day", m2, sleep, "Days"))
write_json(list(r = R.version.string, lme4 = as.character(packageVersion("lme4")), sleep = sleep,
                binary = transform(binary, period = NULL), fits = res), out, digits = 10, auto_unbox = TRUE, dataframe = "columns")
