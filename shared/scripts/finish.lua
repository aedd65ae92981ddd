-- Ends a running request; one that has already ended stays as it is. Returns its state, or 'gone'.
local state = redis.call('HGET', request, 'state')
if state ~= 'running' then
  return state or 'gone'
end
finish()
return end_state
