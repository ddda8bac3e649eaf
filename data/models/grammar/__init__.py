"""Grammars behind the prompts and the training texts of the tiny models: one module for each task."""
