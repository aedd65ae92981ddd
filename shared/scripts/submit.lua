-- Accepts a request and its jobs in one step, or nothing of it.
-- KEYS: lane, request, running requests, then per asset its record and its users.
-- ARGV: request id, lane limit, request ttl, number of request fields, fields..., then per job the number
-- of its fields, fields...
-- Returns {'ok', second}, {'busy', jobs in the lane} or {'gone', index of the missing asset}.
local lane, request, id, ttl = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[3])
local now = redis.call('TIME')
local first_job = 5 + tonumber(ARGV[4])

local created = redis.call('HGET', request, 'created')
if created then -- accepted already: a client that lost its connection before the answer sends it again
  return { 'ok', tonumber(created) }
end

local jobs, at = 0, first_job
while at <= #ARGV do
  jobs = jobs + 1
  at = at + 1 + tonumber(ARGV[at])
end
local waiting = redis.call('XLEN', lane)
if waiting + jobs > tonumber(ARGV[2]) then
  return { 'busy', waiting }
end
for i = 4, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    return { 'gone', (i - 4) / 2 }
  end
end

redis.call('HSET', request, 'state', 'running', 'created', now[1], 'done', 0, unpack(ARGV, 5, first_job - 1))
redis.call('EXPIRE', request, ttl)
redis.call('ZADD', KEYS[3], now[1] + ttl, id)
for i = 5, #KEYS, 2 do
  redis.call('ZADD', KEYS[i], now[1] + ttl, id)
end
local enqueued = now[1] * 1000 + math.floor(now[2] / 1000)
at = first_job
while at <= #ARGV do
  local after = at + 1 + tonumber(ARGV[at])
  redis.call('XADD', lane, '*', 'enqueued', enqueued, unpack(ARGV, at + 1, after - 1))
  at = after
end
return { 'ok', tonumber(now[1]) }
