-- Bring the cached wallet up to a change that Postgres has committed.
-- KEYS: wallet, holds, fence
-- ARGV: version, posted, debt, overdraft, status, package, then the ids of ends that the wallet's row tells of now
-- Applied in any order it ends right: the wallet's own fields only by a newer version, each end by its id.
local version, posted, debt, overdraft, status, package = unpack(ARGV, 1, 6)
local cached = cached_version()

if not cached then
  -- Somebody may be loading an older copy just now; this stops it. It outlives every lease.
  local fence = redis.call('GET', KEYS[3])
  if not fence or tonumber(fence) < tonumber(version) then
    redis.call('SET', KEYS[3], version, 'PX', 60000)
  end
end
if cached and tonumber(version) > cached then set_row(version, posted, debt, overdraft, status, package) end
-- Also where nothing is cached yet: a load in slices may have set some of these marks already.
drop_marks({unpack(ARGV, 7)})
return 1
