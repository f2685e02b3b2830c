-- Count the running totals of a cached wallet anew from the ends and holds that they sum up.
-- A hold that has lost its end in time is given back: nothing would ever expire it.
-- Returns 1, or 0 where nothing is cached.
if not cached_version() then return 0 end

local fields = redis.call('HGETALL', WALLET)
redis.call('HSET', WALLET, 'available', redis.call('HGET', WALLET, 'posted'), 'debt', '0', 'held', '0')
for i = 1, #fields, 2 do
  local kind, name, value = string.sub(fields[i], 1, 2), string.sub(fields[i], 3), fields[i + 1]
  if kind == 'p:' then
    local cost = string.sub(value, 2)
    add('available', negative(cost))
    if string.sub(value, 1, 1) == 'd' then add('debt', cost) end
  elseif kind == 'h:' then
    if redis.call('ZSCORE', HOLDS, name) then
      add('held', value)
    else
      redis.call('HDEL', WALLET, fields[i])
    end
  end
end
return 1
