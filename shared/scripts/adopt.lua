-- Claims messages of publishers that gave no sign of life, and this one's own that it does not know of: a
-- reply got lost. Forgets publishers that left nothing behind. Calling it is a sign of life.
-- Soon after an outage nothing is taken from others. KEYS: outbox, pulse. ARGV: group, this publisher, idle ms, how many, ids that this publisher knows of...
-- Returns {id, fields} for each.
-- @include steady
local outbox, group, me, idle, room = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('XREADGROUP', 'GROUP', group, me, 'STREAMS', outbox, '18446744073709551615-0')

local known = {}
for i = 5, #ARGV do
  known[ARGV[i]] = true
end

local adopted = {}
local function adopt(pending)
  for _, message in ipairs(pending) do
    local id = message[1]
    if #adopted < room and not (message[2] == me and known[id]) then
      local entry = redis.call('XCLAIM', outbox, group, me, 0, id)[1]
      if entry then
        adopted[#adopted + 1] = { id, entry[2] }
      else
        redis.call('XACK', outbox, group, id)
      end
    end
  end
end

adopt(redis.call('XPENDING', outbox, group, 'IDLE', idle, '-', '+', room + #ARGV, me))
if steady(KEYS[2]) < idle then
  return adopted
end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', outbox, group)) do
  local other = {}
  for i = 1, #consumer, 2 do
    other[consumer[i]] = consumer[i + 1]
  end
  if other.name ~= me and other.idle > idle then
    if other.pending > 0 then
      adopt(redis.call('XPENDING', outbox, group, '-', '+', room, other.name))
    else
      redis.call('XGROUP', 'DELCONSUMER', outbox, group, other.name)
    end
  end
end
return adopted
