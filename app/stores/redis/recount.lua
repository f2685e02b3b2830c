-- Compute the running totals of a cached wallet anew from its marks and holds.
-- A hold without an expiry time is removed: nothing would ever expire it.
-- ARGV: the most fields that one call may count
-- Returns 1; 0 where nothing is cached; -1 where the wallet has more fields than that.
if not cached_version() then return 0 end
if redis.call('HLEN', WALLET) > tonumber(ARGV[1]) then return -1 end

local fields = redis.call('HGETALL', WALLET)
local told = redis.call('HGET', WALLET, 'told')
redis.call('HSET', WALLET, 'available', redis.call('HGET', WALLET, 'posted'), 'debt', told, 'held', '0')
add('available', negative(told))
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
