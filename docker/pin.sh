#!/bin/sh
# Lines for .env that pin the images we build on, and those we run, to what their tags mean today:
#     sh docker/pin.sh >> .env
set -eu
for pair in PYTHON_IMAGE=python:3.11-slim-bookworm NGINX_IMAGE=nginx:1.28 POSTGRES_IMAGE=postgres:17 REDIS_IMAGE=redis:8; do
    image=${pair#*=}
    # not by --format: what its templates give differs between versions of buildx
    told=$(docker buildx imagetools inspect "$image")
    digest=$(echo "$told" | awk '$1 == "Digest:" { print $2; exit }')
    echo "${pair%%=*}=$image@$digest"
done
