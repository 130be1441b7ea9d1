-- Makes the counts of tickets in flight agree with the leased set again, which is the truth about them.
-- The other scripts keep both in step; they part only if Redis lost one key and kept the other.
--
-- KEYS  1 epoch  2 ring  3 leased  4 in_flight
-- ARGV  1 prefix of the lanes' keys   2 tickets a lane may have in flight
--
-- Returns the number of lanes put right.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end

local ring, leased, in_flight_key = KEYS[2], KEYS[3], KEYS[4]
local prefix, in_flight_max = ARGV[1], tonumber(ARGV[2])

local counted = redis.call('HGETALL', in_flight_key)
local sum = 0
for index = 2, #counted, 2 do
  sum = sum + counted[index]
end
if sum == redis.call('ZCARD', leased) then
  return 0 -- as good as always
end

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]

local truth = {}
for _, member in ipairs(redis.call('ZRANGE', leased, 0, -1)) do
  local lane = string.match(member, '^(.*):%d+$')
  if lane then
    truth[lane] = (truth[lane] or 0) + 1
  end
end

local mended, known = 0, {}
for index = 1, #counted, 2 do
  local lane = counted[index]
  known[lane] = true
  local count = truth[lane] or 0
  if tonumber(counted[index + 1]) ~= count then
    mended = mended + 1
    if count > 0 then
      redis.call('HSET', in_flight_key, lane, count)
    else
      redis.call('HDEL', in_flight_key, lane)
    end
    if count < in_flight_max then
      local head = redis.call('ZRANGE', prefix .. lane, 0, 0, 'WITHSCORES')
      if head[2] then
        redis.call('ZADD', ring, 'LT', string.format('%.0f', math.max(now_us, head[2] * 1000)), lane)
      end
    end
  end
end
for lane, count in pairs(truth) do
  if not known[lane] then
    mended = mended + 1
    redis.call('HSET', in_flight_key, lane, count)
  end
end
return mended
