-- Stores and announces results, each once. Returns the request's state afterwards, or 'gone'.
-- ARGV after the prelude's: request ttl, number of results, then per result: chunk, packed entry,
-- number of its fields, fields...
local state = redis.call('HGET', request, 'state')
if state ~= 'running' then
  return state or 'gone'
end

local request_ttl = tonumber(ARGV[rest])
local at = rest + 2
for _ = 1, tonumber(ARGV[rest + 1]) do
  local first = at + 3
  local after = first + tonumber(ARGV[at + 2])
  if redis.call('SETBIT', done, ARGV[at], 1) == 0 then
    redis.call('HINCRBY', request, 'done', 1)
    store(ARGV[at + 1], first, after - 1)
  end
  at = after
end

local counts = redis.call('HMGET', request, 'planned', 'done')
if end_state == 'failed' or tonumber(counts[2] or 0) >= tonumber(counts[1]) then
  finish()
  return end_state
end

local lease = tonumber(redis.call('TIME')[1]) + request_ttl
for i = 1, 3 do
  redis.call('EXPIRE', KEYS[i], request_ttl)
end
for i = 4, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', lease, id)
end
return 'running'
