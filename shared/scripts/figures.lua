-- Adds what a process has counted since its last call, and sets what it measures now. A call that comes a
-- second time, because its answer was lost, adds nothing.
-- KEYS: what all have counted, sources, this source's gauges. ARGV: source, number of the call, ttl of the
-- gauges, number of increments, (name, increment)..., number of latest values, (name, value)..., then the
-- gauges, (name, value)...
local source, call, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local latest = 5 + 2 * tonumber(ARGV[4])
local first_gauge = latest + 1 + 2 * tonumber(ARGV[latest])

if call > tonumber(redis.call('HGET', KEYS[3], 'call') or 0) then
  for i = 5, latest - 1, 2 do
    redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  for i = latest + 1, first_gauge - 1, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end

redis.call('HSET', KEYS[3], 'call', call)
for i = first_gauge, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[3], ttl)
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[2], now + ttl, source)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
