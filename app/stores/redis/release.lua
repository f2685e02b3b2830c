-- Give a hold back. ARGV: epoch, process id.
-- Returns {'miss'} or {'released', available, held, what the hold reserved ('0': there was none)}.
if is_missing(ARGV[1]) then return {'miss'} end
local amount = release_hold(ARGV[2])
local held = expire_holds()
return {'released', redis.call('HGET', WALLET, 'available'), held, amount}
