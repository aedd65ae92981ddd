-- Claims jobs whose worker gave no sign of life. KEYS: lane.
-- ARGV: group, this worker, idle ms, how many, ids that this worker still works on...
-- Returns {id, deliveries, fields} for each.
local lane, group, me, idle = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local held = {}
for i = 5, #ARGV do
  held[ARGV[i]] = true
end

local claimed = {}
for _, pending in ipairs(redis.call('XPENDING', lane, group, 'IDLE', idle, '-', '+', ARGV[4])) do
  local id, owner, deliveries = pending[1], pending[2], pending[4]
  if not (owner == me and held[id]) then
    local entry = redis.call('XCLAIM', lane, group, me, idle, id)[1]
    if entry then
      claimed[#claimed + 1] = { id, deliveries + 1, entry[2] }
    else
      redis.call('XACK', lane, group, id)
    end
  end
end
return claimed
