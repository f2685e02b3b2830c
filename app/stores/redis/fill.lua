-- Put a wallet as loaded from Postgres into the cache, or correct the copy that is there.
-- KEYS: wallet, holds, lease, fence
-- ARGV: epoch, version, posted, debt, overdraft, status, package, idle milliseconds, number of ends whose marks to
-- remove, their ids, then pairs of end id and mark (with more marks than one call takes, only those that `marks` left
-- over)
-- Returns 0 when the loaded copy may be older than what Redis already knows: the caller loads again.
local epoch, version, posted, debt, overdraft, status, package, idle_ms, forgotten = unpack(ARGV, 1, 9)

-- The lease was taken before the load. If it is gone, Redis was flushed or the loader paused too long in between.
if redis.call('DEL', KEYS[3]) == 0 then return 0 end
local fence = redis.call('GET', KEYS[4])
if fence and tonumber(fence) > tonumber(version) then return 0 end
local cached = cached_version()
if cached and cached > tonumber(version) then return 0 end

if not cached then redis.call('UNLINK', HOLDS) end
redis.call('HSETNX', WALLET, 'held', '0')
set_row(version, posted, debt, overdraft, status, package)
redis.call('HSET', WALLET, 'epoch', epoch)
local last_forgotten = 9 + tonumber(forgotten)
drop_marks({unpack(ARGV, 10, last_forgotten)})
for i = last_forgotten + 1, #ARGV, 2 do set_mark(ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', WALLET, idle_ms)
redis.call('PEXPIRE', HOLDS, idle_ms)
return 1
