# Training, export and clustering: `docker build -f deploy/docker/trainer.Dockerfile -t roost-trainer:0.1.0 .`
# PyTorch brings CUDA's libraries with it, so one image serves CPUs and GPUs.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/roost && python -m venv /opt/build
COPY requirements/build.txt requirements/training.txt /requirements/
RUN /opt/roost/bin/pip install --require-hashes -r /requirements/training.txt \
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
LABEL org.opencontainers.image.title="Roost trainer" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 roost \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /work --shell /usr/sbin/nologin roost \
    && install -d -o 10001 -g 10001 /work
COPY --from=build /opt/roost /opt/roost
ENV PATH=/opt/roost/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /work
VOLUME /work
USER 10001:10001
# A job is watched by its exit status.
HEALTHCHECK NONE
ENTRYPOINT ["roost"]
CMD ["train", "--help"]
