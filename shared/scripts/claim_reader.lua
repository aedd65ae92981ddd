-- Makes a client the one that reads an asset's events, or keeps it that. KEYS: reader.
-- ARGV: client, ms that the claim lasts, how the name of a client begins that it may replace ('' for none).
-- Returns 1, or 0 while another client reads.
local reader, replaces = redis.call('GET', KEYS[1]), ARGV[3]
if reader and reader ~= ARGV[1] and (replaces == '' or string.sub(reader, 1, #replaces) ~= replaces) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
