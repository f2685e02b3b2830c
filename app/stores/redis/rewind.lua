-- Forget how new the cached wallet is, unless it has changed since: Postgres has lost what came after its own version.
-- KEYS: wallet, holds, fence; ARGV: version and fence ('': none), as they were when they turned out to be lost
if redis.call('HGET', WALLET, 'version') == ARGV[1] then redis.call('HSET', WALLET, 'version', '0') end
if redis.call('GET', KEYS[3]) == ARGV[2] then redis.call('DEL', KEYS[3]) end
return 1
