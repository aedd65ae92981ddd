-- Makes an asset known under an id that nobody has. KEYS: record, all assets. ARGV: id, fields...
-- Returns the second of registration, or 0 when the id is taken.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], 'created', now, unpack(ARGV, 2))
redis.call('ZADD', KEYS[2], now, ARGV[1])
return now
