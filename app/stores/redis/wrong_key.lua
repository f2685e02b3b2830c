-- One more wrong key from an address: the rule of app/domain/wrong_keys.py, for all processes together.
-- KEYS: addresses -> what is remembered of each. Nothing else is under it.
-- ARGV: address, most wrong keys in a window, window, first wait, longest wait, when it is forgotten (all seconds),
--       most addresses remembered
-- Answers: wrong keys, waits, how long it has to wait (milliseconds), whether it is this one that makes it wait
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
    -- Whoever it is: a flood of addresses mostly meets its own.
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
-- Once nobody has sent a wrong key for that long, there is nothing left to remember.
redis.call('EXPIRE', KEYS[1], forget)
return {wrong, waits, math.ceil(math.max(till - now, 0) * 1000), is_new and 1 or 0}
