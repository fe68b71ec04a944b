# What clients reach: limits on size and time before anything of ours reads a byte.
ARG NGINX_IMAGE=nginx:1.28

FROM ${NGINX_IMAGE}
LABEL org.opencontainers.image.title="opad-proxy" \
      org.opencontainers.image.description="nginx in front of OPAD" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY docker/nginx.conf /etc/opad/nginx.conf
USER 10001:10001
ENV OPAD_MAX_UPLOAD_MB=12
EXPOSE 8000 8333
ENTRYPOINT ["sh", "-c"]
# five photos and two for the form around them, as the api counts
CMD ["sed \"s/@BODY@/$((7 * OPAD_MAX_UPLOAD_MB))m/\" /etc/opad/nginx.conf > /tmp/nginx.conf && exec nginx -c /tmp/nginx.conf"]
