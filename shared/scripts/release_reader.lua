-- Gives up the right to read an event stream, if it is still this client's. KEYS: reader. ARGV: client.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
