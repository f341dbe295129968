"""The embedded default: a question set, and a demonstration model trained on its train split."""
