"""Covariances and their blocks, coordinates without units, the optimiser: linear algebra that every fit shares."""
