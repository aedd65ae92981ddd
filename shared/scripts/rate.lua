-- Takes one of the requests that a client may send now; they come back evenly over a minute.
-- KEYS: the client's bucket. ARGV: requests per minute. Returns 0, or the ms until there is one again.
local minute, most = 60000, tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bucket = redis.call('HMGET', KEYS[1], 'left', 'at')
local size = math.max(1, most)
local left = math.min(size, (tonumber(bucket[1]) or size) + (now - (tonumber(bucket[2]) or now)) * most / minute)
local wait = 0
if left >= 1 then
  left = left - 1
else
  wait = math.ceil((1 - left) * minute / most)
end
redis.call('HSET', KEYS[1], 'left', tostring(left), 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(size * minute / most))
return wait
