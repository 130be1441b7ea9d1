-- Makes the counts of tickets in flight agree with the leased set again, which is the truth about them.
-- The other scripts keep both in step; they part only if Redis lost one key and kept the other.
--
-- Returns the number of lanes and tenants put right.

if redis.call('EXISTS', epoch_key) == 0 then
  return 0
end

-- A clock that was set back has put the end of leases far away; none lasts for an hour.
local far = redis.call('ZRANGEBYSCORE', leased_key, string.format('%.0f', now_ms + 3600000), '+inf', 'LIMIT', 0, 500)
for _, member in ipairs(far) do
  redis.call('ZADD', leased_key, now_text, member)
end

local counted = redis.call('HGETALL', in_flight_key)
local sum = 0
for index = 2, #counted, 2 do
  sum = sum + counted[index]
end
if sum == 2 * redis.call('ZCARD', leased_key) then
  return 0 -- as good as always: each is counted for its lane and for its tenant
end

local truth = {}
for _, member in ipairs(redis.call('ZRANGE', leased_key, 0, -1)) do
  local lane = string.match(member, '^(.*):[^:]*$')
  if lane then
    local tenant = string.sub(lane, 1, 32)
    truth[lane] = (truth[lane] or 0) + 1
    truth[tenant] = (truth[tenant] or 0) + 1
  end
end

local mended, wrong = 0, {}
for index = 1, #counted, 2 do
  local name = counted[index]
  if tonumber(counted[index + 1]) ~= (truth[name] or 0) then
    wrong[#wrong + 1] = name
  end
  if not truth[name] then
    truth[name] = 0
  elseif tonumber(counted[index + 1]) == truth[name] then
    truth[name] = nil -- right already
  end
end
for name, count in pairs(truth) do
  mended = mended + 1
  if count > 0 then
    redis.call('HSET', in_flight_key, name, count)
  else
    redis.call('HDEL', in_flight_key, name)
  end
end
for _, name in ipairs(wrong) do
  if #name > 32 then
    learn({ name })
    seat(lanes[name])
  else
    learn_tenants({ name })
    for class = FRESH, RETRIES do
      local first = redis.call('ZRANGE', lanes_stem[class] .. name, 0, 0, 'WITHSCORES')
      if first[2] then
        seat_tenant(tenants[name], class, first[2])
      end
    end
  end
end
take_seats()
return mended
