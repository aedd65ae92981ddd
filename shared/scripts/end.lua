-- Prelude of publish.lua and finish.lua: how a request ends.
-- KEYS: request, results, done bitmap, running requests, then one users key per asset.
-- ARGV: request id, notify channel, result ttl, end state, counts of ends, which of them, packed end entry,
-- number of its fields, fields...
local request, results, done = KEYS[1], KEYS[2], KEYS[3]
local id, channel, result_ttl, end_state = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local rest = 9 + tonumber(ARGV[8])
local known = redis.call('HMGET', request, 'state', 'planned', 'kept')
local state, planned, kept = known[1], tonumber(known[2]), known[3]

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

local function announce()
  if #news > 0 then
    redis.call('PUBLISH', channel, table.concat(news))
  end
end

local function finish()
  store(ARGV[7], 9, rest - 1)
  redis.call('HSET', request, 'state', end_state, 'finished', redis.call('TIME')[1])
  redis.call('HINCRBY', ARGV[5], ARGV[6], 1)
  for i = 4, #KEYS do
    redis.call('ZREM', KEYS[i], id)
  end
  for i = 1, 3 do
    redis.call('EXPIRE', KEYS[i], result_ttl)
  end
  announce()
end
