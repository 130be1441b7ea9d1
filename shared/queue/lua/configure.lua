-- Tells lanes their limits.
--
-- ARGV  5 the epoch the caller believes in
--       then for each lane: its name, its settings (lanes.lua), or nothing where it has none
--
-- Returns 1; -1 if the epoch is another, in which case nothing was written.

if redis.call('GET', epoch_key) ~= ARGV[5] then
  return -1
end

local names = {}
for at = 6, #ARGV, 2 do
  names[#names + 1] = ARGV[at]
end
learn(names)
for index, name in ipairs(names) do
  local lane, text = lanes[name], ARGV[5 + 2 * index]
  local was_paused = lane.is_paused
  if text == '' then
    redis.call('HDEL', settings_key, name)
  else
    redis.call('HSET', settings_key, name, text)
  end
  lane.rate, lane.burst, lane.tokens = nil, nil, nil
  read_settings(lane, text ~= '' and text)
  read_state(lane, redis.call('GET', state_stem .. name))
  if was_paused and not lane.is_paused and lane.ramp == 0 then
    lane.ramp = RAMP_START -- what has gathered meanwhile comes gently
  end
  write_state(lane)
  seat(lane)
end
take_seats()
return 1
