#!/usr/bin/env bash
# `make bench-idle`: what the local stack costs while nothing happens, and how much of that is Zyven's. A second PostgreSQL and a
# second Redis run beside it, with the same settings and nobody connected. Both pairs are counted at the same time, so that
# whatever else the machine does touches both alike; what the stack takes beyond them is the difference.
#
# Environment: DURATION (of a round, default 60s), ROUNDS (default 3; medians are shown), QUIET (how long to leave the stack alone
# before, in seconds, default 70: it gets calmer for a minute).
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
# shellcheck source=scripts/lib/servers.sh
. "$ZYVEN_ROOT/scripts/lib/servers.sh"

cd "$ZYVEN_ROOT"
duration=${DURATION:-60s}
rounds=${ROUNDS:-3}
# What is counted has to be the stack that local.sh runs.
unset ZYVEN_DATABASE_URL
scripts/local.sh metrics relay >/dev/null || die "the local stack must be up, without Docker (make up)"

floor=$(server_folder "$ZYVEN_ROOT/.zyven/idle-floor")
postgres=$(server_folder "$floor/postgres")
redis=$(server_folder "$floor/redis")

leave_floor() {
    postgres_stop "$postgres/data" immediate || true
    # The process id is in a file of our own folder, which goes with it.
    if [ -s "$redis/pid" ]; then kill -KILL "$(cat "$redis/pid")" 2>/dev/null || true; fi
    rm -rf "${floor:?}"
}
trap leave_floor EXIT

password=$(random_hex 24)
postgres_init "$postgres/data" "$password"
postgres_start_as_usual "$postgres/data" "$(free_port)" "$postgres/log" || die "PostgreSQL does not start: $(tail -n 5 "$postgres/log")"
redis_start "$redis" "$(free_port)" "$password" || die "Redis does not start; see $redis/log"
await 200 test -s "$redis/pid" || die "Redis does not start: $(tail -n 5 "$redis/log")"

transactions() {
    scripts/local.sh psql -Atqc "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
}

say "leaving the stack alone for ${QUIET:-70} s"
sleep "${QUIET:-70}"
table=$floor/table
before=$(transactions)
began=$(date +%s)
for _ in $(seq "$rounds"); do
    scripts/local.sh run bench --scenario idle --duration "$duration" --verbose \
        --pid "alone-postgres=$(head -n 1 "$postgres/data/postmaster.pid")" --pid "alone-redis=$(cat "$redis/pid")"
done | tee "$table" >&2
ended=$(date +%s)
after=$(transactions)

# A row of the second table: scenario, process, CPU seconds, and more.
awk -v seconds="$(awk -v text="$duration" 'BEGIN { print text * (text ~ /m$/ ? 60 : text ~ /h$/ ? 3600 : 1) }')" '
    $1 == "idle" && NF == 5 {
        round = ++seen[$2]
        used = 100 * $3 / seconds
        cost[$2, round] = used
        sum[$2 ~ /^alone-/ ? "alone" : "stack", round] += used
        if (round == 1) names[++count] = $2
        if (round > rounds) rounds = round
    }
    function median(name, list, of, at, other, kept) {
        for (of = 1; of <= rounds; of++) list[of] = cost[name, of]
        for (at = 2; at <= rounds; at++) {
            kept = list[at]
            for (other = at - 1; other >= 1 && list[other] > kept; other--) list[other + 1] = list[other]
            list[other + 1] = kept
        }
        return rounds % 2 ? list[(rounds + 1) / 2] : (list[rounds / 2] + list[rounds / 2 + 1]) / 2
    }
    function line(label, name, round) {
        printf "%-28s", label
        for (round = 1; round <= rounds; round++) printf "%8.2f", cost[name, round]
        printf "%10.2f\n", median(name)
    }
    END {
        if (!rounds) exit 1
        printf "%-28s", "% of one core, in each round"
        for (round = 1; round <= rounds; round++) printf "%8d", round
        printf "%10s\n", "median"
        for (name = 1; name <= count; name++) line(names[name], names[name])
        for (round = 1; round <= rounds; round++) {
            cost["=stack", round] = sum["stack", round]
            cost["=alone", round] = sum["alone", round]
            cost["=net", round] = sum["stack", round] - sum["alone", round]
        }
        line("the stack", "=stack")
        line("servers with nobody there", "=alone")
        line("the difference", "=net")
    }' "$table" || die "nothing was measured"
awk -v statements=$((after - before)) -v seconds=$((ended - began)) 'BEGIN {
    printf "%.1f transactions a second in PostgreSQL, those of the measurement included\n", statements / seconds
}'
