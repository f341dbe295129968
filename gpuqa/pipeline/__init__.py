"""Prompt + engine: question in, completion out."""
