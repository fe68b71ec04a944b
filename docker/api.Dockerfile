# The REST service and the one-shot commands. Without torch the image is small and cannot load a model by mistake.
# Pin the base image by its digest: PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:... (docker/pin.sh prints the line).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# api-checks.lock adds the classifier of the image check; an empty value means api.lock
ARG API_LOCK=
COPY docker/api.lock docker/api-checks.lock ./
RUN python -m venv --without-pip /opt/opad \
    && python -m pip --python /opt/opad/bin/python install --no-deps --require-hashes -r "${API_LOCK:-api.lock}"
COPY docker/sbom.py ./
RUN /opt/opad/bin/python sbom.py opad-api > /opt/opad/sbom.cdx.json

FROM ${PYTHON_IMAGE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="opad-api" \
      org.opencontainers.image.description="OPAD's REST service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --create-home --home-dir /var/lib/opad opad && install -d -o opad -g opad /run/opad /run/opad-signing
COPY --from=packages /opt/opad /opt/opad
WORKDIR /srv
COPY api api
COPY migrations migrations
# the parts of opad_core that decode photos and mark images, which need no torch
COPY opad_core/__init__.py opad_core/errors.py opad_core/marked_images.py opad_core/reference_images.py opad_core/
COPY docker/entrypoint.sh docker/make_secrets.py docker/migrate.py ./
RUN /opt/opad/bin/python -m compileall -q api migrations opad_core

USER 10001:10001
ENV PATH=/opt/opad/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/srv \
    OPAD_HOME=/var/lib/opad OPAD_HOST=0.0.0.0 OPAD_PORT=8000
EXPOSE 8000
ENTRYPOINT ["sh", "/srv/entrypoint.sh"]
CMD ["python", "-m", "api"]
