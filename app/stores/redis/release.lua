-- Release a hold. ARGV: epoch, process id.
-- Returns {'miss'} or {'released', available, held, the amount that the hold reserved ('0': there was no open hold)}.
if is_missing(ARGV[1]) then return {'miss'} end
local amount = release_hold(ARGV[2])
local held = expire_holds()
return {'released', redis.call('HGET', WALLET, 'available'), held, amount}
