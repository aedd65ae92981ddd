-- Hands a live session over to the worker that asked for it, if that is ready, alive, and would still run fewer.
-- KEYS: session, lane, moving streams. ARGV: group, this worker, the other worker, job, token of the move, stream,
-- next chunk, ms without a sign of life after which a worker counts as dead.
-- Returns 'moved', 'stays' with the move given up, or 'lost' if the job is another worker's.
local live, lane, group = KEYS[1], KEYS[2], ARGV[1]
local pending = redis.call('XPENDING', lane, group, ARGV[4], ARGV[4], 1)[1]
if not pending or pending[2] ~= ARGV[2] then
  return 'lost'
end
local runs = {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', lane, group)) do
  local fields = {}
  for i = 1, #consumer, 2 do
    fields[consumer[i]] = consumer[i + 1]
  end
  if fields.idle < tonumber(ARGV[8]) then
    runs[fields.name] = fields.pending
  end
end
local known = redis.call('HMGET', live, 'mover', 'mover_ready')
local wanted = known[1] == ARGV[5] and known[2] == '1' and runs[ARGV[3]]
redis.call('HDEL', live, 'mover', 'move_at', 'mover_ready')
redis.call('ZREM', KEYS[3], ARGV[6])
if not wanted or (runs[ARGV[2]] or 0) - runs[ARGV[3]] < 2 then
  return 'stays'
end
redis.call('XCLAIM', lane, group, ARGV[3], 0, ARGV[4], 'RETRYCOUNT', pending[4], 'JUSTID')
redis.call('HSET', live, 'owner', ARGV[3], 'next', ARGV[7])
return 'moved'
