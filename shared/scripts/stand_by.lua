-- Looks how far the move of a live session to this worker is, and says whether the worker is ready for it.
-- KEYS: session, lane. ARGV: group, worker, job, token of the move, whether it is ready ('0' or '1').
-- Returns {'yours', ''}, {'wait', token and time at which this worker's chunks begin, or ''}, or {'over', ''}.
local pending = redis.call('XPENDING', KEYS[2], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if pending and pending[2] == ARGV[2] then
  return { 'yours', '' }
end
local known = redis.call('HMGET', KEYS[1], 'mover', 'move_at')
if not pending or known[1] ~= ARGV[4] then
  return { 'over', '' }
end
if ARGV[5] == '1' then
  redis.call('HSET', KEYS[1], 'mover_ready', '1')
end
return { 'wait', known[2] or '' }
