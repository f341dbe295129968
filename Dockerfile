# Serve a frozen winner on a GPU:
#   docker build -t gpuqa . && docker run --gpus all -p 8000:8000 -v "$PWD/local-model:/app/local-model:ro" gpuqa
# vLLM, PyTorch and CUDA come from the base image and stay as they are; only what it lacks is added, without dependencies.
ARG VLLM_VERSION=v0.32.0
FROM vllm/vllm-openai:${VLLM_VERSION}

WORKDIR /app
RUN pip install --no-cache-dir --no-deps \
    absl-py==2.5.1 antlr4-python3-runtime==4.9.3 hydra-core==1.3.8 jieba==0.42.1 joblib==1.6.0 nltk==3.10.4 \
    omegaconf==2.3.1 pandas==3.1.1 python-dateutil==4.0.0 rapidfuzz==3.14.6 rouge-score==0.1.2 tzdata==2026.6
COPY conf conf
COPY gpuqa gpuqa
COPY hydra_plugins hydra_plugins
COPY experiments experiments

ENV HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1
EXPOSE 8000
ENTRYPOINT ["python3", "-m", "gpuqa.serve"]
