"""Confidence sets for the ratio of two slopes; the mathematics is that of any two estimates."""

from canopy_stats.mixed.ratios import Kind, RatioSet, delta_interval, delta_se, fieller

__all__ = ["Kind", "RatioSet", "delta_interval", "delta_se", "fieller"]
