# Trainer host, reconciler and engine; the command chooses.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --uid 10001 --create-home --home-dir /var/lib/opad opad
WORKDIR /srv
# https://download.pytorch.org/whl/cpu for the CPU build; empty for what the package index has, on Linux the CUDA build
ARG TORCH_INDEX_URL=
COPY requirements.torch ./
RUN python -m pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r requirements.torch
COPY docker/worker.lock ./
RUN python -m pip install --no-deps --require-hashes -r worker.lock
COPY api api
COPY migrations migrations
COPY opad_core opad_core
COPY worker worker
COPY docker/entrypoint.sh ./

RUN mkdir -p /var/lib/opad/cache && chown -R opad /var/lib/opad
USER opad
ENV OPAD_HOME=/var/lib/opad PYTHONPATH=/srv HF_HUB_OFFLINE=1
ENTRYPOINT ["sh", "/srv/entrypoint.sh"]
CMD ["python", "-m", "worker.host"]
