"""Find, prove and serve the best configuration of a small LLM that answers GPU/CUDA questions."""

__version__ = "0.1.0"
