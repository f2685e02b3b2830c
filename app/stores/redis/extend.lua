-- Extend an open hold's amount and its life: both as asked for, or neither.
-- KEYS: wallet, holds, and if the call has an idempotency key, its record
-- ARGV: epoch, process id, amount to add ('0': none), milliseconds to add, longest life from now in ms,
--       idle milliseconds, payload hash, record's milliseconds
-- Returns {'miss'}, {'none'} (no open hold) or {outcome, available, held, amount and end (ms) of the hold, payload hash},
--       outcome one of: granted, denied, or seen (the answer that the first call with this key got).
local epoch, process_id, more, more_ms, life_ms_max, idle_ms, hash, record_ms = unpack(ARGV)

if is_missing(epoch) then return {'miss'} end
local record = KEYS[3]
local first = record and redis.call('HMGET', record, 'available', 'held', 'amount', 'ends_at', 'hash')
if first and first[1] then return {'seen', unpack(first)} end
local held = expire_holds()

local field = 'h:' .. process_id
local amount, ends_at = open_hold(process_id)
if not amount then return {'none'} end
local wallet = redis.call('HMGET', WALLET, 'status', 'package', 'available', 'debt', 'overdraft')
local status, package, available, debt, overdraft = unpack(wallet)
local function answer(outcome)
  return {outcome, available, held, amount, string.format('%.0f', ends_at), hash}
end

-- More tokens are granted by the same rule as a start. More time alone is always granted: it reserves nothing more.
if more ~= '0' then
  local room = tonumber(available) - tonumber(held) + tonumber(overdraft)
  if status ~= 'active' or package == '' or debt ~= '0' or room < tonumber(more) then return answer('denied') end
  add(field, more)
  add('held', more)
  amount = redis.call('HGET', WALLET, field)
  held = string.format('%.0f', tonumber(held) + tonumber(more))
end
if more_ms ~= '0' then
  ends_at = math.max(ends_at, math.min(ends_at + tonumber(more_ms), now_ms() + tonumber(life_ms_max)))
  redis.call('ZADD', HOLDS, string.format('%.0f', ends_at), process_id)
  redis.call('PEXPIRE', WALLET, idle_ms)
  redis.call('PEXPIRE', HOLDS, idle_ms)
end
if record then
  redis.call('HSET', record, 'available', available, 'held', held, 'amount', amount,
    'ends_at', string.format('%.0f', ends_at), 'hash', hash)
  redis.call('PEXPIRE', record, record_ms)
end
return answer('granted')
