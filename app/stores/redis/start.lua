-- May this run start? Grants a hold when one is asked for.
-- ARGV: epoch, least amount, amount to hold ('0': none), hold's milliseconds, process id, idle milliseconds,
--       then the ids of the packages that include the feature.
-- Returns {'miss'} or {outcome, available, held, hold's end in ms}, outcome one of:
--       wallet (not active or without a package), feature (not in the package), denied, granted.
local epoch, least, hold, hold_ms, process_id, idle_ms =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if is_missing(epoch) then return {'miss'} end
local held = expire_holds()

local wallet = redis.call('HMGET', WALLET, 'status', 'package', 'available', 'debt', 'overdraft')
local status, package, available, debt, overdraft = unpack(wallet)

if status ~= 'active' or package == '' then return {'wallet', available, held, '0'} end
local included = false
for i = 7, #ARGV do
  if ARGV[i] == package then included = true break end
end
if not included then return {'feature', available, held, '0'} end

local room = tonumber(available) - tonumber(held) + tonumber(overdraft)
if debt ~= '0' or room < tonumber(least) or room < tonumber(hold) then
  return {'denied', available, held, '0'}
end
if hold == '0' then return {'granted', available, held, '0'} end

local ends_at = string.format('%.0f', now_ms() + tonumber(hold_ms))
redis.call('HSET', WALLET, 'h:' .. process_id, hold)
redis.call('ZADD', HOLDS, ends_at, process_id)
redis.call('PEXPIRE', WALLET, idle_ms)
redis.call('PEXPIRE', HOLDS, idle_ms)
add('held', hold)
return {'granted', available, string.format('%.0f', tonumber(held) + tonumber(hold)), ends_at}
