#!/bin/sh
# Print lines for .env that pin the base images and the images we run to the current digests of their tags:
#     sh docker/pin.sh >> .env
set -eu
for pair in PYTHON_IMAGE=python:3.11-slim-bookworm NGINX_IMAGE=nginx:1.28 POSTGRES_IMAGE=postgres:17 REDIS_IMAGE=redis:8; do
    image=${pair#*=}
    # no --format: its templates differ between versions of buildx
    inspected=$(docker buildx imagetools inspect "$image")
    digest=$(echo "$inspected" | awk '$1 == "Digest:" { print $2; exit }')
    echo "${pair%%=*}=$image@$digest"
done
