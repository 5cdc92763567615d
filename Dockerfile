# docker build --target cpu -t enlarger --build-arg COMMIT=$(git rev-parse HEAD) .         without CUDA, 2 GB
# docker build --target cuda -t enlarger:cuda --build-arg COMMIT=$(git rev-parse HEAD) .   for NVIDIA GPUs, 9 GB
# docs/jobs/container.md shows how to run them.
FROM python:3.12-slim AS common
# The versions of Debian's packages are the image's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir "uv>=0.9,<1"
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 NO_ALBUMENTATIONS_UPDATE=1
# For `docker run --user`, whose home would be /: caches of shards, of the compiler and of matplotlib.
ENV HOME=/tmp
WORKDIR /enlarger

# The packages first: an edit of the code installs none of them again.
FROM common AS dependencies
COPY pyproject.toml constraints.txt Makefile README.md ./

FROM dependencies AS cpu
ARG EXTRAS=app,heic,jxl,onnx,s3,spandrel,video
RUN make install TORCH=cpu EXTRAS=$EXTRAS
COPY . .
RUN uv pip install --python .venv/bin/python --no-deps -e .
# For results, because the image has no .git; last, since each commit changes it.
ARG COMMIT=""
ENV ENLARGER_COMMIT=$COMMIT
ENV PATH=/enlarger/.venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["python", "/enlarger/main.py"]
CMD ["--help"]

FROM dependencies AS cuda
ARG EXTRAS=app,heic,jxl,onnx,s3,spandrel,video
RUN make install EXTRAS=$EXTRAS
COPY . .
RUN uv pip install --python .venv/bin/python --no-deps -e .
ARG COMMIT=""
ENV ENLARGER_COMMIT=$COMMIT
ENV PATH=/enlarger/.venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["python", "/enlarger/main.py"]
CMD ["--help"]
