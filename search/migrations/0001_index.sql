-- Chunks and what they belong to. Times are nanoseconds since 1970, as in the messages: a file without a
-- creation time begins in 1970.

CREATE TABLE models (
    key smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    dimension integer NOT NULL
);

CREATE TABLE assets (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    kind text NOT NULL,             -- file or stream
    media_type text NOT NULL,       -- video or image
    name text NOT NULL,
    sensor text NOT NULL,           -- what consumers know the camera by; the asset's id for a plain file
    description text NOT NULL,
    url text NOT NULL,              -- where it was downloaded from
    base_ns bigint,                 -- the time that offsets into a file count from; null: unknown, or a stream
    -- Seconds since 1970 by Redis's clock. Messages about a deleted asset are ignored, unless another asset was
    -- created under its id since.
    created bigint NOT NULL,        -- 0: unknown
    deleted bigint
);
CREATE INDEX assets_sensor ON assets (sensor);

CREATE TABLE chunks (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asset bigint NOT NULL REFERENCES assets,
    model smallint NOT NULL REFERENCES models,
    number integer NOT NULL,
    start_ns bigint NOT NULL,
    end_ns bigint NOT NULL,
    request text NOT NULL,
    indexed_at timestamptz NOT NULL DEFAULT now(),
    embedding halfvec NOT NULL,
    thumbnail bytea,
    UNIQUE (asset, model, start_ns, end_ns)
);
CREATE INDEX chunks_start ON chunks (start_ns);
-- Vectors stay beside the other columns, where comparing all of them needs no second look-up; pictures do not.
ALTER TABLE chunks ALTER COLUMN embedding SET STORAGE MAIN;
ALTER TABLE chunks ALTER COLUMN thumbnail SET STORAGE EXTERNAL;

-- Rows that are to be deleted and no longer count: those of an asset up to a key.
CREATE TABLE deletions (
    asset bigint PRIMARY KEY REFERENCES assets,
    last_chunk bigint NOT NULL
);
