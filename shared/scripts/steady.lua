-- For other scripts: returns for how many ms Redis has been written to without a break. Gateways and workers write
-- several times a second, so a break is an outage, in which those that are alive could not say so.
local BREAK = 1500
local function steady(pulse)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local known = redis.call('HMGET', pulse, 'last', 'since')
  local last, since = tonumber(known[1]), tonumber(known[2])
  if not last then -- nobody has been here for long
    since = 0
  elseif now < last or now - last > BREAK then
    since = now
  end
  redis.call('HSET', pulse, 'last', now, 'since', since)
  redis.call('PEXPIRE', pulse, 3600000)
  return now - since
end
