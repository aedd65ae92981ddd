-- Prelude of submit.lua for a live stream, of which one session runs at a time: joins the one that runs.
-- The last key is the session's record, the last argument its fields as a JSON array; both are taken away.
-- Returns {'joined', request}, or goes on.
local live, fields = table.remove(KEYS), cjson.decode(table.remove(ARGV))
local running = redis.call('HGET', live, 'request')
if running then
  local requests = string.sub(KEYS[2], 1, #KEYS[2] - #ARGV[1])
  if redis.call('HGET', requests .. running, 'state') == 'running' then
    return { 'joined', running }
  end
end
redis.call('DEL', live)
redis.call('HSET', live, unpack(fields))
redis.call('EXPIRE', live, ARGV[3])
