# `make help` lists everything. CI calls these targets and nothing else.

.DEFAULT_GOAL := help
.PHONY: help up down restart status ps logs demo bench bench-held bench-idle run dead-letters stuck storage delivery health pause resume \
	test-postgres-18 test-postgres-17 test-redis-6.2 test-valkey-9 cancel replay replay-chosen replay-dead-letters replay-missing \
	replay-progress cancel-deliveries purge-dead-letters limit-tenant clean-data test model chaos faults real-input real-clients examples browser api-check api-fuzz fuzz fmt \
	fmt-check lint doc scripts-check compose-check deploy-check deploy-lint release-check release monitoring-check ci

##@ Two commands

up: ## Start the whole stack here and print a curl that delivers
	@scripts/local.sh up

test: ## Run all tests on a private PostgreSQL and Redis (T='-p zyven-queue' narrows)
	@scripts/test.sh $(T)

test-postgres-18: ## Run the tests on PostgreSQL 18, which is fetched (T='…' narrows; ZYVEN_TEST_REDIS=valkey-9 for that)
	@ZYVEN_TEST_POSTGRES=18 scripts/test.sh $(or $(T),--workspace)

test-postgres-17: ## Likewise on PostgreSQL 17
	@ZYVEN_TEST_POSTGRES=17 scripts/test.sh $(or $(T),--workspace)

# These tests start servers with options that 6.2 does not have (cluster-port, busy-reply-threshold, enable-debug-command), and the
# packages' builds have no TLS.
OF_7 = test(refusals::somebodys_endless_script) or test(refusals::a_redis_that_reads_its_file) or test(clusters::)
WITH_TLS = test(over_tls)

test-redis-6.2: ## Run the queue's tests on Redis 6.2, which is fetched
	@ZYVEN_TEST_REDIS=redis-6.2 scripts/test.sh --workspace -E 'package(zyven-queue) and not ($(OF_7) or $(WITH_TLS))'

test-valkey-9: ## Likewise on Valkey 9
	@ZYVEN_TEST_REDIS=valkey-9 scripts/test.sh --workspace -E 'package(zyven-queue) and not ($(WITH_TLS))'

##@ Local stack

down: ## Stop everything; data stays
	@scripts/local.sh down

restart: ## Stop and start everything
	@scripts/local.sh restart

status: ## Show what runs, and where
	@scripts/local.sh status

ps: status

logs: ## Follow the logs (SERVICE=relay for one of them)
	@scripts/local.sh logs $(SERVICE)

demo: ## Post some dozens of events and show their way through all five states
	@scripts/local.sh run demo

run: ## Run any zyven command on the stack: make run ARGS='admin --help'
	@scripts/local.sh run $(ARGS)

bench: ## Measure throughput, latency and CPU (ARGS='--help' for scenarios)
	@scripts/local.sh run bench $(ARGS)

bench-held: ## What a transaction that stays open for ten minutes costs at 1,000 events/s (RATE=1000 HELD=600s ALONE=60s)
	@scripts/long-transaction.sh

bench-idle: ## What the stack costs while nothing happens, and what its servers cost anyway (DURATION=60s ROUNDS=3 QUIET=70)
	@scripts/idle.sh

clean-data: ## Stop everything and delete the local stack's data
	@scripts/local.sh wipe

##@ Operating (ZYVEN_DATABASE_URL, or the local stack)

dead-letters: ## Show dead letters (ENDPOINT=ep_… TENANT=ten_… ROWS=50)
	@scripts/local.sh sql dead-letters endpoint="$$ENDPOINT" tenant="$$TENANT" rows="$$ROWS"

stuck: ## Show deliveries that are due and that nobody works on (ENDPOINT=ep_… TENANT=ten_… ROWS=50)
	@scripts/local.sh sql stuck endpoint="$$ENDPOINT" tenant="$$TENANT" rows="$$ROWS"

storage: ## Show how much room things take and what retention frees next (RETENTION='14 days')
	@scripts/local.sh sql storage retention="$$RETENTION"

delivery: ## Show everything about one delivery: make delivery DELIVERY=dlv_…
	@scripts/local.sh sql delivery delivery="$$DELIVERY"

health: ## Show each endpoint: backlog, dead letters, latest results (ENDPOINT=ep_… TENANT=ten_… ROWS=50)
	@scripts/local.sh sql endpoint-health endpoint="$$ENDPOINT" tenant="$$TENANT" rows="$$ROWS"

pause: ## Hold an endpoint's deliveries back: make pause ENDPOINT=ep_…
	@scripts/local.sh sql pause endpoint="$$ENDPOINT"

resume: ## Let a paused endpoint's deliveries go: make resume ENDPOINT=ep_…
	@scripts/local.sh sql resume endpoint="$$ENDPOINT"

limit-tenant: ## Say how often a tenant may ask: make limit-tenant TENANT=ten_… EVENTS=50 REQUESTS=default (per second; 0: no limit)
	@scripts/local.sh sql limit-tenant tenant="$$TENANT" events="$$EVENTS" requests="$$REQUESTS"

cancel: ## Call off what is not finished: make cancel WHAT=evt_… REASON='sent by mistake'
	@scripts/local.sh sql cancel what="$$WHAT" reason="$$REASON"

replay: ## Replay a dead letter: make replay DELIVERY=dlv_… REASON='receiver fixed'
	@scripts/local.sh sql replay delivery="$$DELIVERY" reason="$$REASON"

replay-chosen: ## Replay these: make replay-chosen DELIVERIES='dlv_… dlv_…' REASON='…' RATE=50 GO=yes (else a dry run)
	@scripts/local.sh sql replay-chosen deliveries="$$DELIVERIES" reason="$$REASON" tenant="$$TENANT" rate="$$RATE" go="$$GO"

replay-dead-letters: ## Replay many: make replay-dead-letters REASON='…' ENDPOINT=ep_… RATE=50 GO=yes (else a dry run)
	@scripts/local.sh sql replay-dead-letters reason="$$REASON" tenant="$$TENANT" endpoint="$$ENDPOINT" \
		event_type="$$EVENT_TYPE" dead_reason="$$DEAD_REASON" since="$$SINCE" until="$$UNTIL" \
		rate="$$RATE" max="$$MAX" go="$$GO"

replay-progress: ## Show how far a replay has come: make replay-progress REPLAY=7 (TENANT=ten_…)
	@scripts/local.sh sql replay-progress replay="$$REPLAY" tenant="$$TENANT"

replay-missing: ## Send an endpoint what it never got: make replay-missing ENDPOINT=ep_… SINCE=24h REASON='…' GO=yes
	@scripts/local.sh sql replay-missing endpoint="$$ENDPOINT" since="$$SINCE" until="$$UNTIL" reason="$$REASON" \
		rate="$$RATE" max="$$MAX" go="$$GO"

cancel-deliveries: ## Cancel what waits for an endpoint: make cancel-deliveries ENDPOINT=ep_… REASON='…' GO=yes (else a dry run)
	@scripts/local.sh sql cancel-deliveries reason="$$REASON" tenant="$$TENANT" endpoint="$$ENDPOINT" \
		event_type="$$EVENT_TYPE" since="$$SINCE" until="$$UNTIL" max="$$MAX" go="$$GO"

purge-dead-letters: ## Delete dead letters for good: make purge-dead-letters ENDPOINT=ep_… REASON='…' GO=yes (else a dry run)
	@scripts/local.sh sql purge-dead-letters reason="$$REASON" tenant="$$TENANT" endpoint="$$ENDPOINT" \
		event_type="$$EVENT_TYPE" dead_reason="$$DEAD_REASON" since="$$SINCE" until="$$UNTIL" max="$$MAX" go="$$GO"

##@ Checks

model: ## Visit every state of the protocol's models in larger sizes than `make test` does (minutes, gigabytes)
	cargo run --release --locked --package zyven-model

real-input: ## Send GitHub's published webhook examples through a real stack and verify every signature
	@scripts/real-input.sh

real-clients: ## Send curl, httpx and aiohttp through a real egress proxy
	@scripts/real-clients.sh

examples: ## Run the examples of docs/publishing.md and docs/receivers.md against a real stack
	@scripts/examples.sh

browser: ## Use the console in a real Chromium: snapshots, accessibility, pictures
	@scripts/browser.sh

api-check: ## Lint the API's description of itself (OpenAPI)
	@scripts/check-api.sh

api-fuzz: ## Send a running server what its description allows and forbids (SEED=11 EXAMPLES=50; schemathesis)
	@SEED="$(SEED)" EXAMPLES="$(EXAMPLES)" scripts/fuzz-api.sh

chaos: ## Overlapping faults of all kinds under load, with a ledger (SEED=7 DURATION=1h JSON=file)
	@scripts/chaos.sh run $(if $(SEED),--seed $(SEED)) $(if $(DURATION),--duration $(DURATION)) $(if $(JSON),--json $(JSON))

faults: ## One fault at a time under the same load, as a table (ROWS='1 4' SEED=7 JSON=file; release build)
	@scripts/chaos.sh faults $(ROWS) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))

fuzz: ## Run the parsers under libFuzzer (T='authority' names targets, SECONDS_EACH=60; needs nightly and cargo-fuzz)
	@SECONDS_EACH="$(SECONDS_EACH)" scripts/fuzz.sh $(T)

fmt: ## Format the sources
	cargo fmt --all

fmt-check: ## Fail on sources that are not formatted
	cargo fmt --all --check

lint: ## clippy, warnings are errors
	cargo clippy --workspace --all-targets --locked -- --deny warnings
	cargo clippy -p zyven-crash-points --all-targets --features armed --locked -- --deny warnings

doc: ## Build the documentation, warnings are errors
	RUSTDOCFLAGS='--deny warnings --allow rustdoc::private_intra_doc_links' cargo doc --workspace --no-deps --locked

scripts-check: ## shellcheck
	@scripts/check-scripts.sh

monitoring-check: ## Check alert rules and try them out with promtool
	@scripts/check-monitoring.sh

compose-check: ## Validate compose.yaml
	@scripts/check-compose.sh

deploy-check: ## Check Dockerfile, Kubernetes manifests and systemd units
	@scripts/check-deploy.sh

deploy-lint: ## The same, and under checkov, which is a hundred packages
	@scripts/check-deploy.sh checkov

release-check: ## Try scripts/release.sh out on a copy of the checkout
	@scripts/check-release.sh

release: ## Check, build and pack a release: make release VERSION=0.1.0 (TAG=yes also tags it)
	@scripts/release.sh $(if $(filter yes,$(TAG)),--tag) "$(VERSION)"

ci: fmt-check scripts-check compose-check deploy-check release-check monitoring-check lint doc test ## Everything CI does, in its order

help: ## Show this
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9. -]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
