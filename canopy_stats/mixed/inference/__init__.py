"""Questions to fits: tests, degrees of freedom, comparisons, profiles, bootstraps, residuals, power."""
