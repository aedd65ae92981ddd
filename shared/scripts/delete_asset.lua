-- Forgets an asset that nobody holds. KEYS: record, users, all assets, deleted assets of the search index, and,
-- if its id is to be remembered, aged out. ARGV: id, most ids remembered, whether there is a search index ('0' or
-- '1'), from which assets go that lived for more than one request.
-- Returns 'deleted', 'unknown', or 'busy' while a request's lease on it lasts.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'unknown'
end
local now = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if redis.call('ZCARD', KEYS[2]) > 0 then
  return 'busy'
end
if ARGV[3] == '1' and (redis.call('HGET', KEYS[1], 'temporary') or '') == '' then
  redis.call('ZADD', KEYS[4], now, ARGV[1])
  redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - ARGV[2])
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
if KEYS[5] then
  redis.call('ZADD', KEYS[5], now, ARGV[1])
  redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -1 - ARGV[2])
end
return 'deleted'
