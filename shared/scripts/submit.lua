-- Accepts a request and its jobs in one step, or nothing of it. Of a live stream one session runs at a time: a
-- request for another one joins it.
-- KEYS: lane, request, running requests, session and the request that the caller believes to have it (each
-- something unused where no session is asked for), then per asset its record and its users.
-- ARGV: request id, lane limit, request ttl, the id of the request that is believed to have the session, digest of
-- the body ('' if none matters), number of the session's fields (0: no session), fields..., number of request fields, fields..., then per job the number of
-- its fields, fields...
-- Returns {'ok', second}, {'busy', jobs in the lane}, {'gone', index of the missing asset}, {'joined', request},
-- {'mistaken', request that has the session}, or {'other', ''} if the id belongs to a request with another body.
local lane, request, session = KEYS[1], KEYS[2], KEYS[4]
local id, limit, ttl, believed = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local session_end = 6 + tonumber(ARGV[6])
local first_field = session_end + 2
local first_job = first_field + tonumber(ARGV[session_end + 1])
local is_session = session_end > 6
local now = redis.call('TIME')

local created = redis.call('HGET', request, 'created')
if created and (redis.call('HGET', request, 'body') or '') ~= ARGV[5] then
  return { 'other', '' }
end
if created then -- accepted already: a client that lost its connection before the answer sends it again
  return { 'ok', tonumber(created) }
end
if is_session then
  local running = redis.call('HGET', session, 'request') or ''
  if running ~= believed then
    return { 'mistaken', running }
  end
  if running ~= '' and redis.call('HGET', KEYS[5], 'state') == 'running' then
    return { 'joined', running }
  end
end

local jobs, at = 0, first_job
while at <= #ARGV do
  jobs = jobs + 1
  at = at + 1 + tonumber(ARGV[at])
end
local waiting = redis.call('XLEN', lane)
if waiting + jobs > limit then
  return { 'busy', waiting }
end
for i = 6, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    return { 'gone', (i - 6) / 2 }
  end
end

if is_session then
  redis.call('DEL', session)
  redis.call('HSET', session, unpack(ARGV, 7, session_end))
  redis.call('EXPIRE', session, ttl)
end
local enqueued = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call(
  'HSET', request, 'state', 'running', 'created', now[1], 'accepted_ms', enqueued, 'done', 0,
  unpack(ARGV, first_field, first_job - 1)
)
redis.call('EXPIRE', request, ttl)
redis.call('ZADD', KEYS[3], now[1] + ttl, id)
for i = 7, #KEYS, 2 do
  redis.call('ZADD', KEYS[i], now[1] + ttl, id)
end
at = first_job
while at <= #ARGV do
  local after = at + 1 + tonumber(ARGV[at])
  redis.call('XADD', lane, '*', 'enqueued', enqueued, unpack(ARGV, at + 1, after - 1))
  at = after
end
return { 'ok', tonumber(now[1]) }
