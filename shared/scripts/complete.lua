-- Acknowledges jobs whose results are stored, and deletes them from their lane.
-- KEYS: lane, then per job its request and the bitmap of the request's done chunks.
-- ARGV: group, then per job its entry's id, the number of its chunks, chunks...
-- Returns the ids of the jobs that it leaves: their request runs and results are missing, which a failover has lost.
local lane, group = KEYS[1], ARGV[1]

local function is_stored(job, first, last)
  if redis.call('HGET', KEYS[job], 'state') ~= 'running' then
    return true
  end
  for i = first, last do
    if redis.call('GETBIT', KEYS[job + 1], ARGV[i]) == 0 then
      return false
    end
  end
  return true
end

local left, at, job = {}, 2, 2
while at <= #ARGV do
  local id, last = ARGV[at], at + 1 + tonumber(ARGV[at + 1])
  if is_stored(job, at + 2, last) then
    redis.call('XACK', lane, group, id)
    redis.call('XDEL', lane, id)
  else
    left[#left + 1] = id
  end
  at, job = last + 1, job + 2
end
return left
