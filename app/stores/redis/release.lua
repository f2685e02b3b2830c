-- Give a hold back. ARGV: epoch, process id. Returns {'miss'} or {'released', available, held}.
if is_missing(ARGV[1]) then return {'miss'} end
expire_holds()
release_hold(ARGV[2])
local wallet = redis.call('HMGET', WALLET, 'available', 'held')
return {'released', wallet[1], wallet[2]}
