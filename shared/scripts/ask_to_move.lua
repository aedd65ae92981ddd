-- Asks the worker that runs a live session to hand it over to another, if none has asked and not too many move.
-- KEYS: session, request, moving streams. ARGV: request id, stream, token of this move, seconds that it may take,
-- most that may move at a time. Returns whether it is asked for (1 or 0).
local now, ttl = tonumber(redis.call('TIME')[1]), tonumber(ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
local known = redis.call('HMGET', KEYS[1], 'request', 'state')
local runs = known[1] == ARGV[1] and known[2] == 'running' and redis.call('HGET', KEYS[2], 'state') == 'running'
if not runs or redis.call('ZSCORE', KEYS[3], ARGV[2]) or redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[5]) then
  return 0
end
redis.call('HDEL', KEYS[1], 'move_at', 'mover_ready')
redis.call('HSET', KEYS[1], 'mover', ARGV[3])
redis.call('ZADD', KEYS[3], now + ttl, ARGV[2])
redis.call('EXPIRE', KEYS[3], ttl)
return 1
