-- Count a wrong key from an address: the rule of app/domain/wrong_keys.py, shared by all processes.
-- KEYS: one hash, address -> its counters
-- ARGV: address, most wrong keys in a window, window, first wait, longest wait, how long an address is remembered (all
-- in seconds), most addresses remembered
-- Returns wrong keys so far, waits so far, remaining wait in milliseconds, and 1 if this wrong key started a new wait
local address = ARGV[1]
local wrong_max, window, first, longest, forget, addresses_max =
    tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local wrong, since, waits, till = 0, now, 0, 0
local known = redis.call('HGET', KEYS[1], address)
if known then
    local w, s, n, u = string.match(known, '^(%d+) ([%d.]+) (%d+) ([%d.]+)$')
    if w then
        wrong, since, waits, till = tonumber(w), tonumber(s), tonumber(n), tonumber(u)
        if now - since >= (waits > 0 and forget or window) then
            wrong, since, waits, till = 0, now, 0, 0
        end
    end
elseif redis.call('HLEN', KEYS[1]) >= addresses_max then
    -- The hash is full: evict a random address. During a flood most entries are the flood's own addresses.
    redis.call('HDEL', KEYS[1], redis.call('HRANDFIELD', KEYS[1]))
end

wrong = wrong + 1
local is_new = now >= till and (waits > 0 or wrong > wrong_max)
if is_new then
    waits = waits + 1
    till = now + math.min(first * 2 ^ math.min(waits - 1, 30), longest)
end
if waits > 0 then
    since = now
end
redis.call('HSET', KEYS[1], address, string.format('%d %.6f %d %.6f', wrong, since, waits, till))
-- The hash expires once no wrong key at all has come for that long: every entry is out of date by then.
redis.call('EXPIRE', KEYS[1], forget)
return {wrong, waits, math.ceil(math.max(till - now, 0) * 1000), is_new and 1 or 0}
