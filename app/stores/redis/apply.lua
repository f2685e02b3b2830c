-- Bring the cached wallet up to a change that Postgres has committed.
-- KEYS: wallet, holds, fence
-- ARGV: version, posted, debt, overdraft, status, package, then the ids of ends that the wallet's row now accounts for
-- Changes may be applied in any order: the row's fields change only to a newer version, and each mark is removed by end
-- id.
local version, posted, debt, overdraft, status, package = unpack(ARGV, 1, 6)
local cached = cached_version()

if not cached then
  -- A loader may be about to fill in an older copy: the fence makes `fill` refuse it. The fence outlives every lease.
  local fence = redis.call('GET', KEYS[3])
  if not fence or tonumber(fence) < tonumber(version) then
    redis.call('SET', KEYS[3], version, 'PX', 60000)
  end
end
if cached and tonumber(version) > cached then set_row(version, posted, debt, overdraft, status, package) end
-- Also where no row is cached yet: a load in slices may have set some of these marks already.
drop_marks({unpack(ARGV, 7)})
return 1
