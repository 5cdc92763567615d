# docker build --target cpu -t enlarger .           without CUDA, 2 GB
# docker build --target cuda -t enlarger:cuda .     for NVIDIA GPUs, 9 GB
# docs/jobs/container.md shows how to run them.
FROM python:3.12-slim AS common
# The versions of Debian's packages are the image's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir "uv>=0.9,<1"
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 NO_ALBUMENTATIONS_UPDATE=1
WORKDIR /enlarger

FROM common AS cpu
COPY . .
RUN make install TORCH=cpu EXTRAS=lmdb,onnx,s3,spandrel,video
ENV PATH=/enlarger/.venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["python", "/enlarger/main.py"]
CMD ["--help"]

FROM common AS cuda
COPY . .
RUN make install EXTRAS=lmdb,onnx,s3,spandrel,video
ENV PATH=/enlarger/.venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["python", "/enlarger/main.py"]
CMD ["--help"]
