-- Ends a running request; one that has already ended stays as it is. Returns its state, or 'gone'.
if state ~= 'running' then
  return state or 'gone'
end
finish()
return end_state
