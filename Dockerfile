# medsd's image: Ray's head and workers, and the operator. Versions are those of uv.lock; the user is 1000, never root.
#   docker build --target cuda -t registry.example.com/medsd:0.1.0-cuda .
#   docker build --target cpu  -t registry.example.com/medsd:0.1.0-cpu  .
# BASE: a Debian or Ubuntu with Python 3.11 as python3.11, its headers and its venv module.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS uv
RUN python3.11 -m venv /uv && /uv/bin/pip install --no-cache-dir uv==0.13.9

FROM ${BASE} AS base
# g++: torch.compile and DeepSpeed's CPU Adam compile where they run.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home medsd
# Python's bytecode is compiled here: whoever runs the image may not write it.
ENV PATH=/opt/medsd/bin:$PATH \
    VIRTUAL_ENV=/opt/medsd \
    UV_PROJECT_ENVIRONMENT=/opt/medsd \
    UV_PYTHON=python3.11 \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    UV_SYSTEM_CERTS=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /src
COPY pyproject.toml uv.lock ./

# PyTorch of PyPI brings CUDA's libraries with it; the node brings the driver.
FROM base AS cuda-libraries
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=cache,target=/root/.cache/uv \
    /uv/bin/uv sync --locked --no-dev --all-extras --no-install-project

# PyTorch of PyPI cannot be imported without CUDA's libraries (2.7 GB). So the same versions come from PyTorch's own index,
# built for CPUs: those two are pinned by version, all else by uv.lock's hashes.
FROM base AS cpu-libraries
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=cache,target=/root/.cache/uv \
    skip=$(sed -nE 's/^name = "(torch|torchvision|triton|cuda-.*|nvidia-.*)"$/--no-install-package \1/p' uv.lock) \
    && version() { sed -n "/^name = \"$1\"\$/{n;s/version = \"\(.*\)\"/\1/p}" uv.lock; } \
    && /uv/bin/uv sync --locked --no-dev --all-extras --no-install-project $skip \
    && /uv/bin/uv pip install --no-deps --index-url "$TORCH_INDEX" \
        "torch==$(version torch)+cpu" "torchvision==$(version torchvision)+cpu"

FROM cpu-libraries AS cpu
COPY README.md LICENSE ./
COPY medsd_ray medsd_ray
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=cache,target=/root/.cache/uv /uv/bin/uv pip install --no-deps .
USER 1000:1000
WORKDIR /home/medsd
CMD ["medsd", "--help"]

FROM cuda-libraries AS cuda
COPY README.md LICENSE ./
COPY medsd_ray medsd_ray
RUN --mount=type=bind,from=uv,source=/uv,target=/uv --mount=type=cache,target=/root/.cache/uv /uv/bin/uv pip install --no-deps .
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/medsd
CMD ["medsd", "--help"]
