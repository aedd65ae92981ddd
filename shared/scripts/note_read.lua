-- Notes which entry a client read last, if the session is still that of the request.
-- KEYS: session. ARGV: request, entry.
if redis.call('HGET', KEYS[1], 'request') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'read', ARGV[2])
end
