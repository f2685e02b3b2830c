-- Set marks of a wallet that has too many of them for one call; `fill` comes last.
-- KEYS: wallet, holds, lease
-- ARGV: lease's milliseconds, idle milliseconds, number of ends to forget, their ids, then pairs of end id and entry
-- Returns 0 where the lease is lost: load again.
local lease_ms, idle_ms, forgotten = unpack(ARGV, 1, 3)

if redis.call('PEXPIRE', KEYS[3], lease_ms) == 0 then return 0 end
-- With a part of its marks the wallet would show tokens that it doesn't have. It is void until `fill` sets the epoch.
redis.call('HDEL', WALLET, 'epoch')
local last_forgotten = 3 + tonumber(forgotten)
drop_marks({unpack(ARGV, 4, last_forgotten)})
for i = last_forgotten + 1, #ARGV, 2 do set_mark(ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', WALLET, idle_ms)
return 1
