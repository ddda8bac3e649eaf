"""The ways of fitting: the linear search, Laplace and quadrature for the rest, where they start, what they prove."""
