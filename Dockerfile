# syntax=docker/dockerfile:1
# One image for every Zyven process; the command chooses the service. docs/operations/deploying.md says how it is built and run.
#
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" -t zyven:0.1.0 .
#
# For a release, name both bases by digest: --build-arg BUILD_BASE=rust@sha256:… --build-arg BASE=gcr.io/distroless/cc-debian12@sha256:…

ARG BUILD_BASE=rust:1.95-slim-bookworm
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_BASE} AS build
WORKDIR /src
# Where the sources and crates lay is nobody's business.
ENV CARGO_INCREMENTAL=0 \
    CARGO_TERM_COLOR=never \
    RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
COPY . .
# The caches keep crates and compiled dependencies between builds; the program is copied out of them, without line tables.
# Names of functions stay, for backtraces.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin zyven && \
    install -D --mode=0755 target/release/zyven /image/usr/local/bin/zyven && \
    strip --strip-debug /image/usr/local/bin/zyven

# No shell, no package manager, CA certificates.
FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Zyven" \
    org.opencontainers.image.description="Takes events and delivers them as signed HTTP requests" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image /
# By number (distroless' "nonroot"), so that Kubernetes can see that it is not root's.
USER 65532:65532
# Nothing is written: run it with a read-only root file system.
ENTRYPOINT ["/usr/local/bin/zyven"]
CMD ["--help"]
