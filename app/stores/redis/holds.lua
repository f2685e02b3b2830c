-- A page of a wallet's open holds, in the order they end.
-- ARGV: epoch, page size, and the last hold of the page before: its end in ms and its process id ('0' and '': first
-- page)
-- Returns {'miss'} or {'holds', then process id, amount and end in ms of each}.
local epoch, limit, after_ms, after_id = unpack(ARGV)

if is_missing(epoch) then return {'miss'} end
local least, skipped = string.format('(%.0f', now_ms()), 0
if tonumber(after_ms) > now_ms() then
  least = after_ms
  -- Several holds may end in the same millisecond. If the last hold of the page before is gone, that millisecond's are
  -- listed again.
  local ends_at = redis.call('ZSCORE', HOLDS, after_id)
  if ends_at and tonumber(ends_at) == tonumber(after_ms) then
    skipped = redis.call('ZRANK', HOLDS, after_id) + 1 - redis.call('ZCOUNT', HOLDS, '-inf', '(' .. after_ms)
  end
end

local reply = {'holds'}
local found = redis.call('ZRANGEBYSCORE', HOLDS, least, '+inf', 'WITHSCORES', 'LIMIT', skipped, limit)
for i = 1, #found, 2 do
  local amount = reserved(redis.call('HGET', WALLET, 'h:' .. found[i]))
  if amount ~= '0' then
    table.insert(reply, found[i])
    table.insert(reply, amount)
    table.insert(reply, string.format('%.0f', tonumber(found[i + 1])))
  end
end
return reply
