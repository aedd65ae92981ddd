-- Forgets deletions that the index has heard of, unless the asset was deleted again meanwhile.
-- KEYS: deleted assets. ARGV: id, second, id, second...
for i = 1, #ARGV, 2 do
  local second = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if second and tonumber(second) == tonumber(ARGV[i + 1]) then
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
