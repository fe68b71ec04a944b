#!/bin/sh
# Take the generated secrets, if any, into the environment and become the program.
set -eu
if [ -f /run/opad/secrets.env ]; then
    set -a
    . /run/opad/secrets.env
    set +a
fi
exec "$@"
