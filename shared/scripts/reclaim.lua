-- Claims jobs whose worker gave no sign of life, and this worker's own that it does not know of: a reply got lost,
-- which is no delivery. Soon after an outage only what was handed back is claimed. KEYS: lane, pulse.
-- ARGV: group, this worker, idle ms, how many, ids that this worker still works on...
-- Returns {id, deliveries, fields} for each.
-- @include steady
local HANDED_BACK = 86400000 -- ms of silence that hand_back.lua pretends
local lane, group, me, idle = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
if steady(KEYS[2]) < idle then
  idle = HANDED_BACK
end
local held = {}
for i = 5, #ARGV do
  held[ARGV[i]] = true
end
local silent = redis.call('XPENDING', lane, group, 'IDLE', idle, '-', '+', ARGV[4] + #ARGV)
if #silent == 0 then
  return {}
end
local alive = {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', lane, group)) do
  local fields = {}
  for i = 1, #consumer, 2 do
    fields[consumer[i]] = consumer[i + 1]
  end
  alive[fields.name] = fields.idle < tonumber(ARGV[3])
end

local claimed = {}
for _, pending in ipairs(silent) do
  local id, owner, deliveries = pending[1], pending[2], pending[4]
  local mine = owner == me
  -- What a worker that is alive has lost sight of is left to it for a while.
  local free = not (mine and held[id]) and (mine or not alive[owner] or pending[3] >= 2 * ARGV[3])
  if free and #claimed < tonumber(ARGV[4]) then
    deliveries = mine and deliveries or deliveries + 1
    local entry = redis.call('XCLAIM', lane, group, me, idle, id, 'RETRYCOUNT', deliveries)[1]
    if entry then
      claimed[#claimed + 1] = { id, deliveries, entry[2] }
    else
      redis.call('XACK', lane, group, id)
    end
  end
end
return claimed
