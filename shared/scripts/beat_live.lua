-- Tells how a live session fares, if the worker still holds its job, and keeps it from expiring. With nothing to
-- tell and nothing to keep it writes nothing.
-- KEYS: request, session, results, running requests, users of the asset, lane.
-- ARGV: request id, request ttl, group, worker, job, whether to keep it from expiring ('0' or '1'), changed fields of
-- the session...
-- Returns {state of the request, whether to stop, token of the move that is asked for}; 'gone' if the session is another request's by now, 'lost' if
-- the job is another worker's.
local request, live, id, ttl = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local state = redis.call('HGET', request, 'state') or 'gone'
if state ~= 'running' then
  return { state, '', '' }
end
if redis.call('HGET', live, 'request') ~= id then
  return { 'gone', '', '' }
end
local pending = redis.call('XPENDING', KEYS[6], ARGV[3], ARGV[5], ARGV[5], 1)[1]
if not pending or pending[2] ~= ARGV[4] then
  return { 'lost', '', '' }
end
if ARGV[6] == '1' or #ARGV > 6 then
  redis.call('HSET', live, 'owner', ARGV[4], unpack(ARGV, 7))
end
if ARGV[6] == '1' then
  for i = 1, 3 do
    redis.call('EXPIRE', KEYS[i], ttl)
  end
  local lease = tonumber(redis.call('TIME')[1]) + ttl
  for i = 4, 5 do
    redis.call('ZADD', KEYS[i], 'XX', lease, id)
  end
end
return { 'running', redis.call('HGET', live, 'stop') or '', redis.call('HGET', live, 'mover') or '' }
