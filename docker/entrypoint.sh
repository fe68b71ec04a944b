#!/bin/sh
# Take the generated secrets, if any, into the environment and become the program. What is set already stays.
set -eu
if [ -f /run/opad/secrets.env ]; then
    while IFS='=' read -r name value; do
        eval "[ -n \"\${$name:-}\" ] || export $name=\"\$value\""
    done < /run/opad/secrets.env
fi
exec "$@"
