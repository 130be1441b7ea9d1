-- Takes back what the caller has finished, returns what others have held for too long, and hands out
-- due tickets: the lane that was served longest ago first, each lane up to its free slots.
--
-- KEYS  1 epoch  2 ring  3 leased  4 in_flight  5 bell
-- ARGV  1 prefix of the lanes' keys   2 most tickets to hand out   3 length of the lease in ms
--       4 tickets a lane may have in flight   5 longest the bell's list may grow
--       6 most expired leases to return   7 fewest tickets worth visiting a lane for
--       8 number of tickets given back, then as many members of the leased set, sorted by lane
--       then for each lane among them: its name, how many of those members are its own,
--       the number m of its tickets that go back into it, m times (due in ms, sequence number)
--
-- Returns { µs until something may be served (0 now, -1 nobody knows), then for each lane served: its
-- name, the number n of tickets, n sequence numbers }; an empty table if the epoch is gone.
--
-- Redis checks its memory limit only before a script's first write. Every path here begins by removing
-- something, so a full Redis can still be drained; it refuses pushes alone.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return {}
end

local ring, leased, in_flight_key, bell = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local prefix = ARGV[1]
local budget, lease_ms, in_flight_max = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local share_min = tonumber(ARGV[7])
local lanes_per_round = 16

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local now_text = string.format('%.0f', now_ms)

redis.call('HDEL', in_flight_key, '') -- removes nothing; it is the first write

-- Tickets in flight by lane, as far as this call has needed them; `moved` are those to write back.
local held, moved = {}, {}

local function learn_held(lanes)
  local unknown = {}
  for _, lane in ipairs(lanes) do
    if not held[lane] then
      unknown[#unknown + 1] = lane
    end
  end
  if #unknown > 0 then
    local counts = redis.call('HMGET', in_flight_key, unpack(unknown))
    for index, lane in ipairs(unknown) do
      held[lane] = math.max(tonumber(counts[index]) or 0, 0)
    end
  end
end

-- Lanes to look at again once all that comes back is back: they have a slot again, or a ticket.
local returning, is_returning = {}, {}

local function give_back(lane, count, puts_tickets_back)
  local before = held[lane]
  if count > 0 then
    held[lane] = math.max(before - count, 0)
    moved[lane] = true
  end
  if (before >= in_flight_max or puts_tickets_back) and not is_returning[lane] then
    is_returning[lane] = true
    returning[#returning + 1] = lane
  end
end

-- 1. Completions. What is not in the leased set any more (Redis was emptied, the lease has expired)
--    frees no slot: only what is really removed counts.
local returned = tonumber(ARGV[8])
if returned > 0 then
  local leases = redis.call('ZMSCORE', leased, unpack(ARGV, 9, 8 + returned))
  redis.call('ZREM', leased, unpack(ARGV, 9, 8 + returned))
  local lanes, starts, at = {}, {}, 9 + returned
  while at <= #ARGV do
    lanes[#lanes + 1] = ARGV[at]
    starts[#starts + 1] = at + 1
    at = at + 3 + 2 * ARGV[at + 2]
  end
  learn_held(lanes)
  local member = 0
  for index, lane in ipairs(lanes) do
    local start, removed = starts[index], 0
    for _ = 1, tonumber(ARGV[start]) do
      member = member + 1
      if leases[member] then
        removed = removed + 1
      end
    end
    local staying = tonumber(ARGV[start + 1])
    if staying > 0 then
      local entries = {}
      for entry = 1, 2 * staying, 2 do
        entries[entry] = string.format('%.0f', now_ms + ARGV[start + 1 + entry])
        entries[entry + 1] = ARGV[start + 2 + entry]
      end
      redis.call('ZADD', prefix .. lane, unpack(entries)) -- Postgres has just said when: it wins
    end
    give_back(lane, removed, staying > 0)
  end
end

-- 2. Expired leases go to the front of their lane: nobody in it has waited longer.
local expired = redis.call('ZRANGEBYSCORE', leased, '-inf', now_text, 'LIMIT', 0, ARGV[6])
if #expired > 0 then
  redis.call('ZREM', leased, unpack(expired))
  local lanes, entries = {}, {}
  for _, member in ipairs(expired) do
    local lane, seq = string.match(member, '^(.*):(%d+)$')
    if lane then
      if not entries[lane] then
        entries[lane] = {}
        lanes[#lanes + 1] = lane
      end
      local list = entries[lane]
      list[#list + 1] = '0'
      list[#list + 1] = seq
    end
  end
  learn_held(lanes)
  for _, lane in ipairs(lanes) do
    redis.call('ZADD', prefix .. lane, unpack(entries[lane]))
    give_back(lane, #entries[lane] / 2, true)
  end
end

local ring_entries = {}
for _, lane in ipairs(returning) do
  if held[lane] < in_flight_max then
    local head = redis.call('ZRANGE', prefix .. lane, 0, 0, 'WITHSCORES')
    if head[2] then
      ring_entries[#ring_entries + 1] = string.format('%.0f', math.max(now_us, head[2] * 1000))
      ring_entries[#ring_entries + 1] = lane
    end
  end
end
if #ring_entries > 0 then
  redis.call('ZADD', ring, 'LT', unpack(ring_entries)) -- LT: a waiting lane keeps its turn
end

-- 3. Serve. A lane served goes to the end of the line: each gets the next microsecond, so that the
--    order within one call is kept and a second round comes to it last. A lane that has nothing due is
--    put out of this call's reach, so every visit either hands out a ticket or is the lane's last.
local reply, reply_length = { 0 }, 1
local leases, lease_length = {}, 0
local expiry_text = string.format('%.0f', now_ms + lease_ms)
local turn_us, out_of_reach_us = now_us, now_us + 1000 -- at most 500 turns are taken
while budget > 0 do
  local lanes = redis.call('ZRANGEBYSCORE', ring, '-inf', string.format('%.0f', turn_us), 'LIMIT', 0, lanes_per_round)
  local lane_count = #lanes
  if lane_count == 0 then
    break
  end
  learn_held(lanes)
  local leaving, staying, stay_length = {}, {}, 0
  for index, lane in ipairs(lanes) do
    if budget == 0 then
      break -- lanes not reached keep their turn
    end
    local lane_key = prefix .. lane
    local share = math.max(share_min, math.ceil(budget / (lane_count - index + 1)))
    local wanted = math.min(share, budget, in_flight_max - held[lane])
    if wanted > 0 then
      local seqs = redis.call('ZRANGEBYSCORE', lane_key, '-inf', now_text, 'LIMIT', 0, wanted)
      local count = #seqs
      if count > 0 then
        redis.call('ZREMRANGEBYRANK', lane_key, 0, count - 1) -- the due ones are the first ones
        reply[reply_length + 1] = lane
        reply[reply_length + 2] = count
        reply_length = reply_length + 2
        local stem = lane .. ':'
        for ticket = 1, count do
          local seq = seqs[ticket]
          leases[lease_length + 1] = expiry_text
          leases[lease_length + 2] = stem .. seq
          lease_length = lease_length + 2
          reply[reply_length + ticket] = seq
        end
        reply_length = reply_length + count
        held[lane] = held[lane] + count
        moved[lane] = true
        budget = budget - count
      end
    end
    local head = held[lane] < in_flight_max and redis.call('ZRANGE', lane_key, 0, 0, 'WITHSCORES')
    if head and head[2] then
      local next_turn_us = head[2] * 1000
      if next_turn_us <= now_us then
        turn_us = turn_us + 1
        next_turn_us = turn_us
      else
        next_turn_us = math.max(next_turn_us, out_of_reach_us)
      end
      staying[stay_length + 1] = string.format('%.0f', next_turn_us)
      staying[stay_length + 2] = lane
      stay_length = stay_length + 2
    else
      leaving[#leaving + 1] = lane -- empty, or full: a push or a completion brings it back
    end
  end
  if #leaving > 0 then
    redis.call('ZREM', ring, unpack(leaving))
  end
  if stay_length > 0 then
    redis.call('ZADD', ring, unpack(staying))
  end
end

if lease_length > 0 then
  -- A ticket can lie in its lane and be leased at the same time only if Redis lost a part of its keys;
  -- it is then counted twice until mend.lua counts again.
  redis.call('ZADD', leased, unpack(leases))
end

-- 4. Write the counts back.
local counts, idle = {}, {}
for lane in pairs(moved) do
  if held[lane] > 0 then
    counts[#counts + 1] = lane
    counts[#counts + 1] = held[lane]
  else
    idle[#idle + 1] = lane
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
local first_lane = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
if first_lane[2] then
  next_us = math.max(first_lane[2] - turn_us, 0)
  if next_us == 0 and redis.call('LLEN', bell) < tonumber(ARGV[5]) then
    redis.call('RPUSH', bell, '1')
  end
end
if next_us ~= 0 then
  local first_lease = redis.call('ZRANGE', leased, 0, 0, 'WITHSCORES')
  if first_lease[2] then
    local expires_us = math.max(first_lease[2] * 1000 - now_us, 0)
    if next_us < 0 or expires_us < next_us then
      next_us = expires_us
    end
  end
end
reply[1] = next_us
return reply
