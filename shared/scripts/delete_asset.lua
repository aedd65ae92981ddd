-- Forgets an asset that nobody holds. KEYS: record, users, all assets. ARGV: id.
-- Returns 'deleted', 'unknown', or 'busy' while a request's lease on it lasts.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'unknown'
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', redis.call('TIME')[1])
if redis.call('ZCARD', KEYS[2]) > 0 then
  return 'busy'
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
return 'deleted'
