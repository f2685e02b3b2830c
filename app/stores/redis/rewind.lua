-- Postgres has lost the version that the cached wallet has: reset the copy's version and fence, so that an older
-- version can be filled in. Whichever has changed since the caller read it stays as it is.
-- KEYS: wallet, holds, fence; ARGV: version and fence ('': none), as the caller read them
if redis.call('HGET', WALLET, 'version') == ARGV[1] then redis.call('HSET', WALLET, 'version', '0') end
if redis.call('GET', KEYS[3]) == ARGV[2] then redis.call('DEL', KEYS[3]) end
return 1
