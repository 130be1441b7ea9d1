-- Takes back what the caller has finished, returns what others have held for too long, and hands out
-- due tickets: the tenant that was served longest ago first, of its lanes likewise, each up to what it
-- may have in flight, and retries only beside fresh tickets.
--
-- ARGV  5 most tickets to hand out   6 length of the lease in ms   7 longest the bell's list may grow
--       8 most expired leases to return   9 fewest tickets worth visiting a lane for
--       10 how long a breaker stays open at first, in ms
--       then for each lane with tickets given back: its name, the number of tickets a that were delivered
--       and are done, the number b of others, a tickets, and b times
--       (ticket, what was learned, its ms, what comes next, its ms)
--         learned: s it succeeded, f it failed, t the endpoint asked for ms of peace, n it answered, about this
--                  one only, u nothing was sent
--         next:    d done, f due in ms, r due in ms as a retry, k not due before long: its chain waits,
--                  b another ticket of its chain comes first: ask again in ms, p it goes back to where it was
--
-- Returns { µs until something may be served (0 now, -1 nobody knows), the number e of events,
-- e times (lane, o the breaker has opened | p stays open as its probe has failed | c has closed, its ms), then for each lane served: its name,
-- the number n of tickets, n tickets }; an empty table if the epoch is gone.
--
-- Redis checks its memory limit only before a script's first write. Every path here begins by removing
-- something, so a full Redis can still be drained; it refuses pushes alone.

if redis.call('EXISTS', epoch_key) == 0 then
  return {}
end

local budget, lease_ms = tonumber(ARGV[5]), tonumber(ARGV[6])
local bell_length_max, share_min = tonumber(ARGV[7]), tonumber(ARGV[9])
local open_min_ms = tonumber(ARGV[10])
local per_round = 16 -- tenants, and lanes, looked at before the line is read again
local looks_left = 20000 -- what is sure to end has a bound all the same: Redis serves nobody else meanwhile

local SAMPLES_MIN, FAILURES_IN_TEN = 10, 7 -- of at least so many in a window
local FAILURES_IN_A_ROW = 10

redis.call('HDEL', in_flight_key, '') -- removes nothing; it is the first write

local reply, reply_length = { 0, 0 }, 2

-- 1. What an endpoint's answers teach its lane -----------------------------------------------------

local function tell(lane, event, ms)
  reply[2] = reply[2] + 1
  reply[reply_length + 1], reply[reply_length + 2], reply[reply_length + 3] = lane.name, event, ms
  reply_length = reply_length + 3
end

local function start_gently(lane)
  lane.ramp = RAMP_START
  lane.failures, lane.good, lane.bad = 0, 0, 0
end

local function open_breaker(lane)
  local was_open = lane.opens_at_ms > 0
  lane.openings = lane.openings + 1
  local wait_ms = math.min(open_min_ms * 2 ^ math.min(lane.openings - 1, 20), open_max_ms)
  lane.opens_at_ms, lane.probe, lane.ramp = now_ms + wait_ms, '-', 0
  lane.failures, lane.good, lane.bad = 0, 0, 0
  tell(lane, was_open and 'p' or 'o', wait_ms)
end

local function close_breaker(lane)
  lane.opens_at_ms, lane.probe, lane.closed_ms = 0, '-', now_ms
  start_gently(lane)
  tell(lane, 'c', 0)
end

local function grow(lane)
  if lane.ramp > 0 then
    lane.is_changed = true
    lane.ramp = lane.ramp + 1
    if lane.ramp >= RAMP_FORGIVES then
      lane.openings = 0
    end
    if lane.ramp >= lane.max then
      lane.ramp, lane.openings, lane.closed_ms = 0, 0, 0
    end
  end
end

local function succeeded(lane, ticket)
  if lane.opens_at_ms > 0 then
    if ticket == lane.probe then -- whatever else succeeds now was sent before the breaker opened
      close_breaker(lane)
      lane.is_changed = true
    end
  else
    lane.fine = lane.fine + 1
    grow(lane)
  end
end

local function failed(lane, ticket, lease_ends_ms)
  if lane.opens_at_ms > 0 then
    if ticket == lane.probe then
      open_breaker(lane)
      lane.is_changed = true
    end
  elseif lane.closed_ms == 0 or lease_ends_ms > lane.closed_ms + lease_ms then
    lane.broken = lane.broken + 1
  end -- else it was sent before the breaker closed, and tells of the past
end

-- What came back together is judged together: nobody knows in which order it happened, and a lane of
-- thousands a second has ten failures in any batch. So only a batch without a success prolongs a row.
local function judge(lane)
  local fine, broken = lane.fine, lane.broken
  if lane.opens_at_ms > 0 or (broken == 0 and not lane.has_state) then
    return
  end
  lane.has_state, lane.is_changed = true, true
  if broken > 0 and lane.window_ends_ms < now_ms then
    lane.good, lane.bad, lane.window_ends_ms = 0, 0, now_ms + WINDOW_MS
  end
  lane.bad = lane.bad + broken
  if lane.bad > 0 then
    lane.good = lane.good + fine
  end
  lane.failures = fine == 0 and lane.failures + broken or 0
  local samples = lane.good + lane.bad
  if broken > 0 and (lane.failures >= FAILURES_IN_A_ROW
      or (samples >= SAMPLES_MIN and lane.bad * 10 >= samples * FAILURES_IN_TEN)) then
    open_breaker(lane)
  end
end

local function throttled(lane, ticket, wait_ms)
  lane.has_state, lane.is_changed = true, true
  if ticket == lane.probe and lane.opens_at_ms > 0 then
    close_breaker(lane) -- it lives
  end
  lane.throttled_ms = math.max(lane.throttled_ms, now_ms + wait_ms)
  if lane.opens_at_ms == 0 then
    start_gently(lane)
  end
end

-- It refused this one delivery, so it is there.
local function answered(lane, ticket)
  if lane.opens_at_ms > 0 then
    if ticket == lane.probe then
      close_breaker(lane)
      lane.is_changed = true
    end
  else
    grow(lane)
  end
end

local function learned_nothing(lane, ticket, was_sent)
  if ticket == lane.probe then
    lane.probe, lane.is_changed = '-', true
  end
  if lane.rate and not was_sent then
    lane.tokens, lane.is_changed = math.min(lane.tokens + 1, lane.burst), true
  end
end

-- 2. What comes back -------------------------------------------------------------------------------

-- Lanes and tenants to put in line again once all that comes back is back.
local returning, freed = {}, {}

local function give_back(lane, count)
  if count > 0 then
    local tenant = lane.tenant
    if tenant.held >= tenant_max then
      freed[tenant.name] = tenant
    end
    lane.held, lane.is_moved = math.max(lane.held - count, 0), true
    tenant.held, tenant.is_moved = math.max(tenant.held - count, 0), true
  end
end

-- A ticket is done: the next of its chain, if it has one, may go.
local function leave_chain(lane, ticket)
  local seq, key = split(ticket)
  redis.call('ZREM', chain_stem .. lane.name .. ':' .. key, seq)
  return offer_first(lane, key)
end

-- A retry's lease ends half a millisecond sooner: that is how its class is known when it comes back.
local function class_of(lease_ends_ms)
  return lease_ends_ms % 1 == 0 and FRESH or RETRIES
end

-- Puts a ticket where it waits next; returns whether its lane has something it may not have had before. `lease` is
-- when its lease would have ended, if it had one.
local function put(lane, ticket, next, due_ms, lease)
  local is_chained = string.find(ticket, '@', 1, true)
  if next == 'd' then
    return is_chained and leave_chain(lane, ticket)
  end
  local is_retry = next == 'r' or (next == 'e' and lease and class_of(tonumber(lease)) == RETRIES)
  local class = is_retry and RETRIES or FRESH
  if is_chained then
    local seq, key = split(ticket)
    local chain = chain_stem .. lane.name .. ':' .. key
    redis.call('ZADD', chain, seq, seq)
    if next == 'k' then
      return false
    elseif next == 'b' and redis.call('ZRANK', chain, seq) ~= 0 then
      return offer_first(lane, key)
    end
  end
  -- Postgres has just said when, and whether it was attempted: it wins.
  redis.call('ZREM', tickets_stem[3 - class] .. lane.name, ticket)
  local score = next == 'e' and '0' or string.format('%.0f', now_ms + due_ms)
  redis.call('ZADD', tickets_stem[class] .. lane.name, score, ticket)
  return true
end

local names, starts, members, at = {}, {}, {}, 11
while at <= #ARGV do
  local name, done, others = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  names[#names + 1], starts[#starts + 1] = name, at
  for index = at + 3, at + 2 + done do
    members[#members + 1] = name .. ':' .. ARGV[index]
  end
  for index = at + 3 + done, at + 2 + done + 5 * others, 5 do
    members[#members + 1] = name .. ':' .. ARGV[index]
  end
  at = at + 3 + done + 5 * others
end
if #members > 0 then
  learn(names)
  -- What is not in the leased set any more (Redis was emptied, the lease has expired) frees no slot and
  -- teaches nothing: only what is really removed counts.
  local leases = redis.call('ZMSCORE', leased_key, unpack(members))
  redis.call('ZREM', leased_key, unpack(members))
  local member = 0
  for index, name in ipairs(names) do
    local lane, start = lanes[name], starts[index]
    local done, others = tonumber(ARGV[start + 1]), tonumber(ARGV[start + 2])
    local was_full, removed, has_more = free_slots(lane) <= 0, 0, false
    lane.fine, lane.broken = 0, 0
    for place = start + 3, start + 2 + done do
      member = member + 1
      if leases[member] then
        removed = removed + 1
        succeeded(lane, ARGV[place])
      end
      has_more = put(lane, ARGV[place], 'd') or has_more
    end
    for place = start + 3 + done, start + 2 + done + 5 * others, 5 do
      member = member + 1
      local ticket, learned = ARGV[place], ARGV[place + 1]
      if leases[member] then
        removed = removed + 1
        if learned == 's' then
          succeeded(lane, ticket)
        elseif learned == 'f' then
          failed(lane, ticket, tonumber(leases[member]))
        elseif learned == 't' then
          throttled(lane, ticket, tonumber(ARGV[place + 2]))
        elseif learned == 'n' then
          answered(lane, ticket)
        else
          learned_nothing(lane, ticket, learned == 'x')
        end
      end
      local next = ARGV[place + 3]
      if next == 'p' and leases[member] then
        next = class_of(tonumber(leases[member])) == RETRIES and 'r' or 'f'
      end
      if next ~= 'p' then -- otherwise its lease has ended, and its lane or somebody else has it
        has_more = put(lane, ticket, next, tonumber(ARGV[place + 4]), leases[member]) or has_more
      end
    end
    judge(lane)
    give_back(lane, removed)
    if was_full or has_more then
      returning[name] = lane
    end
  end
end

-- Expired leases go to the front of their lane: nobody in it has waited longer. Whoever held them died,
-- which says nothing about the endpoint.
local expired = redis.call('ZRANGEBYSCORE', leased_key, '-inf', now_text, 'WITHSCORES', 'LIMIT', 0, ARGV[8])
if #expired > 0 then
  local owners, entries, over = {}, {}, {}
  for index = 1, #expired, 2 do
    local member, class = expired[index], class_of(tonumber(expired[index + 1]))
    over[#over + 1] = member
    local name, ticket = string.match(member, '^(%x+):(%d+@?%x*)$')
    if name and #name == 64 then -- nothing else was written by these scripts
      if not entries[name] then
        entries[name] = { {}, {} }
        owners[#owners + 1] = name
      end
      local list = entries[name][class]
      list[#list + 1] = '0'
      list[#list + 1] = ticket
    end
  end
  redis.call('ZREM', leased_key, unpack(over))
  learn(owners)
  for _, name in ipairs(owners) do
    local lane = lanes[name]
    for class = FRESH, RETRIES do
      local list = entries[name][class]
      for index = 2, #list, 2 do
        learned_nothing(lane, list[index], true)
      end
      if #list > 0 then
        redis.call('ZADD', tickets_stem[class] .. name, unpack(list))
        give_back(lane, #list / 2)
      end
    end
    returning[name] = lane
  end
end

for _, lane in pairs(returning) do
  seat(lane)
end
for name, tenant in pairs(freed) do
  for class = FRESH, RETRIES do
    local first = redis.call('ZRANGE', lanes_stem[class] .. name, 0, 0, 'WITHSCORES')
    if first[2] then
      seat_tenant(tenant, class, math.max(first[2], now_us))
    end
  end
end
take_seats()

-- 3. Serving ---------------------------------------------------------------------------------------
--
-- Who was served goes to the end of the line: each gets the next microsecond, so that the order within
-- one call is kept and a second round comes to it last. Who has nothing due is put out of this call's
-- reach, so every visit either hands out a ticket or is the last one.

local leases, lease_length = {}, 0
local expiry_ms = now_ms + lease_ms
local expiry_texts = { string.format('%.0f', expiry_ms), string.format('%.1f', expiry_ms - 0.5) } -- see class_of
local turn_us, out_of_reach_us = now_us, now_us + 2000 -- at most 500 tickets, hence 1000 turns, are taken

-- When somebody whose next turn would be at `next_us` is looked at again, or nil for nobody. What counts as
-- due is what serving counts as due: for a lane the moment of this call, for a tenant the turns as well
-- that this call has given to lanes. A lane that is due in the next microsecond would otherwise be looked at
-- again and again without getting anything.
local function next_turn(next_us, due_us)
  if next_us and next_us <= due_us then
    turn_us = turn_us + 1
    return turn_us
  end
  return next_us and math.max(next_us, out_of_reach_us)
end

local function line_up(ring, names, turns)
  local leaving, staying = {}, {}
  for _, name in ipairs(names) do
    local turn = turns[name]
    if turn then
      staying[#staying + 1] = string.format('%.0f', turn)
      staying[#staying + 1] = name
    elseif turn == false then
      leaving[#leaving + 1] = name -- empty, or full: a push or a completion brings it back
    end
  end
  if #leaving > 0 then
    redis.call('ZREM', ring, unpack(leaving))
  end
  if #staying > 0 then
    redis.call('ZADD', ring, unpack(staying))
  end
end

local function serve_lane(lane, class, share)
  local wanted = math.min(share, free_slots(lane), tenant_max - lane.tenant.held)
  if lane.rate then
    wanted = math.min(wanted, math.floor(lane.tokens))
  end
  if wanted <= 0 or blocked_us(lane) > now_us then
    return 0
  end
  local key = tickets_stem[class] .. lane.name
  local tickets = redis.call('ZRANGEBYSCORE', key, '-inf', now_text, 'LIMIT', 0, wanted)
  local count = #tickets
  if count == 0 then
    return 0
  end
  redis.call('ZREMRANGEBYRANK', key, 0, count - 1) -- the due ones are the first ones
  reply[reply_length + 1], reply[reply_length + 2] = lane.name, count
  reply_length = reply_length + 2
  local stem, expiry_text = lane.name .. ':', expiry_texts[class]
  for index = 1, count do
    leases[lease_length + 1], leases[lease_length + 2] = expiry_text, stem .. tickets[index]
    lease_length = lease_length + 2
    reply[reply_length + index] = tickets[index]
  end
  reply_length = reply_length + count
  lane.held, lane.is_moved = lane.held + count, true
  lane.tenant.held, lane.tenant.is_moved = lane.tenant.held + count, true
  if lane.rate then
    lane.tokens, lane.is_changed = lane.tokens - count, true
  end
  if lane.opens_at_ms > 0 then
    lane.probe, lane.probe_ends_ms, lane.is_changed = tickets[1], expiry_ms, true
  end
  return count
end

local function serve_tenant(tenant, class, share)
  local ring, served = lanes_stem[class] .. tenant.name, 0
  while served < share and tenant.held < tenant_max and looks_left > 0 do
    local in_line = redis.call('ZRANGEBYSCORE', ring, '-inf', string.format('%.0f', turn_us), 'LIMIT', 0, per_round)
    if #in_line == 0 then
      break
    end
    learn(in_line)
    looks_left = looks_left - #in_line
    local turns = {}
    for index, name in ipairs(in_line) do
      if served >= share or tenant.held >= tenant_max then
        break -- lanes not reached keep their turn
      end
      local left = share - served
      local lane_share = math.max(share_min, math.ceil(left / (#in_line - index + 1)))
      served = served + serve_lane(lanes[name], class, math.min(lane_share, left))
      turns[name] = next_turn(turn_of(lanes[name], class), now_us) or false
    end
    line_up(ring, in_line, turns)
  end
  return served
end

local function serve(class, share)
  local served = 0
  while served < share and looks_left > 0 do
    local in_line = redis.call('ZRANGEBYSCORE', rings[class], '-inf', string.format('%.0f', turn_us), 'LIMIT', 0, per_round)
    if #in_line == 0 then
      break
    end
    learn_tenants(in_line)
    looks_left = looks_left - #in_line
    local turns = {}
    for index, name in ipairs(in_line) do
      if served >= share then
        break -- tenants not reached keep their turn
      end
      local tenant, left = tenants[name], share - served
      local tenant_share = math.max(share_min, math.ceil(left / (#in_line - index + 1)))
      served = served + serve_tenant(tenant, class, math.min(tenant_share, left))
      local first = tenant.held < tenant_max and redis.call('ZRANGE', lanes_stem[class] .. name, 0, 0, 'WITHSCORES')
      turns[name] = next_turn(first and first[2] and tonumber(first[2]), turn_us) or false
    end
    line_up(rings[class], in_line, turns)
  end
  return served
end

-- Four fresh tickets earn one retry its place; what fresh tickets leave, retries may have.
local CREDIT_MAX = 32
local credit = tonumber(redis.call('GET', credit_key)) or 1
local fifth = math.min(math.floor(credit), math.max(1, math.floor(budget / 5)))
local retries = serve(RETRIES, math.min(fifth, budget))
local fresh = serve(FRESH, budget - retries)
serve(RETRIES, budget - retries - fresh)
local credit_left = math.min(credit - retries + fresh / 4, CREDIT_MAX)
if credit_left ~= credit then
  redis.call('SET', credit_key, credit_left)
end

if lease_length > 0 then
  -- A ticket can lie in its lane and be leased at the same time only if Redis lost a part of its keys;
  -- it is then counted twice until mend.lua counts again.
  redis.call('ZADD', leased_key, unpack(leases))
end

-- 4. Write back what has changed.
local counts, idle = {}, {}
for _, known in ipairs({ lanes, tenants }) do
  for name, it in pairs(known) do
    if it.is_moved and it.held > 0 then
      counts[#counts + 1] = name
      counts[#counts + 1] = it.held
    elseif it.is_moved then
      idle[#idle + 1] = name
    end
    if it.is_changed then
      write_state(it)
    end
  end
end
if #counts > 0 then
  redis.call('HSET', in_flight_key, unpack(counts))
end
if #idle > 0 then
  redis.call('HDEL', in_flight_key, unpack(idle))
end

-- 5. When is it worth coming back? If something could be served now, another dispatcher is woken: the
--    caller has all it asked for.
local next_us = -1
local function not_later_than(us)
  if next_us < 0 or us < next_us then
    next_us = us
  end
end
for class = FRESH, RETRIES do
  local first = redis.call('ZRANGE', rings[class], 0, 0, 'WITHSCORES')
  if first[2] then
    not_later_than(math.max(first[2] - turn_us, 0))
  end
end
if next_us == 0 and redis.call('LLEN', bell) < bell_length_max then
  redis.call('RPUSH', bell, '1')
end
if next_us ~= 0 then
  local first_lease = redis.call('ZRANGE', leased_key, 0, 0, 'WITHSCORES')
  if first_lease[2] then
    not_later_than(math.max(first_lease[2] * 1000 - now_us, 0))
  end
end
reply[1] = next_us
return reply
