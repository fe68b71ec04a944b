#!/bin/sh
# Fill in nginx.conf and become nginx. Names are asked of the resolver that the container was given.
set -eu
resolver=$(awk '$1 == "nameserver" { print ($2 ~ /:/ ? "[" $2 "]" : $2); exit }' /etc/resolv.conf)
# five photos and two for the form around them, as the api counts
sed -e "s|@BODY@|$((7 * OPAD_MAX_UPLOAD_MB))m|" -e "s|@RESOLVER@|$resolver|" \
    -e "s|@API@|$OPAD_PROXY_API|" -e "s|@S3@|$OPAD_PROXY_S3|" /etc/opad/nginx.conf > /tmp/nginx.conf
exec nginx -c /tmp/nginx.conf
