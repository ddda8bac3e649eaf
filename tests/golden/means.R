# Reference values of F tests, estimated means and contrasts, by lmerTest, emmeans, lme4 and glmmTMB.
# Run from this folder: Rscript means.R panels/families.csv.gz means.json
suppressMessages({library(jsonlite); library(lme4); library(lmerTest); library(glmmTMB); library(emmeans); library(pbkrtest)})
a <- commandArgs(TRUE)
d <- read.csv(a[1])
for (k in c("model", "item", "variant", "task")) d[[k]] <- factor(d[[k]])
rows <- function(x) { x <- as.data.frame(x); names(x) <- make.names(names(x)); x[] <- lapply(x, function(v) if (is.factor(v)) as.character(v) else v); x }
tests <- function(m, ...) { an <- anova(m, ...); cbind(term = rownames(an), rows(an)) }

# An unbalanced linear model without a cell left empty, and one with an empty cell.
u <- d[!(d$task == "math" & d$variant == "tuned" & (as.integer(d$item) %/% 3) %% 3 != 0), ]
e <- d[!(d$task == "math" & d$variant == "tuned"), ]
f <- y ~ variant * task * x + (1 | item)
lm3 <- lmer(f, u)
contrasts_sum <- list(variant = "contr.sum", task = "contr.helmert")
lms <- lmer(f, u, contrasts = contrasts_sum)
lme <- suppressMessages(lmer(y ~ variant * task + (1 | item), e))
lmq <- lmer(y ~ variant * task + x + I(x^2) + (1 | item) + (1 | model), u)

lmx <- lmer(y ~ variant * task + x + (1 + x | item) + (1 | model), d)

bin <- glmmTMB(correct ~ variant * task + x + (1 | item) + (1 | model), d, family = binomial())
pro <- glmmTMB(correct ~ variant * task + x + (1 | item), d, family = binomial(link = "probit"))
poi <- glmmTMB(events ~ variant * task + x + offset(log(exposure)) + (1 | item), d, family = poisson())
clm <- function(x) rows(summary(x, infer = c(TRUE, TRUE)))
glm_set <- function(m) {
  g <- ref_grid(m, df = Inf)
  list(tests = rows(joint_tests(g)),
    link = clm(emmeans(g, ~ variant | task)),
    response = clm(emmeans(g, ~ variant | task, type = "response")),
    task = clm(emmeans(g, ~ task, type = "response")),
    pairs = clm(pairs(emmeans(g, ~ task), type = "response")),
    pairs_by = clm(pairs(emmeans(g, ~ task | variant), type = "response", adjust = "holm")),
    all_pairs = clm(pairs(emmeans(g, ~ variant * task), type = "response")))
}

out <- list(
  R = R.version.string, lme4 = as.character(packageVersion("lme4")), lmerTest = as.character(packageVersion("lmerTest")),
  emmeans = as.character(packageVersion("emmeans")), glmmTMB = as.character(packageVersion("glmmTMB")),
  pbkrtest = as.character(packageVersion("pbkrtest")),
  linear = list(
    type3 = tests(lm3, type = 3), type3_sum = tests(lms, type = 3), type2 = tests(lm3, type = 2),
    kenward_roger = tests(lm3, type = 3, ddf = "Kenward-Roger"),
    means = clm(emmeans(lm3, ~ variant | task, lmer.df = "satterthwaite")),
    marginal_means = clm(emmeans(lm3, ~ task, lmer.df = "satterthwaite")),
    reference = clm(contrast(emmeans(lm3, ~ task, lmer.df = "satterthwaite"), "trt.vs.ctrl", adjust = "sidak")),
    fdr = clm(contrast(emmeans(lm3, ~ variant * task, lmer.df = "satterthwaite"), "pairwise", adjust = "fdr")),
    bonferroni = clm(contrast(emmeans(lm3, ~ task | variant, lmer.df = "satterthwaite"), "pairwise", adjust = "bonferroni")),
    custom = clm(contrast(emmeans(lm3, ~ task, lmer.df = "satterthwaite"), list(c = c(1, -.5, -.5)), adjust = "none"))),
  empty = list(type3 = tests(lme, type = 3), type2 = tests(lme, type = 2),
    variant = clm(emmeans(lme, ~ variant, lmer.df = "satterthwaite")),
    cells = clm(emmeans(lme, ~ variant * task, lmer.df = "satterthwaite")),
    pairs = clm(pairs(emmeans(lme, ~ variant | task, lmer.df = "satterthwaite")))),
  slopes = list(type3 = tests(lmx, type = 3),
    pairs = clm(pairs(emmeans(lmx, ~ variant * task, lmer.df = "satterthwaite")))),
  crossed = list(kenward_roger = tests(lmer(y ~ variant + x + task + (1 + x | item) + (1 | model), d), type = 3,
                                       ddf = "Kenward-Roger")),
  quadratic = list(type3 = tests(lmq, type = 3), means = clm(emmeans(lmq, ~ task, lmer.df = "satterthwaite"))),
  binomial = glm_set(bin), probit = glm_set(pro), poisson = glm_set(poi))
write_json(out, a[2], digits = 12, auto_unbox = TRUE, pretty = TRUE, null = "null", na = "null")
