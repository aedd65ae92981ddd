-- Makes this worker's claims free for anyone at once, as if they had not been delivered to it.
-- KEYS: lane, pulse. ARGV: group, this worker, ids...
redis.call('HDEL', KEYS[2], 'swept ' .. KEYS[1]) -- take_live.lua looks anew
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == ARGV[2] then
    redis.call(
      'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i],
      'IDLE', 86400000, 'RETRYCOUNT', math.max(0, pending[4] - 1), 'JUSTID'
    )
  end
end
