-- Forgets a request in this state. KEYS: request, results, done bitmap. ARGV: state.
if redis.call('HGET', KEYS[1], 'state') == ARGV[1] then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
end
