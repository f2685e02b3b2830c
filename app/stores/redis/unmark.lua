-- Remove the mark of an end that was not recorded (or was recorded before, under another id), and the answers that its
-- keys got.
-- KEYS: wallet, holds, record of the idempotency key, record of the process id; ARGV: end id
local end_id = ARGV[1]
if cached_version() then set_mark(end_id, false) end
for i = 3, 4 do
  if redis.call('HGET', KEYS[i], 'end') == end_id then redis.call('DEL', KEYS[i]) end
end
return 1
