-- Read the values by which an end would be decided. Changes nothing, except that expired holds are removed as by every
-- script.
-- ARGV: epoch, process id ('': none).
-- Returns {'miss'} or {'seen', available, held, amount of the run's own hold ('0': none), debt, overdraft}.
if is_missing(ARGV[1]) then return {'miss'} end
local own_hold = ARGV[2] ~= '' and open_hold(ARGV[2]) or '0'
local held = expire_holds()
local wallet = redis.call('HMGET', WALLET, 'available', 'debt', 'overdraft')
return {'seen', wallet[1], held, own_hold, wallet[2], wallet[3]}
