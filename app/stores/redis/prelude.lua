-- Comes before every script on a wallet. KEYS[1] is the wallet's hash, KEYS[2] the sorted set of its holds.
--
-- Fields of the hash:
--   epoch, version, overdraft, status, package;
--   posted: the row's balance; told: the debt that the wallet's row includes;
--   running totals: available (posted less told and less the cost of every marked end), debt (told plus marked debt),
--   held;
--   p:<end id>: the mark of an end that the wallet's row doesn't include yet: 'p' (covered) or 'd' (debt), then its
--   cost;
--   h:<process id>: the amount of a hold.
--
-- Amounts are decimal strings of micro-tokens and are added only by HINCRBY, in 64-bit integers. Lua's numbers are
-- doubles: they are used only for comparisons, where rounding beyond 2^53 can't change the outcome.
local WALLET, HOLDS = KEYS[1], KEYS[2]

local function negative(amount)
  if amount == '0' then return amount end
  if string.sub(amount, 1, 1) == '-' then return string.sub(amount, 2) end
  return '-' .. amount
end

local function add(field, amount)
  return redis.call('HINCRBY', WALLET, field, amount)
end

-- A double adds up several hundred amounts of this length exactly.
local SMALL_DIGITS = 13

-- Same effect as `add` for each amount, but small amounts are summed first and added by one command.
local function add_all(field, amounts)
  local sum = 0
  for _, amount in ipairs(amounts) do
    if #amount <= SMALL_DIGITS then sum = sum + amount else add(field, amount) end
  end
  if sum ~= 0 then add(field, string.format('%.0f', sum)) end
end

-- Returns the field `first` as a number, and {first, posted, told, overdraft, available, debt, held} as text; nil where
-- nothing is cached. Fails where one of these numbers is missing or out of range, so that the caller drops the copy:
-- HINCRBY would take a missing number for 0.
local function numbers(first)
  local fields = redis.call('HMGET', WALLET, first, 'posted', 'told', 'overdraft', 'available', 'debt', 'held')
  if not fields[1] then return nil end
  for i = 1, #fields do
    local number = fields[i] and string.match(fields[i], '^-?%d+$') and tonumber(fields[i])
    if not number or math.abs(number) >= 2 ^ 63 then return error('a number of the copy is missing') end
  end
  return tonumber(fields[1]), fields
end

local function cached_version()
  return (numbers('version'))
end

-- Whether there is no usable copy: none at all, or one of an older epoch, which may lack changes made while Redis was
-- away. Otherwise also returns the cached overdraft and totals.
local function is_missing(epoch)
  local cached, row = numbers('epoch')
  if not cached or cached < tonumber(epoch) then return true end
  return false, {overdraft = row[4], available = row[5], debt = row[6], held = row[7]}
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- At most this many open holds per wallet, so that every script can afford to read all of them.
local OPEN_HOLDS_MAX = 1000
-- Expired holds are removed in slices, so that a script's time doesn't depend on their number.
local EXPIRED_PER_SCRIPT = 200

-- The amount that a hold reserves; '0' where the text isn't an amount.
local function reserved(amount)
  return amount and #amount <= 18 and string.match(amount, '^%d+$') or '0'
end

-- Amount and end (a number, in ms) of an unexpired hold; nil otherwise. An expired hold may still be stored.
local function open_hold(process_id)
  local amount = reserved(redis.call('HGET', WALLET, 'h:' .. process_id))
  local ends_at = redis.call('ZSCORE', HOLDS, process_id)
  if amount ~= '0' and ends_at and tonumber(ends_at) > now_ms() then return amount, tonumber(ends_at) end
end

-- Remove a hold, expired or not. Returns the amount that it reserved, '0' if it had expired or didn't exist.
local function release_hold(process_id)
  local open_amount = open_hold(process_id)
  local amount = reserved(redis.call('HGET', WALLET, 'h:' .. process_id))
  redis.call('HDEL', WALLET, 'h:' .. process_id)
  redis.call('ZREM', HOLDS, process_id)
  if amount ~= '0' then add('held', negative(amount)) end
  return open_amount or '0'
end

-- Expire holds by the Redis server's clock whenever their wallet is touched: nothing scans all wallets. Returns the sum
-- of the open holds. Where more holds are due than one call removes, the field `held` is still too high, so the open
-- holds are added up instead; with more than OPEN_HOLDS_MAX of them, `held` is returned as it is.
local function expire_holds()
  local held = redis.call('HGET', WALLET, 'held')
  if held == '0' then return held end
  local now = string.format('%.0f', now_ms())
  local due = redis.call('ZRANGEBYSCORE', HOLDS, '-inf', now, 'LIMIT', 0, EXPIRED_PER_SCRIPT)
  if #due == 0 then return held end

  local fields = {}
  for i, process_id in ipairs(due) do fields[i] = 'h:' .. process_id end
  for _, amount in ipairs(redis.call('HMGET', WALLET, unpack(fields))) do
    add('held', negative(reserved(amount)))
  end
  redis.call('HDEL', WALLET, unpack(fields))
  redis.call('ZREM', HOLDS, unpack(due))
  held = redis.call('HGET', WALLET, 'held')
  if #due < EXPIRED_PER_SCRIPT then return held end

  local open = redis.call('ZRANGEBYSCORE', HOLDS, '(' .. now, '+inf', 'LIMIT', 0, OPEN_HOLDS_MAX + 1)
  if #open > OPEN_HOLDS_MAX then return held end
  local sum = 0
  for i, process_id in ipairs(open) do open[i] = 'h:' .. process_id end
  for _, amount in ipairs(#open > 0 and redis.call('HMGET', WALLET, unpack(open)) or {}) do
    sum = sum + tonumber(reserved(amount))
  end
  return string.format('%.0f', sum)
end

local function set_mark(end_id, entry)
  local field = 'p:' .. end_id
  local old = redis.call('HGET', WALLET, field)
  if old == entry then return end
  if old then
    local cost = string.sub(old, 2)
    add('available', cost)
    if string.sub(old, 1, 1) == 'd' then add('debt', negative(cost)) end
  end
  if entry then
    local cost = string.sub(entry, 2)
    add('available', negative(cost))
    if string.sub(entry, 1, 1) == 'd' then add('debt', cost) end
    redis.call('HSET', WALLET, field, entry)
  elseif old then
    redis.call('HDEL', WALLET, field)
  end
end

-- Remove the marks of at most one slice of ends (ITEMS_PER_CALL). An end may be named twice.
local function drop_marks(end_ids)
  if #end_ids == 0 then return end
  local fields, named = {}, {}
  for _, end_id in ipairs(end_ids) do
    if not named[end_id] then table.insert(fields, 'p:' .. end_id) end
    named[end_id] = true
  end
  local marked, costs, owed = {}, {}, {}
  for i, entry in ipairs(redis.call('HMGET', WALLET, unpack(fields))) do
    if entry then
      local kind, cost = string.match(entry, '^(.)(-?%d+)$')
      if not kind then return error('a mark of the copy is no amount') end
      table.insert(marked, fields[i])
      table.insert(costs, cost)
      if kind == 'd' then table.insert(owed, negative(cost)) end
    end
  end
  if #marked == 0 then return end
  add_all('available', costs)
  add_all('debt', owed)
  redis.call('HDEL', WALLET, unpack(marked))
end

-- Mark an end that most likely has no mark yet. Returns `available` afterwards.
local function set_new_mark(end_id, entry)
  if redis.call('HSETNX', WALLET, 'p:' .. end_id, entry) == 0 then
    set_mark(end_id, entry)
    return redis.call('HGET', WALLET, 'available')
  end
  local cost = string.sub(entry, 2)
  if string.sub(entry, 1, 1) == 'd' then add('debt', cost) end
  local available = add('available', negative(cost))
  -- Lua gets a numeric reply as a double: where that may be inexact, the text is read again.
  return math.abs(available) < 2 ^ 53 and string.format('%.0f', available) or redis.call('HGET', WALLET, 'available')
end

-- Write the fields of the wallet's Postgres row and correct the totals by the difference. A copy that is being loaded
-- may have marks but no row yet.
local function set_row(version, posted, told, overdraft, status, package)
  local old = redis.call('HMGET', WALLET, 'posted', 'told', 'available', 'debt')
  local old_posted, old_told = old[1] or '0', old[2] or '0'
  if not old[3] then add('available', '0') end
  if not old[4] then add('debt', '0') end
  add_all('available', {negative(old_posted), posted, old_told, negative(told)})
  add_all('debt', {negative(old_told), told})
  redis.call('HSET', WALLET, 'version', version, 'posted', posted, 'told', told, 'overdraft', overdraft,
    'status', status, 'package', package)
end
