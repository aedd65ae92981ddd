-- Shows whether Redis takes writes. KEYS: pulse. Returns for how many ms it has taken them without a break.
-- @include steady
return steady(KEYS[1])
