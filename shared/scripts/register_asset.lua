-- Makes an asset known under an id that nobody has; a call repeated because its answer was lost changes nothing.
-- KEYS: record, all assets, aged out, arriving. ARGV: id, token of this call, fields...
-- Returns the second of registration, or 0 when the id is taken.
if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('HGET', KEYS[1], 'registration') == ARGV[2] then
    return tonumber(redis.call('HGET', KEYS[1], 'created'))
  end
  return 0
end
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], 'created', now, 'registration', ARGV[2], unpack(ARGV, 3))
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
return now
