-- Makes a client the one that reads an asset's events, or keeps it that. KEYS: reader.
-- ARGV: client, ms that the claim lasts, how the name of a client begins that it may replace ('' for none).
-- Returns 0, or the ms that another client's claim still lasts.
local reader, replaces = redis.call('GET', KEYS[1]), ARGV[3]
if reader and reader ~= ARGV[1] and (replaces == '' or string.sub(reader, 1, #replaces) ~= replaces) then
  return math.max(1, redis.call('PTTL', KEYS[1]))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 0
