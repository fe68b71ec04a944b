#!/bin/bash
# Run the object store, closed to everything outside this container, and its S3 port. The container ends with either.
set -eu
export HOME=/tmp
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=opad \
    -keyout /tmp/s3.pem -out /tmp/s3.crt 2> /dev/null
cat /tmp/s3.crt >> /tmp/s3.pem
export WEED_GRPC_CA=/tmp/s3.pem # otherwise `weed s3` opens a second port without authentication
for program in MASTER VOLUME FILER S3 ADMIN WORKER CLIENT; do
    export "WEED_GRPC_${program}_CERT=/tmp/s3.pem" "WEED_GRPC_${program}_KEY=/tmp/s3.pem"
done
weed -logtostderr=true mini -s3=false -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 -disableHttp \
    -webdav=false -admin.ui=false -master.telemetry=false &
weed -logtostderr=true s3 -ip.bind=0.0.0.0 -port=8333 -filer=127.0.0.1:8888 -port.iceberg=0 -port.lance=0 -iam=false &
trap 'kill $(jobs -p)' TERM INT
wait -n || true
kill $(jobs -p) 2> /dev/null || true
wait
