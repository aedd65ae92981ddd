-- Moves messages from the outbox to another stream; one that is not in the outbox any more is left alone.
-- KEYS: outbox, counts, stream. ARGV: group, field of the message, longest stream (0: no bound), ids...
local group, field, longest = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function add(message)
  if longest > 0 then
    redis.call(
      'XADD', KEYS[3], 'MAXLEN', '~', longest, '*',
      field, message.value, 'message_type', message.type, 'key', message.key
    )
  else
    redis.call('XADD', KEYS[3], '*', field, message.value, 'message_type', message.type, 'key', message.key)
  end
end

for i = 4, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry then
    local message = {}
    for j = 1, #entry[2], 2 do
      message[entry[2][j]] = entry[2][j + 1]
    end
    add(message)
    redis.call('XDEL', KEYS[1], ARGV[i])
    redis.call('HINCRBY', KEYS[2], 'sent', 1)
  end
  redis.call('XACK', KEYS[1], group, ARGV[i])
end
