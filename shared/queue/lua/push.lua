-- Offers up to 500 tickets of one shard. Saying the same thing twice changes nothing.
--
-- ARGV  5 the epoch the caller believes in   6 longest the bell's list may grow
--       7 how soon a ticket must be due to ring, in ms
--       then for each lane: its name, its number n of tickets, n times (due in ms, class, ticket); two more
--       than the class for a ticket that is known to be the first with its ordering key
--
-- Returns the number of tickets that are new or due earlier than before; -1 if the epoch is another,
-- in which case nothing was written.

if redis.call('GET', epoch_key) ~= ARGV[5] then
  return -1
end

local names, starts = {}, {}
local at = 8
while at <= #ARGV do
  names[#names + 1] = ARGV[at]
  starts[#starts + 1] = at + 1
  at = at + 2 + 3 * ARGV[at + 1]
end
if #names == 0 then
  return 0
end
learn(names)

local changed, soonest_us = 0, math.huge

-- A ticket keeps the class in which it waits, whatever the caller takes it for.
local function classes_of(lane, tickets, classes)
  for class = FRESH, RETRIES do
    local other = tickets_stem[3 - class] .. lane.name
    local mine, places = {}, {}
    for index, ticket in ipairs(tickets) do
      if classes[index] == class then
        mine[#mine + 1] = ticket
        places[#places + 1] = index
      end
    end
    if #mine > 0 and redis.call('EXISTS', other) == 1 then
      for index, score in ipairs(redis.call('ZMSCORE', other, unpack(mine))) do
        if score then
          classes[places[index]] = 3 - class
        end
      end
    end
  end
end

-- Whether a ticket with an ordering key goes into its lane. If it is not the first of its chain it waits
-- there for those before it, and `keys` learns that the first one is to be looked after.
local function is_first(lane, ticket, keys, is_known)
  local seq, key = split(ticket)
  local chain = chain_stem .. lane.name .. ':' .. key
  if is_known then
    -- Whatever stands before it is finished, and would be waited for in vain.
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', chain, '-inf', '(' .. seq)) do
      redis.call('ZREM', chain, gone)
      for class = FRESH, RETRIES do
        redis.call('ZREM', tickets_stem[class] .. lane.name, gone .. '@' .. key)
      end
    end
  end
  local added = redis.call('ZADD', chain, 'NX', seq, seq)
  if redis.call('ZRANK', chain, seq) == 0 then
    return true
  end
  changed = changed + added
  keys[key] = true
  return false
end

for index, name in ipairs(names) do
  local lane, start = lanes[name], starts[index]
  local tickets, classes, waits, firsts = {}, {}, {}, {}
  for ticket = 1, tonumber(ARGV[start]) do
    waits[ticket] = ARGV[start + 3 * ticket - 2]
    local class = tonumber(ARGV[start + 3 * ticket - 1])
    classes[ticket], firsts[ticket] = class > 2 and class - 2 or class, class > 2
    tickets[ticket] = ARGV[start + 3 * ticket]
  end

  -- A ticket somebody holds must not lie in the lane as well, or it would be handed out twice. Only a
  -- lane with something in flight can have one.
  local leases
  if lane.held > 0 then
    local members = {}
    for ticket = 1, #tickets do
      members[ticket] = name .. ':' .. tickets[ticket]
    end
    leases = redis.call('ZMSCORE', leased_key, unpack(members))
  end
  classes_of(lane, tickets, classes)

  local entries, keys = { {}, {} }, {}
  local soonest_ms = { math.huge, math.huge }
  for ticket = 1, #tickets do
    if not (leases and leases[ticket]) and (not string.find(tickets[ticket], '@', 1, true) or is_first(lane, tickets[ticket], keys, firsts[ticket])) then
      local class = classes[ticket]
      local list, due_ms = entries[class], now_ms + waits[ticket]
      -- Formatting a number per ticket would cost more than the rest.
      list[#list + 1] = waits[ticket] == '0' and now_text or string.format('%.0f', due_ms)
      list[#list + 1] = tickets[ticket]
      soonest_ms[class] = math.min(soonest_ms[class], due_ms)
    end
  end
  local blocked, has_slots = blocked_us(lane), free_slots(lane) > 0
  for class = FRESH, RETRIES do
    if #entries[class] > 0 then
      -- LT: a ticket that is already there keeps its place, unless it is now due earlier.
      changed = changed + redis.call('ZADD', tickets_stem[class] .. name, 'LT', 'CH', unpack(entries[class]))
    end
  end
  for key in pairs(keys) do
    if offer_first(lane, key) then
      changed = changed + 1
      soonest_ms[FRESH] = now_ms
    end
  end
  if next(keys) then
    seat(lane) -- the ticket that others wait for may be the lane's only one, and its turn lost
  end
  for class = FRESH, RETRIES do
    if soonest_ms[class] < math.huge then
      local turn_us = math.max(soonest_ms[class] * 1000, blocked)
      soonest_us = math.min(soonest_us, turn_us)
      if has_slots then -- otherwise a completion puts it in line
        seat_in(lane, class, turn_us)
      end
    end
  end
end

take_seats()

-- One bell wakes one dispatcher, which wakes the next one if it cannot take everything (claim.lua).
if changed > 0 and soonest_us <= now_us + ARGV[7] * 1000 and redis.call('LLEN', bell) < tonumber(ARGV[6]) then
  redis.call('RPUSH', bell, '1')
end

return changed
