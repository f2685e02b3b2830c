-- Put a wallet as loaded from Postgres into the cache, or correct the copy that is there.
-- KEYS: wallet, holds, fence, lease
-- ARGV: epoch, version, posted, overdraft, status, package, idle milliseconds,
--       number of ends to forget, their ids, then pairs of end id and entry for every unsettled end
-- Returns 0 when the loaded copy may be older than what is known here: load again.
local epoch, version, posted, overdraft, status, package, idle_ms, forgotten = unpack(ARGV, 1, 8)

-- The lease was taken before the load. Without it a flush or a long pause lies between.
if redis.call('DEL', KEYS[4]) == 0 then return 0 end
local fence = redis.call('GET', KEYS[3])
if fence and tonumber(fence) > tonumber(version) then return 0 end
local cached = cached_version()
if cached and cached > tonumber(version) then return 0 end

if cached then
  set_posted(posted)
else
  redis.call('DEL', HOLDS)
  redis.call('HSET', WALLET, 'posted', posted, 'available', posted, 'debt', '0', 'held', '0')
end
redis.call('HSET', WALLET, 'epoch', epoch, 'version', version, 'overdraft', overdraft, 'status', status, 'package', package)

local last_forgotten = 8 + tonumber(forgotten)
for i = 9, last_forgotten do set_unsettled(ARGV[i], false) end
for i = last_forgotten + 1, #ARGV, 2 do set_unsettled(ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', WALLET, idle_ms)
redis.call('PEXPIRE', HOLDS, idle_ms)
return 1
