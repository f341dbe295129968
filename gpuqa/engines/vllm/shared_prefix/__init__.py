"""Attention for many answers behind one system prompt: `engine.attention=shared_prefix`.

Every request of this project starts with the same tokens, and prefix caching keeps their keys and values in the same blocks.
While answers are decoded, vLLM's attention reads them once for every sequence all the same: with 358 sequences behind 500
tokens that is most of a step's time on an H200 (experiments/LOG.md). Here the shared part is read once for a tile of sequences
and multiplied as a matrix, and the rest of each sequence goes on from where that ended, as in Hydragen (Juravsky et al., 2024).
How many tokens are shared is found on the GPU, from the block tables of the step, so that the whole step stays in one CUDA
graph and a batch that shares nothing is answered as well.

Keys and values of the newest token are written by the same kernel that reads the others, which spares a launch in each layer.
On Hopper and later that kernel begins while the shared part is still read, and waits for it where it needs the result.

`backend.py` is what vLLM loads as its CUSTOM attention backend: decoding steps of many plain sequences, or of one, go to
`kernels.py`, everything else to the attention of vLLM that it extends: FlashAttention, or with an fp8 KV cache, which
FlashAttention reads on few cards, Triton's. `kernels.py` launches what `programs.py` holds; both know nothing of vLLM.
"""
