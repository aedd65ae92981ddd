-- Gives up a move of a live session. KEYS: session, moving streams. ARGV: token of the move, stream.
if redis.call('HGET', KEYS[1], 'mover') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'mover', 'move_at', 'mover_ready')
  redis.call('ZREM', KEYS[2], ARGV[2])
end
