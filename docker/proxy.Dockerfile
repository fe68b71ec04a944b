# The proxy that clients reach. It limits size and time before our code reads a byte.
ARG NGINX_IMAGE=nginx:1.28
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${NGINX_IMAGE} AS nginx

FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
COPY docker/sbom.py ./
RUN --mount=from=nginx,target=/nginx python sbom.py opad-proxy --of /nginx > sbom.cdx.json

FROM ${NGINX_IMAGE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="opad-proxy" \
      org.opencontainers.image.description="nginx in front of OPAD" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /build/sbom.cdx.json /etc/opad/
COPY docker/nginx.conf docker/proxy.sh /etc/opad/
USER 10001:10001
ENV OPAD_MIN_REFERENCES=3 OPAD_MAX_REFERENCES=5 OPAD_MAX_UPLOAD_MB=12 \
    OPAD_PROXY_API=http://api:8000 OPAD_PROXY_S3=http://s3:8333
EXPOSE 8000 8333
ENTRYPOINT ["sh", "/etc/opad/proxy.sh"]
CMD []
