-- Acknowledges and deletes messages that their bus has. KEYS: outbox, counts. ARGV: group, ids...
redis.call('XACK', KEYS[1], unpack(ARGV))
local deleted = redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
redis.call('HINCRBY', KEYS[2], 'sent', deleted)
