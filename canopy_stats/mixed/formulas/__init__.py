"""From the text of a formula and a table to designs: reading, levels, splines, fixed and random columns."""
