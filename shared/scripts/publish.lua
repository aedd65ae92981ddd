-- Stores and announces results and puts their messages into the outbox, each once; ends the request after its
-- last chunk, after a failure, or at once.
-- KEYS: request, results, done bitmap, running requests, counts of ended requests, outbox, its counts, routes,
-- then one users key per asset.
-- ARGV: request id, notify channel ('' if the caller notifies), request ttl, result ttl, whether the request ends at once ('0' or '1'), its
-- end state, the count of such ends, packed end entry, number of its fields, fields..., the outbox's limit,
-- its limit in bytes (0: none), whether messages are wanted ('0' or '1') unless the routes say otherwise, whether
-- the caller believes that they are, number of results, then per result: chunk, packed entry, whether it is an
-- error ('0' or '1'), number of its fields, fields..., number of its message's fields (0 for no message), fields...
-- A request for which 0 results are planned is open-ended: it takes results in ascending order only.
-- Returns {request's state afterwards or 'gone', results stored, messages stored, messages dropped}; to the one
-- caller that ended the request also {chunks planned, chunks done, chunks failed, ms since it was accepted, client, caller, id of the HTTP request}.
-- Or, with nothing done, {'mistaken'} if the caller believes what is not so.
local request, results, done, outbox = KEYS[1], KEYS[2], KEYS[3], KEYS[6]
local id, channel, request_ttl, result_ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local ends_now, end_state = ARGV[5] == '1', ARGV[6]
local rest = 10 + tonumber(ARGV[9])
local limit, room, wanted = tonumber(ARGV[rest]), tonumber(ARGV[rest + 1]), ARGV[rest + 2]
local count = tonumber(ARGV[rest + 4])

local known = redis.call('HMGET', request, 'state', 'planned', 'kept')
local state, planned, kept = known[1], tonumber(known[2]), known[3]
if state ~= 'running' then
  return { state or 'gone', 0, 0, 0 }
end

local bus = redis.call('HGET', KEYS[8], 'message_bus')
if bus then
  wanted = bus == 'off' and '0' or '1'
end
if count > 0 and wanted ~= ARGV[rest + 3] then
  return { 'mistaken' }
end

local news = {}

local function store(packed, first, last)
  local entry
  if kept then
    entry = redis.call('XADD', results, 'MAXLEN', '~', kept, '*', unpack(ARGV, first, last))
  else
    entry = redis.call('XADD', results, '*', unpack(ARGV, first, last))
  end
  news[#news + 1] = entry .. ' ' .. #packed .. '\n' .. packed
end

-- Redis's estimate, from a sample of the stream's nodes: where it does not tell, the number of messages bounds alone.
local function is_full()
  if redis.call('XLEN', outbox) >= limit then
    return true
  end
  local bytes = room > 0 and redis.pcall('MEMORY', 'USAGE', outbox, 'SAMPLES', 32)
  return type(bytes) == 'number' and bytes >= room
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
local at = rest + 5
for _ = 1, count do
  local first = at + 4
  local message = first + tonumber(ARGV[at + 3])
  local after = message + 1 + tonumber(ARGV[message])
  if is_new(ARGV[at]) then
    finished = redis.call('HINCRBY', request, 'done', 1)
    store(ARGV[at + 1], first, message - 1)
    stored = stored + 1
    if ARGV[at + 2] == '1' then
      redis.call('HINCRBY', request, 'failed', 1)
    end
    if after > message + 1 then
      if not is_full() then
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
  redis.call('HINCRBY', KEYS[7], 'dropped', dropped)
end

local time = redis.call('TIME')
local now, summary = time[1], nil
finished = finished or tonumber(redis.call('HGET', request, 'done') or 0)
if ends_now or end_state == 'failed' or (planned > 0 and finished >= planned) then
  state = end_state
  store(ARGV[8], 10, rest - 1)
  redis.call('HSET', request, 'state', state, 'finished', now)
  redis.call('HINCRBY', KEYS[5], ARGV[7], 1)
  local began = redis.call('HMGET', request, 'accepted_ms', 'created', 'failed', 'client', 'caller', 'x_request_id')
  local took = now * 1000 + math.floor(time[2] / 1000) - (tonumber(began[1]) or began[2] * 1000)
  summary = { planned, finished, tonumber(began[3] or 0), took, began[4] or '', began[5] or '', began[6] or '' }
end
if #news > 0 and channel ~= '' then
  redis.call('PUBLISH', channel, table.concat(news))
end

for i = 1, 3 do
  redis.call('EXPIRE', KEYS[i], state == 'running' and request_ttl or result_ttl)
end
local function refresh(requests)
  if state == 'running' then
    redis.call('ZADD', requests, 'XX', now + request_ttl, id)
  else
    redis.call('ZREM', requests, id)
  end
end
refresh(KEYS[4])
for i = 9, #KEYS do
  refresh(KEYS[i])
end
return { state, stored, queued, dropped, summary }
