-- What an end would be decided by. Changes nothing; only holds that are due leave, as with any look at a wallet.
-- ARGV: epoch, process id ('').
-- Returns {'miss'} or {'seen', available, held, what the run's own hold reserves ('0': it has none), debt, overdraft}.
if is_missing(ARGV[1]) then return {'miss'} end
local own_hold = ARGV[2] ~= '' and open_hold(ARGV[2]) or '0'
local held = expire_holds()
local wallet = redis.call('HMGET', WALLET, 'available', 'debt', 'overdraft')
return {'seen', wallet[1], held, own_hold, wallet[2], wallet[3]}
