-- Asks the worker that runs a live session to end it. KEYS: session.
if redis.call('EXISTS', KEYS[1]) == 1 then -- a key made here would never expire
  redis.call('HSET', KEYS[1], 'stop', '1')
end
