# Serve a frozen winner on a GPU:
#   docker build -t gpuqa --build-arg FROZEN=experiments/gpu_pro/frozen.yaml .
#   docker run --gpus all -p 8000:8000 -v gpuqa-cache:/cache -v "$PWD/local-model:/app/local-model:ro" gpuqa
# vLLM, PyTorch and CUDA come from the base image and stay as they are; only what it lacks is added, without dependencies.
ARG VLLM_VERSION=v0.33.0
FROM vllm/vllm-openai:${VLLM_VERSION}

WORKDIR /app
COPY requirements/image.txt requirements/image.txt
RUN python3 -m pip install --no-cache-dir --no-deps -r requirements/image.txt
COPY conf conf
COPY hydra_plugins hydra_plugins
COPY gpuqa gpuqa

# What is compiled for the GPU (vLLM, Triton, CUDA) goes to /cache: a volume there, and a second start compiles nothing.
RUN useradd --uid 10001 --no-log-init --create-home --home-dir /cache gpuqa
ENV HOME=/cache VLLM_CACHE_ROOT=/cache/vllm TRITON_CACHE_DIR=/cache/triton FLASHINFER_WORKSPACE_BASE=/cache \
    PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1
VOLUME /cache

# Weights are mounted at /app/local-model, or baked: --build-arg MODEL=qwen3_0_6b_gpu_pro fetches those of conf/model.
ARG MODEL=
RUN if [ -n "${MODEL}" ]; then python3 -m gpuqa.download "model=${MODEL}"; fi
ARG FROZEN=experiments/embedded/frozen.yaml
COPY ${FROZEN} frozen.yaml

USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=420s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["python3", "-m", "gpuqa.serve"]
CMD ["frozen=frozen.yaml"]
