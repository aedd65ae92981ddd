-- Tells how a live session fares and keeps it from expiring.
-- KEYS: request, session, results, running requests, users of the asset.
-- ARGV: request id, request ttl, fields of the session...
-- Returns {state of the request, whether to stop}; 'gone' if the session is another request's by now.
local request, live, id, ttl = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local state = redis.call('HGET', request, 'state') or 'gone'
if state ~= 'running' then
  return { state, '' }
end
if redis.call('HGET', live, 'request') ~= id then
  return { 'gone', '' }
end
redis.call('HSET', live, unpack(ARGV, 3))
for i = 1, 3 do
  redis.call('EXPIRE', KEYS[i], ttl)
end
local lease = tonumber(redis.call('TIME')[1]) + ttl
for i = 4, 5 do
  redis.call('ZADD', KEYS[i], 'XX', lease, id)
end
return { 'running', redis.call('HGET', live, 'stop') or '' }
