-- Add to an open hold's amount and to its life: all that is asked for, or nothing.
-- ARGV: epoch, process id, amount to add ('0': none), milliseconds to add, longest life from now in ms, idle milliseconds
-- Returns {'miss'}, {'none'} (no open hold) or {outcome, available, held, hold's amount, hold's end in ms}, outcome
--       granted or denied.
local epoch, process_id, more, more_ms, life_ms_max, idle_ms = unpack(ARGV)

if is_missing(epoch) then return {'miss'} end
local held = expire_holds()

local field = 'h:' .. process_id
local amount = redis.call('HGET', WALLET, field)
local ends_at = redis.call('ZSCORE', HOLDS, process_id)
local now = now_ms()
-- One that is due may wait to be taken out.
if not amount or not ends_at or tonumber(ends_at) <= now then return {'none'} end
ends_at = tonumber(ends_at)

local wallet = redis.call('HMGET', WALLET, 'status', 'package', 'available', 'debt', 'overdraft')
local status, package, available, debt, overdraft = unpack(wallet)
local function answer(outcome)
  return {outcome, available, held, redis.call('HGET', WALLET, field), string.format('%.0f', ends_at)}
end

-- More tokens are granted as to a start. Time alone takes nothing from anybody.
if more ~= '0' then
  local room = tonumber(available) - tonumber(held) + tonumber(overdraft)
  if status ~= 'active' or package == '' or debt ~= '0' or room < tonumber(more) then return answer('denied') end
  add(field, more)
  add('held', more)
  held = string.format('%.0f', tonumber(held) + tonumber(more))
end
if more_ms ~= '0' then
  ends_at = math.max(ends_at, math.min(ends_at + tonumber(more_ms), now + tonumber(life_ms_max)))
  redis.call('ZADD', HOLDS, string.format('%.0f', ends_at), process_id)
  redis.call('PEXPIRE', WALLET, idle_ms)
  redis.call('PEXPIRE', HOLDS, idle_ms)
end
return answer('granted')
