-- Set some of the marks of a wallet that has too many of them for one call. `fill` sets the last ones.
-- KEYS: wallet, holds, lease
-- ARGV: lease's milliseconds, idle milliseconds, number of ends whose marks to remove, their ids, then pairs of end id
-- and mark
-- Returns 0 where the lease is lost: the caller loads again.
local lease_ms, idle_ms, forgotten = unpack(ARGV, 1, 3)

if redis.call('PEXPIRE', KEYS[3], lease_ms) == 0 then return 0 end
-- With only some of its marks the wallet would show tokens that it doesn't have. Without an epoch nobody uses the copy
-- until `fill` sets it.
redis.call('HDEL', WALLET, 'epoch')
local last_forgotten = 3 + tonumber(forgotten)
drop_marks({unpack(ARGV, 4, last_forgotten)})
for i = last_forgotten + 1, #ARGV, 2 do set_mark(ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', WALLET, idle_ms)
return 1
