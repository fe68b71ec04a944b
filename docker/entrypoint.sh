#!/bin/sh
# Add the generated secrets to the environment and execute the program. Variables that are already set are kept.
set -eu
if [ -f /run/opad/secrets.env ]; then
    while IFS='=' read -r name value; do
        eval "[ -n \"\${$name:-}\" ] || export $name=\"\$value\""
    done < /run/opad/secrets.env
fi
exec "$@"
