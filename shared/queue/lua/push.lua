-- Offers up to 500 tickets of one shard. Saying the same thing twice changes nothing.
--
-- KEYS  1 epoch  2 ring  3 leased  4 in_flight  5 bell
-- ARGV  1 prefix of the lanes' keys   2 the epoch the caller believes in
--       3 tickets a lane may have in flight   4 longest the bell's list may grow
--       5 how soon a ticket must be due to ring, in ms
--       then for each lane: its name, its number n of tickets, n times (due in ms, sequence number)
--
-- Returns the number of tickets that are new or due earlier than before; -1 if the epoch is another,
-- in which case nothing was written.

if redis.call('GET', KEYS[1]) ~= ARGV[2] then
  return -1
end

local ring, leased = KEYS[2], KEYS[3]
local prefix, in_flight_max = ARGV[1], tonumber(ARGV[3])

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local now_text = string.format('%.0f', now_ms) -- once; a number per ticket would be formatted again and again

local lanes, starts, lane_count = {}, {}, 0
local at = 6
while at <= #ARGV do
  lane_count = lane_count + 1
  lanes[lane_count] = ARGV[at]
  starts[lane_count] = at + 1
  at = at + 2 + 2 * ARGV[at + 1]
end
if lane_count == 0 then
  return 0
end
local in_flight = redis.call('HMGET', KEYS[4], unpack(lanes))

local changed, soonest_ms = 0, math.huge
local ring_entries, ring_entry_count = {}, 0

for lane_index = 1, lane_count do
  local lane, start = lanes[lane_index], starts[lane_index]
  local tickets = tonumber(ARGV[start])
  local held = tonumber(in_flight[lane_index]) or 0

  -- A ticket somebody holds must not lie in the lane as well, or it would be handed out twice. Only a
  -- lane with something in flight can have one.
  local leases
  if held > 0 then
    local members = {}
    for ticket = 1, tickets do
      members[ticket] = lane .. ':' .. ARGV[start + 2 * ticket]
    end
    leases = redis.call('ZMSCORE', leased, unpack(members))
  end

  local entries, entry_count, lane_soonest_ms = {}, 0, math.huge
  for ticket = 1, tickets do
    if not (leases and leases[ticket]) then
      local due_in = ARGV[start + 2 * ticket - 1]
      if due_in == '0' then
        entries[entry_count + 1] = now_text
        lane_soonest_ms = now_ms
      else
        local due_ms = now_ms + due_in
        entries[entry_count + 1] = string.format('%.0f', due_ms)
        if due_ms < lane_soonest_ms then
          lane_soonest_ms = due_ms
        end
      end
      entries[entry_count + 2] = ARGV[start + 2 * ticket]
      entry_count = entry_count + 2
    end
  end

  if entry_count > 0 then
    -- LT: a ticket that is already there keeps its place, unless it is now due earlier.
    changed = changed + redis.call('ZADD', prefix .. lane, 'LT', 'CH', unpack(entries))
    if lane_soonest_ms < soonest_ms then
      soonest_ms = lane_soonest_ms
    end
    -- A lane with all its slots taken is off the ring until a completion puts it back.
    if held < in_flight_max then
      ring_entries[ring_entry_count + 1] =
        string.format('%.0f', math.max(now_us, lane_soonest_ms * 1000))
      ring_entries[ring_entry_count + 2] = lane
      ring_entry_count = ring_entry_count + 2
    end
  end
end

if ring_entry_count > 0 then
  redis.call('ZADD', ring, 'LT', unpack(ring_entries)) -- LT: a waiting lane keeps its turn
end

-- One bell wakes one dispatcher, which wakes the next one if it cannot take everything (claim.lua).
if changed > 0 and soonest_ms <= now_ms + ARGV[5] and redis.call('LLEN', KEYS[5]) < tonumber(ARGV[4]) then
  redis.call('RPUSH', KEYS[5], '1')
end

return changed
