# Trainer host, reconciler and engine; the command selects one. TORCH_INDEX_URL selects CPU or CUDA.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv --without-pip /opt/opad
# https://download.pytorch.org/whl/cpu has the CPU build. Empty means the package index, which has the CUDA build.
ARG TORCH_INDEX_URL=
COPY requirements.torch ./
RUN python -m pip --python /opt/opad/bin/python install \
    ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r requirements.torch
COPY docker/worker.lock ./
RUN python -m pip --python /opt/opad/bin/python install --no-deps --require-hashes -r worker.lock
COPY docker/sbom.py ./
RUN /opt/opad/bin/python sbom.py opad-worker > /opt/opad/sbom.cdx.json

FROM ${PYTHON_IMAGE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="opad-worker" \
      org.opencontainers.image.description="OPAD's trainer host, reconciler and engine" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
# An engine on CUDA compiles its networks, for which Triton needs gcc and the headers of the C library. Their versions are
# those of the pinned PYTHON_IMAGE's distribution.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# folders for volumes: a new volume gets the owner of its folder
RUN useradd --uid 10001 --create-home --home-dir /var/lib/opad opad \
    && install -d -o opad -g opad /run/opad /run/opad-signing /var/lib/opad/bases /var/lib/opad/cache /var/lib/opad/cache/compiled
COPY --from=packages /opt/opad /opt/opad
WORKDIR /srv
COPY api api
COPY migrations migrations
COPY opad_core opad_core
COPY worker worker
COPY examples examples
COPY docker/entrypoint.sh ./
RUN /opt/opad/bin/python -m compileall -q api migrations opad_core worker

USER 10001:10001
ENV PATH=/opt/opad/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/srv \
    OPAD_HOME=/var/lib/opad HF_HUB_OFFLINE=1 MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["sh", "/srv/entrypoint.sh"]
CMD ["python", "-m", "worker.host"]
