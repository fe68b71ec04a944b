# The REST service and the one-shots. No torch: the image stays small and cannot load a model by mistake.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --uid 10001 --create-home --home-dir /var/lib/opad opad
WORKDIR /srv
COPY docker/api.lock ./
RUN python -m pip install --no-deps --require-hashes -r api.lock
COPY api api
COPY migrations migrations
COPY docker/entrypoint.sh docker/make_secrets.py docker/prepare.py ./

USER opad
ENV OPAD_HOME=/var/lib/opad OPAD_HOST=0.0.0.0 OPAD_PORT=8000 PYTHONPATH=/srv
EXPOSE 8000
ENTRYPOINT ["sh", "/srv/entrypoint.sh"]
CMD ["python", "-m", "api"]
