"""vLLM as a back end, and the parts of it that ours replace."""
