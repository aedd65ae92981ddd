-- Forgets an asset that nobody holds. KEYS: record, users, all assets, and, if its id is to be remembered,
-- aged out. ARGV: id, most ids remembered.
-- Returns 'deleted', 'unknown', or 'busy' while a request's lease on it lasts.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'unknown'
end
local now = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if redis.call('ZCARD', KEYS[2]) > 0 then
  return 'busy'
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
if KEYS[4] then
  redis.call('ZADD', KEYS[4], now, ARGV[1])
  redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - ARGV[2])
end
return 'deleted'
