-- What all scripts share; each of them is this text followed by its own. It knows what a lane may do now:
-- its limits, its breaker, its bucket of tokens, and its place in line.
--
-- KEYS  1 epoch  2 ring of tenants with fresh tickets  3 ring of tenants with retries  4 leased
--       5 in_flight  6 bell  7 settings  8 retry_credit
-- ARGV  1 prefix of the keys that belong to one tenant, lane or ordering key
--       2 tickets a lane may have in flight, if its endpoint says nothing less  3 the same for a tenant
--       4 how long a breaker stays open at most, in ms
--
-- A lane's name is its tenant's id and its endpoint's, 32 digits each. A ticket is a sequence number; one
-- with an ordering key is <sequence number>@<key>, and lies in its lane only while it is the first of its
-- chain. Two classes of tickets, fresh ones and retries, keep an outage's retries out of the way of
-- what is new: a ticket lies in one class only, a lane and a tenant stand in the line of each class in
-- which they have tickets.

local epoch_key, leased_key, in_flight_key, bell = KEYS[1], KEYS[4], KEYS[5], KEYS[6]
local settings_key, credit_key = KEYS[7], KEYS[8]
local prefix, lane_max, tenant_max, open_max_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local FRESH, RETRIES = 1, 2
local rings = { KEYS[2], KEYS[3] } -- tenants by the microsecond of their turn
local lanes_stem = { prefix .. 'fresh_lanes:', prefix .. 'retries_lanes:' } -- + tenant: lanes, likewise
local tickets_stem = { prefix .. 'fresh:', prefix .. 'retries:' } -- + lane: tickets by the millisecond they are due
local state_stem = prefix .. 'state:' -- + lane: text, see below
local chain_stem = prefix .. 'chain:' -- + lane:key: sequence numbers by themselves

local STATE_TIME_MS = 25 * 3600 * 1000 -- longer than the longest wait in it; then an endpoint is forgotten
local PAUSED_US = 3600 * 1000000 -- a paused lane is looked at again after an hour, should nobody resume it
local WINDOW_MS = 60000 -- in which a breaker counts
local THROTTLED_MS_MAX = 24 * 3600 * 1000 -- no endpoint is left alone for longer because it asked
local RAMP_START = 2 -- tickets in flight with which a lane starts again; one more for each success
local RAMP_FORGIVES = 10 -- from this many on an earlier opening of the breaker is forgotten

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local now_text = string.format('%.0f', now_ms)

-- A lane about which nothing is known: no settings, no state.
local QUIET = {
  is_paused = false, failures = 0, good = 0, bad = 0, window_ends_ms = 0, opens_at_ms = 0, openings = 0,
  probe = '-', probe_ends_ms = 0, ramp = 0, throttled_ms = 0, closed_ms = 0,
}
local QUIET_LANE = { __index = QUIET }

-- What this call has learned, by name. `is_moved`: the count in flight is to be written back;
-- `is_changed`: the state is.
local lanes, tenants = {}, {}

-- Settings: in flight, requests a second, size of the bucket, paused; `-` where there is none.
local function read_settings(lane, text)
  lane.max, lane.is_paused = lane_max, false
  if text then
    local max, rate, burst, paused = string.match(text, '^(%S+) (%S+) (%S+) (%S+)$')
    lane.max = math.min(tonumber(max) or lane_max, lane_max)
    lane.rate, lane.burst = tonumber(rate), tonumber(burst)
    lane.is_paused = paused == '1'
  end
end

-- State, in this order; a lane about which there is nothing to say has none.
--   failures in a row; successes and failures in the window; its end; when the breaker lets a probe
--   through (0: it is closed); how often it has opened; the probe under way, or `-`; when to give the
--   probe up; what the ramp allows in flight (0: no ramp); until when the endpoint asked to be left alone;
--   tokens, and when they were counted (µs); when the breaker closed (0: that is over)
-- Moments that a clock which was set back has moved far away are brought near again.
local function read_state(lane, text)
  if not text then
    lane.tokens = lane.burst
    return
  end
  local fields = {}
  for field in string.gmatch(text, '%S+') do
    fields[#fields + 1] = #fields == 6 and field or tonumber(field) -- a ticket is text
  end
  lane.failures, lane.good, lane.bad = fields[1], fields[2], fields[3]
  lane.window_ends_ms = math.min(fields[4], now_ms + WINDOW_MS)
  lane.opens_at_ms, lane.openings = math.min(fields[5], now_ms + open_max_ms), fields[6]
  lane.probe_ends_ms = math.min(fields[8], now_ms + open_max_ms)
  lane.ramp, lane.throttled_ms = fields[9], math.min(fields[10], now_ms + THROTTLED_MS_MAX)
  lane.closed_ms = math.min(fields[13], now_ms)
  if lane.probe_ends_ms > now_ms then -- otherwise nobody will report on it any more
    lane.probe = fields[7]
  end
  if lane.rate then
    local counted_us = math.min(fields[12], now_us)
    lane.tokens = math.min(lane.burst, fields[11] + (now_us - counted_us) * lane.rate / 1000000)
  end
end

local function write_state(lane)
  local is_counting = lane.bad > 0 and lane.window_ends_ms > now_ms
  local has_tokens_out = lane.rate and lane.tokens < lane.burst
  if not (is_counting or has_tokens_out or lane.failures > 0 or lane.opens_at_ms > 0 or lane.openings > 0
      or lane.ramp > 0 or lane.throttled_ms > now_ms) then
    redis.call('DEL', state_stem .. lane.name)
    return
  end
  local text = string.format('%d %d %d %.0f %.0f %d %s %.0f %d %.0f %.6f %.0f %.0f',
    lane.failures, lane.good, lane.bad, lane.window_ends_ms, lane.opens_at_ms, lane.openings, lane.probe,
    lane.probe_ends_ms, lane.ramp, lane.throttled_ms, lane.tokens or 0, now_us, lane.closed_ms)
  redis.call('SET', state_stem .. lane.name, text, 'PX', STATE_TIME_MS)
end

local function learn_tenants(names)
  local unknown = {}
  for _, name in ipairs(names) do
    if not tenants[name] then
      unknown[#unknown + 1] = name
    end
  end
  if #unknown > 0 then
    local counts = redis.call('HMGET', in_flight_key, unpack(unknown))
    for index, name in ipairs(unknown) do
      tenants[name] = { name = name, held = math.max(tonumber(counts[index]) or 0, 0), soonest = {} }
    end
  end
end

local function learn(names)
  local unknown, owners, state_keys = {}, {}, {}
  for _, name in ipairs(names) do
    if not lanes[name] then
      unknown[#unknown + 1] = name
      state_keys[#state_keys + 1] = state_stem .. name
      owners[#owners + 1] = string.sub(name, 1, 32)
    end
  end
  if #unknown == 0 then
    return
  end
  learn_tenants(owners)
  local counts = redis.call('HMGET', in_flight_key, unpack(unknown))
  local settings = redis.call('HMGET', settings_key, unpack(unknown))
  local states = redis.call('MGET', unpack(state_keys))
  for index, name in ipairs(unknown) do
    local lane = setmetatable({
      name = name,
      tenant = tenants[owners[index]],
      held = math.max(tonumber(counts[index]) or 0, 0),
    }, QUIET_LANE)
    read_settings(lane, settings[index])
    read_state(lane, states[index])
    lane.has_state = states[index] and true
    lanes[name] = lane
  end
end

-- How many more tickets the lane may have in flight. While its breaker is open that is one, the probe,
-- when its time has come (`blocked_us`).
local function free_slots(lane)
  local max = lane.max
  if lane.opens_at_ms > 0 then
    return lane.probe == '-' and math.min(max - lane.held, 1) or 0
  end
  if lane.ramp > 0 and lane.ramp < max then
    max = lane.ramp
  end
  return max - lane.held
end

-- Until when nothing may be sent.
local function blocked_us(lane)
  if lane.is_paused then
    return now_us + PAUSED_US
  end
  local until_us = math.max(lane.opens_at_ms, lane.throttled_ms) * 1000
  if lane.rate and lane.tokens < 1 then
    until_us = math.max(until_us, now_us + math.ceil((1 - lane.tokens) / lane.rate * 1000000))
  end
  return until_us
end

-- When the lane's turn in a class can come; nil if it has no ticket there, or no slot: a push or a
-- completion brings it back.
local function turn_of(lane, class)
  if free_slots(lane) <= 0 then
    return nil
  end
  local head = redis.call('ZRANGE', tickets_stem[class] .. lane.name, 0, 0, 'WITHSCORES')
  return head[2] and math.max(head[2] * 1000, blocked_us(lane))
end

-- Who is to be put in line: for each ring, scores and names.
local seats = {}

local function seat_at(ring, turn_us, name)
  local list = seats[ring]
  if not list then
    list = {}
    seats[ring] = list
  end
  list[#list + 1] = string.format('%.0f', turn_us)
  list[#list + 1] = name
end

local function seat_tenant(tenant, class, turn_us)
  if tenant.held < tenant_max then -- otherwise a completion seats it
    seat_at(rings[class], turn_us, tenant.name)
  end
end

local function seat_in(lane, class, turn_us)
  turn_us = math.max(turn_us, now_us)
  seat_at(lanes_stem[class] .. lane.tenant.name, turn_us, lane.name)
  local soonest = lane.tenant.soonest
  soonest[class] = math.min(soonest[class] or math.huge, turn_us)
end

local function seat(lane)
  for class = FRESH, RETRIES do
    local turn_us = turn_of(lane, class)
    if turn_us then
      seat_in(lane, class, turn_us)
    end
  end
end

local function take_seats()
  for _, tenant in pairs(tenants) do
    for class, turn_us in pairs(tenant.soonest) do
      seat_tenant(tenant, class, turn_us)
    end
    tenant.soonest = {}
  end
  for ring, list in pairs(seats) do
    redis.call('ZADD', ring, 'LT', unpack(list)) -- LT: who waits already keeps the turn
  end
  seats = {}
end

-- Sees to it that the first ticket of a chain is on its way: in its lane, or in somebody's hands. Returns
-- whether it had to be put there. A first one that waits for a retry in the far future is offered too
-- early by this, and refused; that is how a first one which has vanished from its lane comes back.
local function offer_first(lane, key)
  local first = redis.call('ZRANGE', chain_stem .. lane.name .. ':' .. key, 0, 0)[1]
  if not first then
    return false
  end
  local ticket = first .. '@' .. key
  if redis.call('ZSCORE', leased_key, lane.name .. ':' .. ticket)
    or redis.call('ZSCORE', tickets_stem[RETRIES] .. lane.name, ticket) then
    return false
  end
  return redis.call('ZADD', tickets_stem[FRESH] .. lane.name, 'NX', now_text, ticket) > 0
end

local function split(ticket)
  return string.match(ticket, '^(%d+)@(%x+)$')
end

