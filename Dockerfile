# Linly Chat. On the CPU:      docker build -t linly-chat .
# For an NVIDIA GPU (CUDA):    docker build -t linly-chat:gpu --build-arg TORCH_INDEX= .
# Run (for the latter with --gpus all; --init, so that it can be stopped while Python starts):
#   docker run --init -p 127.0.0.1:7860:7860 -v linly-data:/data linly-chat
# Everything here works with the classic builder too, so nothing needs BuildKit.
FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="Linly Chat" \
      org.opencontainers.image.description="Chat with a LLaMA-family model and its LoRA adapters"

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# 1000 is the first user of most machines: a mounted folder of theirs is writable inside, too.
RUN useradd --uid 1000 --create-home linly \
    && mkdir /data \
    && chown linly:linly /data

WORKDIR /app

# Only torch itself comes from this index, whose builds lack CUDA and so are gigabytes smaller.
# Empty: the default index, which has the CUDA build.
ARG TORCH_INDEX="https://download.pytorch.org/whl/cpu"
COPY requirements.txt ./
RUN grep '^torch==' requirements.txt > /tmp/torch.txt \
    && pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r /tmp/torch.txt \
    && pip install -r requirements.txt \
    && rm /tmp/torch.txt

# The default model, so that a container needs no network and answers within seconds. The
# compiled kernels and the quantized weights are added at the first start.
COPY model ./model
RUN python -m model.default_model /opt/cache && chown -R linly:linly /opt/cache

COPY prompts ./prompts
COPY terminal ./terminal
COPY training ./training
COPY translations ./translations
COPY web ./web
COPY app.py finetune.py inference_LLaMA.py ./
# A checkout made under a strict umask (027, 077) would be closed to the user below.
RUN chmod -R a+rX /app

# Data, unlike the code: training writes here, and a new volume starts as a copy of this folder.
COPY --chown=linly:linly adapters ./adapters

# The published port decides who has access, hence 0.0.0.0. Downloads of the hub and of Gradio
# are stored with the chats, so that a new container does not download them again.
ENV LINLY_SERVER_NAME=0.0.0.0 \
    LINLY_ADAPTERS_DIR=/app/adapters \
    LINLY_CACHE_DIR=/opt/cache \
    LINLY_DATA_DIR=/data \
    HF_HOME=/data/huggingface

VOLUME ["/app/adapters", "/data"]
EXPOSE 7860

# A number, so that Kubernetes' runAsNonRoot can see that this is not root.
USER 1000

# /health is 503 while the model loads, which takes minutes for a large one. Without a proxy: the
# container's proxy settings may not exclude 127.0.0.1.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", \
    "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:%s/health' % os.environ.get('LINLY_SERVER_PORT', 7860), timeout=4)"]

# No shell in between: SIGTERM must reach Python. Flags go behind the image's name.
ENTRYPOINT ["python", "app.py"]
