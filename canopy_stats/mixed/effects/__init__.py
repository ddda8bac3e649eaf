"""Means, slopes and contrasts over grids of predictors, their figures, and the door to marginaleffects."""
