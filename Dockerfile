# The image of kubeproxy-py: Debian packages and wheels locked by hash; no shell, compiler or package manager.
#
#   docker build --tag kubeproxy-py .      (or podman, buildah)
#   docker buildx build --platform=linux/amd64,linux/arm64 .
#   make image                             without a container engine or registry: builds BASE from Debian's archive
#
# The first stage assembles the root file system with the agent and its libraries; the image is that, as one layer.  It
# runs on the builder's processor whatever the image's is: packages and wheels are unpacked, and nothing of them is run.
# The build is reproducible: wheels are locked by hash, all times are SOURCE_DATE_EPOCH, and no file contains the time or
# place of the build.

ARG BASE=docker.io/library/debian:12-slim

FROM --platform=${BUILDPLATFORM} ${BASE} AS build
# Only finish.py writes byte code: files that pip's own imports leave would contain times.
ENV PYTHONDONTWRITEBYTECODE=1
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends \
        ca-certificates libcap2-bin python3-pip python3-venv python3.11
WORKDIR /src
# Docker and podman set it; it has no default, which BuildKit would prefer to that.
ARG TARGETARCH
COPY image/unpack.py image/
RUN python3 image/unpack.py "${TARGETARCH:-$(dpkg --print-architecture)}" /packages
COPY image/requirements.lock image/tools.lock image/wheels.py image/
# Optional secrets: `ca`, the certificate authority of a proxy; `pip.conf`, to use a mirror.
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip.conf \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -s /run/secrets/pip.conf ]; then export PIP_CONFIG_FILE=/run/secrets/pip.conf; fi; \
    export PIP_NO_CACHE_DIR=1 PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all: PIP_DISABLE_PIP_VERSION_CHECK=1 \
    && python3.11 -m venv --without-pip /opt/kubeproxy-py \
    && python3 image/wheels.py "${TARGETARCH:-$(dpkg --print-architecture)}" image/requirements.lock /opt/kubeproxy-py/lib/python3.11/site-packages \
    && python3 -m venv /tools \
    && /tools/bin/pip install --quiet --requirement image/tools.lock
COPY LICENSE README.md pyproject.toml ./
COPY kubeproxy_py kubeproxy_py
COPY image image
RUN /tools/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheel . \
    && python3 -m pip --python /opt/kubeproxy-py/bin/python install --quiet --no-index --no-deps --no-compile /wheel/*.whl \
    && python3 image/prune.py /opt/kubeproxy-py \
    && /tools/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --mc-type application \
        --output-file /python.cdx.json /opt/kubeproxy-py/bin/python
ARG SOURCE_DATE_EPOCH=0
RUN python3 -m image.assemble /packages /root-of-image \
    && /tools/bin/python image/bill.py /python.cdx.json /root-of-image \
    && python3 image/finish.py /root-of-image

FROM scratch
COPY --from=build /root-of-image /
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kubeproxy-py" \
    org.opencontainers.image.description="A Linux node agent that replaces kube-proxy in IPVS mode" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kube-proxy"]
