#!/bin/sh
# Fill in nginx.conf and execute nginx. It uses the resolver of the container.
set -eu
resolver=$(awk '$1 == "nameserver" { print ($2 ~ /:/ ? "[" $2 "]" : $2); exit }' /etc/resolv.conf)
# room for the photos and two more, for the form around them; the api has the same limit
photos="$OPAD_MIN_REFERENCES-$OPAD_MAX_REFERENCES photos"
if [ "$OPAD_MIN_REFERENCES" = "$OPAD_MAX_REFERENCES" ]; then photos="$OPAD_MAX_REFERENCES photos"; fi
if [ "$OPAD_MAX_REFERENCES" = 1 ]; then photos="1 photo"; fi
sed -e "s|@BODY@|$(((OPAD_MAX_REFERENCES + 2) * OPAD_MAX_UPLOAD_MB))m|" -e "s|@PHOTOS@|$photos|" -e "s|@RESOLVER@|$resolver|" \
    -e "s|@API@|$OPAD_PROXY_API|" -e "s|@S3@|$OPAD_PROXY_S3|" /etc/opad/nginx.conf > /tmp/nginx.conf
exec nginx -c /tmp/nginx.conf
