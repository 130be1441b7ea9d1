# One image for every Zyven process; the command chooses the service.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep crates and compiled dependencies between builds; the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin zyven && cp target/release/zyven /zyven

# No shell, no package manager, an unprivileged user, CA certificates.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /zyven /usr/local/bin/zyven
USER nonroot
ENTRYPOINT ["/usr/local/bin/zyven"]
CMD ["--help"]
