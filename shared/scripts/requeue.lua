-- Puts a dead letter back to where it came from. A job's request runs again: its end is taken back.
-- KEYS: dead letters, stream; for a job also request, results, done bitmap, running requests, then one users
-- key per asset. ARGV: dead letter's id, request id, request ttl, fields...
-- Returns 'ok', 'gone' if there is no such letter, or 'expired' if the request is forgotten.
local now = redis.call('TIME')
if KEYS[3] and redis.call('EXISTS', KEYS[3]) == 0 then
  return 'expired'
end
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then
  return 'gone'
end
if KEYS[3] then
  local lease = now[1] + ARGV[3]
  redis.call('HSET', KEYS[3], 'state', 'running')
  redis.call('HDEL', KEYS[3], 'finished')
  local last = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
  if last and last[2][1] == 'type' and last[2][2] == 'end' then
    redis.call('XDEL', KEYS[4], last[1])
  end
  for i = 3, 5 do
    redis.call('EXPIRE', KEYS[i], ARGV[3])
  end
  for i = 6, #KEYS do
    redis.call('ZADD', KEYS[i], lease, ARGV[2])
  end
end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 4))
return 'ok'
