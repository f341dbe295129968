"""Trials to a verdict: constraints, comparisons, the rules' rankings. Reads numbers and answers only."""
