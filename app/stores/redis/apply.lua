-- Bring the cached wallet up to a change that Postgres has committed.
-- KEYS: wallet, holds, fence
-- ARGV: version, posted, overdraft, status, package, number of settled ends, their ids, then pairs of id and cost of ends now in debt
-- Applied in any order it ends right: the wallet's own fields only by a newer version, each end by its id.
local version, posted, overdraft, status, package, settled = unpack(ARGV, 1, 6)
local cached = cached_version()

if not cached then
  -- Somebody may be loading an older copy just now; this stops it. It outlives every lease.
  local fence = redis.call('GET', KEYS[3])
  if not fence or tonumber(fence) < tonumber(version) then
    redis.call('SET', KEYS[3], version, 'PX', 60000)
  end
  return 0
end

if tonumber(version) > cached then
  set_posted(posted)
  redis.call('HSET', WALLET, 'version', version, 'overdraft', overdraft, 'status', status, 'package', package)
end
local last_settled = 6 + tonumber(settled)
for i = 7, last_settled do set_unsettled(ARGV[i], false) end
for i = last_settled + 1, #ARGV, 2 do
  -- An end this copy doesn't know was recorded past it, or is settled by a version that came here first.
  local is_known = redis.call('HEXISTS', WALLET, 'p:' .. ARGV[i]) == 1
  if is_known or tonumber(version) > cached then set_unsettled(ARGV[i], 'd' .. ARGV[i + 1]) end
end
return 1
