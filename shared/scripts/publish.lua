-- Stores and announces results and puts their messages into the outbox, each once.
-- ARGV after the prelude's: request ttl, outbox, its counts, its limit, routes, whether messages are wanted
-- ('0' or '1') unless the routes say otherwise, whether the caller believes that they are, number of
-- results, then per result: chunk, packed entry, number of its fields, fields..., number of its message's
-- fields (0 for no message), fields...
-- A request for which 0 results are planned is open-ended: it takes results in ascending order only.
-- Returns {request's state afterwards or 'gone', results stored, messages stored, messages dropped}; or, with
-- nothing done, {'mistaken'} if the caller believes what is not so.
if state ~= 'running' then
  return { state or 'gone', 0, 0, 0 }
end

local request_ttl = tonumber(ARGV[rest])
local outbox, counts, limit = ARGV[rest + 1], ARGV[rest + 2], tonumber(ARGV[rest + 3])
local wanted, bus = ARGV[rest + 5], redis.call('HGET', ARGV[rest + 4], 'message_bus')
if bus then
  wanted = bus == 'off' and '0' or '1'
end
if wanted ~= ARGV[rest + 6] then
  return { 'mistaken' }
end

local function is_new(chunk)
  if planned > 0 then
    return redis.call('SETBIT', done, chunk, 1) == 0
  end
  if tonumber(chunk) <= tonumber(redis.call('HGET', request, 'last') or -1) then
    return false
  end
  redis.call('HSET', request, 'last', chunk)
  return true
end

local stored, queued, dropped, finished = 0, 0, 0, nil
local at = rest + 8
for _ = 1, tonumber(ARGV[rest + 7]) do
  local first = at + 3
  local message = first + tonumber(ARGV[at + 2])
  local after = message + 1 + tonumber(ARGV[message])
  if is_new(ARGV[at]) then
    finished = redis.call('HINCRBY', request, 'done', 1)
    store(ARGV[at + 1], first, message - 1)
    stored = stored + 1
    if after > message + 1 then
      if redis.call('XLEN', outbox) < limit then
        redis.call('XADD', outbox, '*', unpack(ARGV, message + 1, after - 1))
        queued = queued + 1
      else
        dropped = dropped + 1
      end
    end
  end
  at = after
end
if dropped > 0 then
  redis.call('HINCRBY', counts, 'dropped', dropped)
end

finished = finished or tonumber(redis.call('HGET', request, 'done') or 0)
if end_state == 'failed' or (planned > 0 and finished >= planned) then
  finish()
  return { end_state, stored, queued, dropped }
end

announce()
local lease = tonumber(redis.call('TIME')[1]) + request_ttl
for i = 1, 3 do
  redis.call('EXPIRE', KEYS[i], request_ttl)
end
for i = 4, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', lease, id)
end
return { 'running', stored, queued, dropped }
