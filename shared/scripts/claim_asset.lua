-- Claims an id for a file that is about to be moved to its place, or about to be removed from there.
-- KEYS: record, arriving. ARGV: id, seconds. Returns 'claimed', 'recorded', or 'arriving' while another's claim lasts.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'recorded'
end
local now = tonumber(redis.call('TIME')[1])
local expires = redis.call('ZSCORE', KEYS[2], ARGV[1])
if expires and tonumber(expires) > now then
  return 'arriving'
end
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return 'claimed'
