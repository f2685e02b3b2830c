-- Stands before every script on a wallet. KEYS[1] is the wallet's hash, KEYS[2] the sorted set of its holds.
--
-- The hash: epoch, version, posted, told (the debt that the wallet's row tells), overdraft, status, package; the running
-- totals available (posted less what is told and every marked end), debt (told and marked) and held; p:<end id> = 'p' or
-- 'd' (not covered) and the cost of each end that the wallet's row doesn't tell of yet; h:<process id> = amount of each
-- hold.
--
-- Amounts are decimal strings of micro-tokens and are only ever added by HINCRBY, in 64-bit integers. Lua's
-- numbers are doubles: they are used for comparing, where rounding beyond 2^53 can't change the outcome.
local WALLET, HOLDS = KEYS[1], KEYS[2]

local function negative(amount)
  if amount == '0' then return amount end
  if string.sub(amount, 1, 1) == '-' then return string.sub(amount, 2) end
  return '-' .. amount
end

local function add(field, amount)
  return redis.call('HINCRBY', WALLET, field, amount)
end

-- So many digits can be added up a few hundred times in a double, and stay exact.
local SMALL_DIGITS = 13

-- The same as each amount by `add`, by one command where they are small.
local function add_all(field, amounts)
  local sum = 0
  for _, amount in ipairs(amounts) do
    if #amount <= SMALL_DIGITS then sum = sum + amount else add(field, amount) end
  end
  if sum ~= 0 then add(field, string.format('%.0f', sum)) end
end

-- The number named and the row: posted, told, overdraft, available, debt and held, as text.
-- Every script fails on a copy that lacks a number, which drops the copy: HINCRBY would take the number for 0.
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

-- A wallet of an older epoch may lack what was written while Redis was away. Beside it: what is cached of the others.
local function is_missing(epoch)
  local cached, row = numbers('epoch')
  if not cached or cached < tonumber(epoch) then return true end
  return false, {overdraft = row[4], available = row[5], debt = row[6], held = row[7]}
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- At most so many open holds a wallet: every script can afford to look at all of them.
local OPEN_HOLDS_MAX = 1000
-- Holds that are due leave in slices: no script's time depends on how many there are.
local EXPIRED_PER_SCRIPT = 200

-- What a hold reserves, '0' where that can't be an amount.
local function reserved(amount)
  return amount and #amount <= 18 and string.match(amount, '^%d+$') or '0'
end

-- Amount and end (a number, in ms) of a hold whose time isn't over. One that is due may still wait to be taken out.
local function open_hold(process_id)
  local amount = reserved(redis.call('HGET', WALLET, 'h:' .. process_id))
  local ends_at = redis.call('ZSCORE', HOLDS, process_id)
  if amount ~= '0' and ends_at and tonumber(ends_at) > now_ms() then return amount, tonumber(ends_at) end
end

-- Takes a hold out, open or due. Returns what it reserved, '0' unless it was open.
local function release_hold(process_id)
  local open_amount = open_hold(process_id)
  local amount = reserved(redis.call('HGET', WALLET, 'h:' .. process_id))
  redis.call('HDEL', WALLET, 'h:' .. process_id)
  redis.call('ZREM', HOLDS, process_id)
  if amount ~= '0' then add('held', negative(amount)) end
  return open_amount or '0'
end

-- Holds expire by the server's clock when their wallet is looked at: nothing scans all wallets.
-- Returns what the open holds reserve. With more due ones than one script takes out that is less than the field `held`,
-- and added up from the open ones; `held` itself is returned where there are more of those than starts are granted.
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

-- Take the marks of many ends back, at most as many as one call is given. An end may be named twice.
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

-- The mark of an end that most likely has none yet. Returns what is available after it.
local function set_new_mark(end_id, entry)
  if redis.call('HSETNX', WALLET, 'p:' .. end_id, entry) == 0 then
    set_mark(end_id, entry)
    return redis.call('HGET', WALLET, 'available')
  end
  local cost = string.sub(entry, 2)
  if string.sub(entry, 1, 1) == 'd' then add('debt', cost) end
  local available = add('available', negative(cost))
  -- A reply that is a number comes as a double.
  return math.abs(available) < 2 ^ 53 and string.format('%.0f', available) or redis.call('HGET', WALLET, 'available')
end

-- Set what the wallet's row says. A wallet that is being loaded has no row yet, and may have marks already.
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
