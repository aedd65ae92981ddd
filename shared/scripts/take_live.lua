-- Claims one live session, if no other worker that is alive runs fewer: one whose worker is silent, or a new one.
-- What nobody has taken for a while may be taken by anyone. Calling it is a sign of life.
-- To find the silent takes as long as there are sessions, so the fleet shares what one worker has found.
-- A session whose delivery would be number `withheld` stays where it is (0: none).
-- Soon after an outage only new ones and those that were handed back are claimed.
-- KEYS: lane, pulse.
-- ARGV: group, this worker, claim timeout (ms), patience (ms), withheld, ids that this worker works on...
-- Returns {id, deliveries, fields} for at most one.
-- @include steady
local lane, group, me = KEYS[1], ARGV[1], ARGV[2]
local timeout, patience, withheld = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local HANDED_BACK = 86400000 -- ms of silence that hand_back.lua pretends
local SWEEP = 100 -- ms for which what one worker has found serves all
local TRIES = 20 -- silent sessions that one call looks at
local held = {}
for i = 6, #ARGV do
  held[ARGV[i]] = true
end

-- Reading one's own past from its end on finds nothing, and is seen even by Redis 6.2.
redis.call('XREADGROUP', 'GROUP', group, me, 'STREAMS', lane, '18446744073709551615-0')
local last
for _, info in ipairs(redis.call('XINFO', 'GROUPS', lane)) do
  for i = 1, #info, 2 do
    last = info[i] == 'last-delivered-id' and info[i + 1] or last
  end
end
local oldest = redis.call('XRANGE', lane, '(' .. last, '+', 'COUNT', 1)[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local swept, found = 'swept ' .. lane, 'silent ' .. lane
local known = redis.call('HMGET', KEYS[2], swept, found)
local silent, oldest_silence = {}, timeout
if math.abs(now - tonumber(known[1] or 0)) >= SWEEP then
  oldest_silence = steady(KEYS[2]) >= timeout and timeout or HANDED_BACK
  for _, pending in ipairs(redis.call('XPENDING', lane, group, 'IDLE', oldest_silence, '-', '+', #ARGV + 100)) do
    silent[#silent + 1] = pending[1]
  end
  redis.call('HSET', KEYS[2], swept, now, found, table.concat(silent, ' '))
else
  for id in string.gmatch(known[2] or '', '%S+') do
    silent[#silent + 1] = id
  end
end
if not oldest and #silent == 0 then
  return {}
end

local mine, fewest = 0, math.huge
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', lane, group)) do
  local fields = {}
  for i = 1, #consumer, 2 do
    fields[consumer[i]] = consumer[i + 1]
  end
  if fields.name == me then
    mine = fields.pending
  elseif fields.idle < timeout then
    fewest = math.min(fewest, fields.pending)
  end
end
local is_my_turn = mine <= fewest

-- Each worker begins at another one, so that none is left out for long.
for try = 1, math.min(TRIES, #silent) do
  local id = silent[(now + try) % #silent + 1]
  local pending = redis.call('XPENDING', lane, group, 'IDLE', oldest_silence, id, id, 1)[1]
  if pending then
    local owner, idle = pending[2], pending[3]
    -- An answer to this worker that got lost is no delivery.
    local deliveries = owner == me and pending[4] or pending[4] + 1
    local free = deliveries ~= withheld and not (owner == me and held[id])
    if free and (is_my_turn or idle > timeout + patience) then
      local entry = redis.call('XCLAIM', lane, group, me, timeout, id, 'RETRYCOUNT', deliveries)[1]
      if entry then
        return { { id, deliveries, entry[2] } }
      end
      redis.call('XACK', lane, group, id)
    end
  end
end

if not oldest or not is_my_turn and now - string.match(oldest[1], '^%d+') < patience then
  return {}
end
local read = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', 1, 'STREAMS', lane, '>')
if not read or not read[1] or not read[1][2][1] then
  return {}
end
local entry = read[1][2][1]
return { { entry[1], 1, entry[2] } }
