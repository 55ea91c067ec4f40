-- The encoder that made the vectors; one row.
CREATE TABLE encoder (name text NOT NULL, dim int NOT NULL);

-- Records as they stand. `body` is the record as JSON without its content, which may hold U+0000 and so is
-- bytes; the other columns are what searches need of it.
CREATE TABLE records (
    tenant text COLLATE "C" NOT NULL,
    domain text COLLATE "C" NOT NULL,
    id bytea NOT NULL,
    project text COLLATE "C",
    session text COLLATE "C",
    kind text COLLATE "C" NOT NULL,
    updated bigint NOT NULL,
    expires bigint,
    pinned boolean NOT NULL,
    content bytea NOT NULL,
    body text NOT NULL,
    facts jsonb NOT NULL,
    -- BM25: hashes of the distinct words, salted with the partition, and how often each occurs; hashes of
    -- the names of the symbol; words in all.
    terms bigint[] NOT NULL,
    counts int[] NOT NULL,
    length int NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (tenant, domain, id)
);
CREATE INDEX records_place ON records (tenant, domain, project, session, kind);
CREATE INDEX records_length ON records (tenant, domain) INCLUDE (length);
CREATE INDEX records_expire ON records (expires) WHERE expires IS NOT NULL AND NOT pinned;
-- Terms differ between partitions, so one partition's postings are never read for another's search.
CREATE INDEX records_terms ON records USING gin (terms);

-- What records were before: the version that stood from `updated` until `until`.
CREATE TABLE history (
    tenant text COLLATE "C" NOT NULL,
    domain text COLLATE "C" NOT NULL,
    id bytea NOT NULL,
    version int NOT NULL,
    project text COLLATE "C",
    session text COLLATE "C",
    kind text COLLATE "C" NOT NULL,
    updated bigint NOT NULL,
    until bigint NOT NULL,
    expires bigint,
    pinned boolean NOT NULL,
    content bytea NOT NULL,
    body text NOT NULL,
    facts jsonb NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (tenant, domain, id, version)
);
