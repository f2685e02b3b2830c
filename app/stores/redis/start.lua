-- May this run start? Grants a hold when one is asked for.
-- KEYS: wallet, holds, and if the call has an idempotency key, its record
-- ARGV: epoch, least amount, amount to hold ('0': none), hold's milliseconds, process id, idle milliseconds, payload
-- hash, record's milliseconds, then the ids of the packages that include the feature.
-- Returns {'miss'} or {outcome, available, held, hold's end in ms, process id, payload hash}, outcome one of:
--       wallet (not active or without a package), feature (not in the package), denied, full (too many open holds),
--       granted, or seen (the answer that the first call with this key got).
local epoch, least, hold, hold_ms, process_id, idle_ms, hash, record_ms = unpack(ARGV, 1, 8)
local FIRST_PACKAGE = 9

if is_missing(epoch) then return {'miss'} end
local record = KEYS[3]
local first = record and redis.call('HMGET', record, 'available', 'held', 'ends_at', 'process', 'hash')
if first and first[1] then return {'seen', unpack(first)} end
local held = expire_holds()

local wallet = redis.call('HMGET', WALLET, 'status', 'package', 'available', 'debt', 'overdraft')
local status, package, available, debt, overdraft = unpack(wallet)
local function answer(outcome, ends_at)
  return {outcome, available, held, ends_at or '0', process_id, hash}
end

if status ~= 'active' or package == '' then return answer('wallet') end
local included = false
for i = FIRST_PACKAGE, #ARGV do
  if ARGV[i] == package then included = true break end
end
if not included then return answer('feature') end

local room = tonumber(available) - tonumber(held) + tonumber(overdraft)
if debt ~= '0' or room < tonumber(least) or room < tonumber(hold) then return answer('denied') end

local ends_at = '0'
if hold ~= '0' then
  local now = now_ms()
  if redis.call('ZCOUNT', HOLDS, string.format('(%.0f', now), '+inf') >= OPEN_HOLDS_MAX then return answer('full') end
  ends_at = string.format('%.0f', now + tonumber(hold_ms))
  redis.call('HSET', WALLET, 'h:' .. process_id, hold)
  redis.call('ZADD', HOLDS, ends_at, process_id)
  redis.call('PEXPIRE', WALLET, idle_ms)
  redis.call('PEXPIRE', HOLDS, idle_ms)
  add('held', hold)
  held = string.format('%.0f', tonumber(held) + tonumber(hold))
end
if record then
  redis.call('HSET', record, 'available', available, 'held', held, 'ends_at', ends_at, 'process', process_id, 'hash', hash)
  redis.call('PEXPIRE', record, record_ms)
end
return answer('granted', ends_at)
