"""HTTP around the pipeline that was frozen. Knows nothing of how it was measured."""
