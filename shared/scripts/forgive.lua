-- Forgets earlier deliveries of this worker's claims, whose jobs have shown that they do no harm.
-- KEYS: lane. ARGV: group, this worker, ids...
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'RETRYCOUNT', 1, 'JUSTID')
  end
end
