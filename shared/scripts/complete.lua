-- Acknowledges jobs and deletes them from their lane.
-- KEYS: lane. ARGV: group, entry ids...
redis.call('XACK', KEYS[1], unpack(ARGV))
redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
