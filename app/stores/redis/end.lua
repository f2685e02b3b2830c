-- Decide an end and mark it as unsettled, once per key.
-- KEYS: wallet, holds, record of the idempotency key, record of the process id, set of ends whose marks were given back
-- ARGV: epoch, end id, cost, process id ('': none), payload hash, record's milliseconds, '1' if the end has an
-- idempotency key, price as text, '1' if nothing was used
-- Returns {'miss'}, {'marked', available, held, deduction},
--      {'free', available, held} where nothing was used: the run's hold is released and nothing is recorded,
--      or {'seen', end id, payload hash, available, held, deduction, price}: the first answer to this key.
local epoch, end_id, cost, process_id, hash, record_ms, keyed, price, free = unpack(ARGV)

local missing, wallet = is_missing(epoch)
if missing then return {'miss'} end

if free == '1' then
  if process_id ~= '' then release_hold(process_id) end
  local held = expire_holds()
  return {'free', redis.call('HGET', WALLET, 'available'), held}
end

local records = {}
if keyed == '1' then table.insert(records, KEYS[3]) end
if process_id ~= '' then table.insert(records, KEYS[4]) end
for _, record in ipairs(records) do
  local first = redis.call('HMGET', record, 'end', 'hash', 'available', 'held', 'deduction', 'price')
  if first[1] and redis.call('SISMEMBER', KEYS[5], first[1]) == 0 then return {'seen', unpack(first)} end
end

local own_hold = process_id ~= '' and release_hold(process_id) or '0'
local held = wallet.held == '0' and '0' or expire_holds()

-- Within its own hold a run is covered as long as the balance is there: debt doesn't take what the hold reserved.
local after = tonumber(wallet.available) - tonumber(cost)
if tonumber(cost) <= tonumber(own_hold) then after = after + tonumber(wallet.debt) end
local deduction = 'return-able'
if cost ~= '0' and after < -tonumber(wallet.overdraft) then deduction = 'not-return-able' end
local available = set_new_mark(end_id, (deduction == 'return-able' and 'p' or 'd') .. cost)

for _, record in ipairs(records) do
  redis.call('HSET', record, 'end', end_id, 'hash', hash, 'available', available, 'held', held,
    'deduction', deduction, 'price', price)
  redis.call('PEXPIRE', record, record_ms)
end
return {'marked', available, held, deduction}
