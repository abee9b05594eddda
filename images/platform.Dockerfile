# The images of the platform's own processes, one target for each role: api, gateway, run, write.
#
#   docker build --file images/platform.Dockerfile --target api --tag fumehood-api:local .
#
# They hold the extras that their role needs and no more. The stages stand in an order in which a builder that makes all
# of them up to its target makes nothing in vain, and no feature of a single builder is used.

ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
# Whoever is not root is this user, in every image; volumes and secrets are made for its number.
RUN groupadd --gid 10001 fumehood \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fumehood \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/fumehood
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /opt/fumehood

FROM python AS packages
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
# Where packages come through a proxy with a certificate of its own, this names its bundle, a file in the context.
ARG CA_BUNDLE=ca-bundle.crt*
COPY pyproject.toml constraints.txt README.md LICENSE ${CA_BUNDLE} ./
# The packages of the project are empty here, so that a change of its code installs nothing anew.
RUN mkdir api worker sandbox fumehood \
 && if [ -e ca-bundle.crt ]; then cp ca-bundle.crt /etc/ssl/certs/ca-certificates.crt; fi \
 && python3 -m venv /opt/venv \
 && PIP_CERT=/etc/ssl/certs/ca-certificates.crt pip install --no-cache-dir --constraint constraints.txt \
    --editable '.[postgres,s3]'

FROM packages AS packages-api
RUN PIP_CERT=/etc/ssl/certs/ca-certificates.crt pip install --no-cache-dir --constraint constraints.txt \
    --editable '.[api,postgres,s3]'

FROM packages AS packages-gateway
RUN PIP_CERT=/etc/ssl/certs/ca-certificates.crt pip install --no-cache-dir --constraint constraints.txt \
    --editable '.[bedrock,postgres,s3,vertex]'

FROM packages AS packages-run
RUN PIP_CERT=/etc/ssl/certs/ca-certificates.crt pip install --no-cache-dir --constraint constraints.txt \
    --editable '.[worker,docker,postgres,s3]'

FROM python AS api
COPY --from=packages-api /opt/venv /opt/venv
COPY . .
USER 10001:10001
EXPOSE 8000
CMD ["python", "-m", "api", "--host", "0.0.0.0"]

FROM python AS gateway
COPY --from=packages-gateway /opt/venv /opt/venv
COPY . .
USER 10001:10001
EXPOSE 8010
CMD ["python", "-m", "fumehood.gateway", "--host", "0.0.0.0", "--allow-remote"]

# Volumes, control groups and the pool of users need root, and what makes file systems.
FROM python AS run
RUN apt-get update \
 && apt-get install --yes --no-install-recommends btrfs-progs e2fsprogs libseccomp2 xfsprogs \
 && rm -rf /var/lib/apt/lists/*
COPY --from=packages-run /opt/venv /opt/venv
COPY . .
CMD ["python", "-m", "worker", "--side", "run", "--sandbox", "docker"]

FROM packages AS packages-write
RUN PIP_CERT=/etc/ssl/certs/ca-certificates.crt pip install --no-cache-dir --constraint constraints.txt \
    --editable '.[worker,postgres,s3]'

# Aider pins about a hundred packages exactly, so it has an environment of its own.
FROM python AS coder
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
ARG CA_BUNDLE=ca-bundle.crt*
COPY constraints-coder.txt ${CA_BUNDLE} ./
RUN if [ -e ca-bundle.crt ]; then cp ca-bundle.crt /etc/ssl/certs/ca-certificates.crt; fi \
 && python3 -m venv .venv-coder \
 && PIP_CERT=/etc/ssl/certs/ca-certificates.crt .venv-coder/bin/pip install --no-cache-dir \
    --constraint constraints-coder.txt aider-chat==0.86.2

FROM python AS write
COPY --from=packages-write /opt/venv /opt/venv
COPY --from=coder /opt/fumehood/.venv-coder .venv-coder
COPY . .
USER 10001:10001
CMD ["python", "-m", "worker", "--side", "write"]
