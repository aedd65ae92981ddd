-- Saved questions, which indexers compare with each new chunk, and their matches.

CREATE TABLE triggers (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    name text NOT NULL,
    question text NOT NULL,         -- text, image, vector or like
    sentence text NOT NULL,         -- empty unless the question is a text
    model text NOT NULL,            -- its id; the index may not know it yet
    embedding halfvec NOT NULL,
    threshold real NOT NULL,
    cameras text[],                 -- as in assets.sensor; null: every one
    files boolean NOT NULL,         -- whether chunks of files match, too
    cooldown_ns bigint NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    matches bigint NOT NULL DEFAULT 0,
    -- The webhook: its URL and secret as JSON, encrypted if a secret key is set, and where delivery stands.
    webhook text NOT NULL,          -- what people are shown of its URL; empty: none
    delivery text NOT NULL,
    sealed boolean NOT NULL,
    signed boolean NOT NULL,
    delivered bigint NOT NULL DEFAULT 0,  -- the last match that was delivered or given up
    attempts integer NOT NULL DEFAULT 0,  -- at the next one
    due timestamptz NOT NULL DEFAULT now(),
    given_up bigint NOT NULL DEFAULT 0,
    error text NOT NULL DEFAULT ''  -- of the last attempt; empty: it worked
);

-- Keys ascend in the order in which the matches of one trigger are committed: its row is locked meanwhile.
CREATE TABLE matches (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trigger bigint NOT NULL REFERENCES triggers ON DELETE CASCADE,
    asset bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    chunk bigint NOT NULL,          -- its row, which may be gone
    number integer NOT NULL,
    start_ns bigint NOT NULL,
    end_ns bigint NOT NULL,
    request text NOT NULL,
    score real NOT NULL,
    matched_at timestamptz NOT NULL DEFAULT now(),
    told boolean NOT NULL DEFAULT false,  -- whether its message was handed to the bus
    UNIQUE (trigger, asset, start_ns)
);
CREATE INDEX matches_of_trigger ON matches (trigger, key);
CREATE INDEX matches_of_asset ON matches (asset);
CREATE INDEX matches_untold ON matches (key) WHERE NOT told;
