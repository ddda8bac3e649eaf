# Reference values of Kenward and Roger's tests: pbkrtest on lme4's sleepstudy and Penicillin-like crossed data.
# Usage: Rscript kenward_roger.R out.json     (R 4.2.2, lme4 1.1.31, pbkrtest)
suppressMessages({library(jsonlite); library(lme4); library(pbkrtest)})
out <- commandArgs(TRUE)[1]
one <- function(name, data, formula, l) {
  m <- lmer(as.formula(formula), data)
  t <- KRmodcomp(m, l)$test
  list(name = name, formula = formula, vcov = unname(as.matrix(vcovAdj(m))), statistic = t["Ftest", "stat"], ndf = t["Ftest", "ndf"],
       ddf = t["Ftest", "ddf"], scale = t["Ftest", "F.scaling"], p = t["Ftest", "p.value"],
       df = sapply(seq_along(fixef(m)), function(i) get_Lb_ddf(m, as.numeric(seq_along(fixef(m)) == i))))
}
sleepstudy$half <- factor(ifelse(as.integer(as.character(sleepstudy$Subject)) %% 2 == 0, "even", "odd"))
cut <- sleepstudy[-c(3, 17, 18, 44, 90, 91, 92, 150), ]
res <- list(one("slope", sleepstudy, "Reaction ~ Days + (Days | Subject)", matrix(c(0, 1), 1)),
            one("unbalanced", cut, "Reaction ~ Days * half + (Days | Subject)", rbind(c(0, 0, 1, 0), c(0, 0, 0, 1))),
            one("crossed", cut, "Reaction ~ half + (1 | Subject) + (1 | Days)", matrix(c(0, 1), 1)))
write_json(list(r = R.version.string, pbkrtest = as.character(packageVersion("pbkrtest")), fits = res), out, digits = 12, auto_unbox = TRUE, pretty = TRUE)
