# The gateway: `docker build -f deploy/docker/gateway.Dockerfile -t roost-gateway:0.1.0 .` at the repository's root.
# With `--build-arg EXTRA=serving-gpu` its in-process backend finds CUDA's libraries too,
# and with EXTRA=openvino it is OpenVINO: set ROOST_SERVE_BACKEND to openvino:///models.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRA=serving
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/roost && python -m venv /opt/build
COPY requirements/build.txt requirements/${EXTRA}.txt /requirements/
RUN /opt/roost/bin/pip install --require-hashes -r /requirements/${EXTRA}.txt \
    && /opt/build/bin/pip install --require-hashes -r /requirements/build.txt
WORKDIR /source
COPY pyproject.toml LICENSE README.md ./
COPY roost/ roost/
COPY training/ training/
COPY export/ export/
COPY serving/ serving/
# The build backend comes from the locked file as well, never from the index by itself.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/roost/bin/pip install --no-deps --no-index /wheels/*.whl \
    && /opt/roost/bin/pip check

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Roost gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 roost \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin roost \
    && install -d -o 10001 -g 10001 /data /models
COPY --from=build /opt/roost /opt/roost
ENV PATH=/opt/roost/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ROOST_SERVE_HOST=0.0.0.0 \
    ROOST_SERVE_HTTP_HOST=0.0.0.0 \
    ROOST_SERVE_BACKEND=onnx:///models \
    ROOST_SERVE_REPOSITORY=/models \
    ROOST_SERVE_STORE=edge:///data/index
WORKDIR /data
VOLUME /data
USER 10001:10001
EXPOSE 50051 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
ENTRYPOINT ["roost"]
CMD ["serve"]
