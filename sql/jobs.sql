-- Jobs: commands and refreshes that run on time, by themselves.

-- What is kept ----------------------------------------------------------------------------------------------------

CREATE TABLE wh.job (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL UNIQUE CHECK (name <> ''),
  -- A role and not its name: a job follows a rename, and never falls to somebody who gets an old name.
  owner regrole NOT NULL,
  kind text NOT NULL CHECK (kind IN ('sql', 'refresh', 'keep_fresh', 'recreate_fdw', 'fetch', 'query')),
  schedule text,
  timezone text,
  words text NOT NULL,
  command text NOT NULL,
  database name,
  -- The view of a refresh: by number while it is there, by name when it was made again.
  relation oid,
  view_schema name,
  view_name name,
  upstream boolean NOT NULL DEFAULT true,
  refresh_mode text NOT NULL DEFAULT 'auto',
  max_lag interval,
  -- What the job is about, where its kind has more to say.
  argument jsonb NOT NULL DEFAULT '{}',
  timeout interval,
  max_retries int NOT NULL DEFAULT 0,
  retry_delay interval NOT NULL DEFAULT '1 minute',
  catch_up text NOT NULL DEFAULT 'skip' CHECK (catch_up IN ('skip', 'once')),
  enabled boolean NOT NULL DEFAULT true,
  disabled_reason text,
  -- Intervals are counted from here, and so is the plan below: another anchor, another plan.
  anchor timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  first_run timestamptz,
  created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  created_by name NOT NULL DEFAULT session_user,
  CHECK ((kind IN ('refresh', 'keep_fresh')) = (view_name IS NOT NULL)),
  CHECK ((kind = 'keep_fresh') = (max_lag IS NOT NULL)),
  -- A fetch without a schedule runs by hand.
  CHECK (CASE kind WHEN 'keep_fresh' THEN schedule IS NULL WHEN 'fetch' THEN true ELSE schedule IS NOT NULL END)
);
COMMENT ON TABLE wh.job IS 'The jobs; read it as wh.jobs';

-- Apart from the jobs, because workers write it: a session that has changed a job and not committed must not make
-- them wait.
CREATE TABLE wh.job_plan (
  job bigint PRIMARY KEY,
  anchor timestamptz NOT NULL,
  next_run timestamptz,
  -- A retry that is due, of the run that was scheduled for retry_for.
  retry_at timestamptz,
  retry_for timestamptz,
  attempt int NOT NULL DEFAULT 1,
  failures int NOT NULL DEFAULT 0,
  -- Why it is paused, where it paused itself.
  paused text
) WITH (fillfactor = 50);
COMMENT ON TABLE wh.job_plan IS 'When each job comes next, and how often it failed; read it as wh.jobs';

CREATE TABLE wh.job_run (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- No reference: the history of a job outlives it.
  job bigint NOT NULL,
  job_name text NOT NULL,
  owner oid NOT NULL,
  owner_name name NOT NULL,
  kind text NOT NULL,
  -- With its owner: what a run that waits will do, and where, whatever becomes of its job meanwhile.
  command text NOT NULL,
  database name,
  argument jsonb NOT NULL DEFAULT '{}',
  trigger text NOT NULL CHECK (trigger IN ('schedule', 'retry', 'catch up', 'hand')),
  scheduled_for timestamptz NOT NULL,
  recorded timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  started timestamptz,
  finished timestamptz,
  status text NOT NULL DEFAULT 'queued'
    CHECK (status IN ('queued', 'succeeded', 'failed', 'timed_out', 'cancelled', 'crashed', 'skipped')),
  attempt int NOT NULL DEFAULT 1,
  rows bigint,
  missed int NOT NULL DEFAULT 0,
  pid int,
  sqlstate text,
  error text,
  detail text,
  hint text,
  context text
) WITH (fillfactor = 70);
COMMENT ON TABLE wh.job_run IS 'Every run of a job; read it as wh.job_runs';
CREATE INDEX ON wh.job_run (job, id);
CREATE INDEX ON wh.job_run (recorded);
CREATE INDEX job_run_open ON wh.job_run (id) WHERE finished IS NULL;

CREATE TABLE wh.job_step (
  run bigint NOT NULL REFERENCES wh.job_run ON DELETE CASCADE,
  relation oid NOT NULL,
  view text NOT NULL,
  level int NOT NULL,
  status text NOT NULL DEFAULT 'queued'
    CHECK (status IN ('queued', 'succeeded', 'failed', 'timed_out', 'cancelled', 'crashed', 'skipped')),
  started timestamptz,
  finished timestamptz,
  concurrent boolean,
  rows bigint,
  bytes bigint,
  sqlstate text,
  detail text,
  PRIMARY KEY (run, relation)
);
COMMENT ON TABLE wh.job_step IS 'The materialized views of each refreshing run; read it as wh.job_run_views';

CREATE TABLE wh.view_state (
  relation oid PRIMARY KEY,
  -- When the last refresh by a job began, how long it took, and what its sources looked like then.
  refreshed timestamptz NOT NULL,
  elapsed interval NOT NULL,
  mark text,
  -- When its sources were last seen unchanged, and since when they may have changed.
  seen_clean timestamptz NOT NULL,
  dirty_since timestamptz
);
COMMENT ON TABLE wh.view_state IS 'How fresh each view of a job is; read it as wh.freshness';

CREATE TABLE wh.promise_missed (
  job bigint NOT NULL,
  missed_from timestamptz NOT NULL,
  missed_until timestamptz NOT NULL,
  PRIMARY KEY (job, missed_from)
);
COMMENT ON TABLE wh.promise_missed IS 'Times in which a view was older than wh.keep_fresh promised; read it as wh.freshness';

CREATE TABLE wh.job_state (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  paused boolean NOT NULL DEFAULT false,
  paused_by name,
  paused_at timestamptz
);
COMMENT ON TABLE wh.job_state IS 'Whether wh.pause() holds all jobs of this database';
INSERT INTO wh.job_state DEFAULT VALUES;

-- A role that is gone cannot be restored; its jobs could not run either.
SELECT pg_catalog.pg_extension_config_dump('wh.job', 'WHERE owner::pg_catalog.oid IN (SELECT oid FROM pg_catalog.pg_roles)');
SELECT pg_catalog.pg_extension_config_dump('wh.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('wh.job_plan', '');
SELECT pg_catalog.pg_extension_config_dump('wh.job_run', '');
SELECT pg_catalog.pg_extension_config_dump('wh.job_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('wh.job_step', '');
SELECT pg_catalog.pg_extension_config_dump('wh.promise_missed', '');

-- Times as the workers count them: microseconds since 1970. Simple enough to be inlined; not IMMUTABLE, since such a function
-- is inlined only where everything in it is (inline_function, src/backend/optimizer/util/clauses.c).
CREATE FUNCTION wh.micros(at timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
RETURN (extract(epoch FROM at) * 1000000)::bigint;
COMMENT ON FUNCTION wh.micros(timestamptz) IS 'Internal: microseconds since 1970';
CREATE FUNCTION wh.micros(span interval) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(epoch FROM span) * 1000000)::bigint;
COMMENT ON FUNCTION wh.micros(interval) IS 'Internal: microseconds';
CREATE FUNCTION wh.instant(micros bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN timestamptz '1970-01-01 00:00:00+00' + (micros / 1000000) * interval '1 second' + (micros % 1000000) * interval '1 microsecond';
COMMENT ON FUNCTION wh.instant(bigint) IS 'Internal: the instant of microseconds since 1970';

-- What wakes the scheduler -----------------------------------------------------------------------------------------

CREATE FUNCTION wh.jobs_changed() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'jobs_changed_wrapper';
COMMENT ON FUNCTION wh.jobs_changed() IS 'Internal: wakes the scheduler when jobs have changed and the change is committed';

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON wh.job FOR EACH STATEMENT EXECUTE FUNCTION wh.jobs_changed();
CREATE TRIGGER changed AFTER UPDATE ON wh.job_state FOR EACH STATEMENT EXECUTE FUNCTION wh.jobs_changed();

-- What one calls ----------------------------------------------------------------------------------------------------

-- None of those that write jobs is SECURITY DEFINER: inside one Postgres does not say who called it. They take the
-- caller's identity first and the rights of the extension's owner then.

CREATE FUNCTION wh.schedule(
  job_name text, schedule text, command text, timezone text DEFAULT NULL, timeout interval DEFAULT NULL,
  max_retries int DEFAULT 0, retry_delay interval DEFAULT '1 minute', catch_up text DEFAULT 'skip',
  database text DEFAULT NULL, enabled boolean DEFAULT true)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'schedule_wrapper';
COMMENT ON FUNCTION wh.schedule(text, text, text, text, interval, int, interval, text, text, boolean) IS
'Runs a command on a schedule (cron fields, @hourly, or an interval such as ''15 minutes''), as the role that calls this; replaces a job of the same name and owner. Returns the job''s number';

CREATE FUNCTION wh.schedule_refresh(
  view regclass, schedule text, timezone text DEFAULT NULL, timeout interval DEFAULT NULL,
  max_retries int DEFAULT 0, retry_delay interval DEFAULT '1 minute', catch_up text DEFAULT 'once',
  enabled boolean DEFAULT true, concurrently text DEFAULT 'auto', upstream boolean DEFAULT true, job_name text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'schedule_refresh_wrapper';
COMMENT ON FUNCTION wh.schedule_refresh(regclass, text, text, interval, int, interval, text, boolean, text, boolean, text) IS
'Refreshes a materialized view on a schedule, with the materialized views that it reads before it, each once. The job is called "refresh" and the view''s name unless job_name says otherwise';

CREATE FUNCTION wh.keep_fresh(
  view regclass, max_lag interval, timeout interval DEFAULT NULL, max_retries int DEFAULT 0,
  retry_delay interval DEFAULT '1 minute', enabled boolean DEFAULT true, concurrently text DEFAULT 'auto',
  job_name text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'keep_fresh_wrapper';
COMMENT ON FUNCTION wh.keep_fresh(regclass, interval, interval, int, interval, boolean, text, text) IS
'Promises that a materialized view is never older than max_lag behind what it reads: refreshed as late as that allows, not at all while nothing has changed, with the materialized views that it reads kept as fresh. wh.freshness shows how well';

CREATE FUNCTION wh.schedule_recreate_fdw(
  name text, schedule text, timezone text DEFAULT NULL, timeout interval DEFAULT NULL,
  max_retries int DEFAULT 0, retry_delay interval DEFAULT '1 minute', catch_up text DEFAULT 'once',
  enabled boolean DEFAULT true, job_name text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'schedule_recreate_fdw_wrapper';
COMMENT ON FUNCTION wh.schedule_recreate_fdw(text, text, text, interval, int, interval, text, boolean, text) IS
'Calls wh.recreate_fdw on a schedule, for products that have no deploy hook';

CREATE FUNCTION wh.alter_job(
  job_name text, schedule text DEFAULT NULL, command text DEFAULT NULL, timezone text DEFAULT NULL,
  timeout interval DEFAULT NULL, max_retries int DEFAULT NULL, retry_delay interval DEFAULT NULL,
  catch_up text DEFAULT NULL, database text DEFAULT NULL, enabled boolean DEFAULT NULL, max_lag interval DEFAULT NULL,
  concurrently text DEFAULT NULL, upstream boolean DEFAULT NULL, owner text DEFAULT NULL, new_name text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'alter_job_wrapper';
COMMENT ON FUNCTION wh.alter_job(text, text, text, text, interval, int, interval, text, text, boolean, interval, text, boolean, text, text) IS
'Changes what is given of a job and leaves the rest. timeout => ''0'' takes a timeout away';

CREATE FUNCTION wh.unschedule(job_name text)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'unschedule_wrapper';
COMMENT ON FUNCTION wh.unschedule(text) IS 'Forgets a job. A run that has begun goes on; its history stays';

CREATE FUNCTION wh.run_job(job_name text, wait boolean DEFAULT true)
RETURNS TABLE (run bigint, status text, started timestamptz, finished timestamptz, rows bigint, error text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'run_job_wrapper';
COMMENT ON FUNCTION wh.run_job(text, boolean) IS
'Runs a job now, beside its schedule, and waits for its end; with wait => false it does not wait';

CREATE FUNCTION wh.cancel_job(job_name text)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'cancel_job_wrapper';
COMMENT ON FUNCTION wh.cancel_job(text) IS 'Cancels the run of a job that is running or queued; false if there is none';

CREATE FUNCTION wh.pause(job_name text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'pause_wrapper';
COMMENT ON FUNCTION wh.pause(text) IS
'Holds one job, or, without a name, all jobs of this database. What runs goes on; what comes due meanwhile does not run';

CREATE FUNCTION wh.resume(job_name text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'resume_wrapper';
COMMENT ON FUNCTION wh.resume(text) IS 'Takes back wh.pause, also the pause of a job that failed too often';

CREATE FUNCTION wh.schedule_preview(schedule text, timezone text DEFAULT NULL, n int DEFAULT 10)
RETURNS TABLE (n int, at timestamptz, local timestamp, words text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'schedule_preview_wrapper';
COMMENT ON FUNCTION wh.schedule_preview(text, text, int) IS
'The next n times of a schedule, as instants and as the clock of its time zone shows them. An interval counts from now';

CREATE FUNCTION wh.import_pg_cron()
RETURNS TABLE (job_name text, schedule text, command text, owner text, status text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS 'MODULE_PATHNAME', 'import_pg_cron_wrapper';
COMMENT ON FUNCTION wh.import_pg_cron() IS
'Takes over the jobs of pg_cron that the caller may: makes each of them here and switches it off there, in one transaction. Returns what was taken, and what could not be and why';

CREATE FUNCTION wh.running_jobs()
RETURNS TABLE (run bigint, job bigint, pid int, started timestamptz, relation oid, requests bigint, records bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'running_jobs_wrapper';
COMMENT ON FUNCTION wh.running_jobs() IS 'Internal: what runs at this moment in this database, from shared memory, as far as the caller may see it';

CREATE FUNCTION wh.view_lag(relation oid)
RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'view_lag_wrapper';
COMMENT ON FUNCTION wh.view_lag(oid) IS
'Since when what a materialized view reads may have changed after its last refresh by a job; null: it has not';

-- What one sees -----------------------------------------------------------------------------------------------------

-- Who may see a job: its owner, members of the owner's role, wh_admin, and who may read all statistics.
CREATE VIEW wh.jobs WITH (security_barrier) AS
SELECT j.id AS job, j.name, j.owner::text AS owner, j.kind, j.words AS schedule, j.command, j.database,
       o.reason IS NULL AS enabled, o.reason,
       CASE WHEN o.reason IS NULL THEN least(coalesce(p.next_run, j.first_run), p.retry_at) END AS next_run,
       l.scheduled_for AS last_run, l.finished AS last_finished, CASE WHEN r.run IS NOT NULL AND l.finished IS NULL THEN 'running' ELSE l.status END AS last_status, l.error AS last_error,
       d.runs AS runs_24h, d.failures AS failures_24h, d.average AS average_time, coalesce(p.failures, 0) AS failures_in_a_row,
       r.pid AS running_pid, j.timeout, j.max_retries, j.retry_delay, j.catch_up
FROM wh.job j CROSS JOIN wh.job_state s
LEFT JOIN wh.job_plan p ON p.job = j.id AND p.anchor = j.anchor
CROSS JOIN LATERAL (SELECT CASE
  WHEN s.paused THEN pg_catalog.format('wh.pause() by "%s" at %s', s.paused_by, s.paused_at)
  WHEN NOT j.enabled THEN coalesce(j.disabled_reason, 'disabled')
  WHEN p.paused IS NOT NULL THEN p.paused
  WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE oid = j.owner::oid) THEN pg_catalog.format('its owner, role %s, was dropped', j.owner::oid)
  END AS reason) o
LEFT JOIN LATERAL (SELECT * FROM wh.job_run WHERE job = j.id ORDER BY id DESC LIMIT 1) l ON true
LEFT JOIN LATERAL (
  SELECT pg_catalog.count(*) FILTER (WHERE q.status <> 'skipped') AS runs,
         pg_catalog.count(*) FILTER (WHERE q.status IN ('failed', 'timed_out', 'crashed')) AS failures,
         pg_catalog.avg(q.finished - q.started) FILTER (WHERE q.status = 'succeeded') AS average
  FROM wh.job_run q WHERE q.job = j.id AND q.recorded > pg_catalog.now() - interval '24 hours') d ON true
LEFT JOIN LATERAL (SELECT pg_catalog.min(x.run) AS run, pg_catalog.min(x.pid) AS pid FROM wh.running_jobs() x WHERE x.job = j.id) r ON true
WHERE CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE oid = j.owner::oid) THEN pg_catalog.pg_has_role(j.owner::oid, 'USAGE') ELSE false END
   OR pg_catalog.pg_has_role('wh_admin', 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW wh.jobs IS 'The jobs: schedule in words, next run, how the last one ended, runs and failures of 24 hours, average time of those that succeeded. An analyst sees their own';

CREATE VIEW wh.job_runs WITH (security_barrier) AS
SELECT q.id AS run, q.job, q.job_name, q.owner_name AS owner, q.kind, q.command, q.trigger, q.scheduled_for,
       coalesce(q.started, x.started, CASE WHEN q.status = 'crashed' THEN q.recorded END) AS started, q.finished,
       CASE WHEN q.status = 'queued' AND x.run IS NOT NULL THEN 'running' ELSE q.status END AS status,
       q.attempt, q.rows, q.missed, coalesce(q.pid, x.pid) AS pid, q.sqlstate, q.error, q.detail, q.hint, q.context
FROM wh.job_run q
LEFT JOIN (SELECT y.run, pg_catalog.min(y.started) AS started, pg_catalog.min(y.pid) AS pid FROM wh.running_jobs() y GROUP BY y.run) x ON x.run = q.id
WHERE CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE oid = q.owner) THEN pg_catalog.pg_has_role(q.owner, 'USAGE') ELSE false END
   OR pg_catalog.pg_has_role('wh_admin', 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW wh.job_runs IS 'Every run of a job: when it was due, began and ended, how, and its error in full. missed: times that came due while it ran, which did not run';

CREATE VIEW wh.job_run_views WITH (security_barrier) AS
SELECT s.run, q.job_name, s.level, s.view,
       CASE WHEN s.status = 'queued' AND x.run IS NOT NULL THEN 'running' ELSE s.status END AS status,
       coalesce(s.started, x.started) AS started, s.finished, s.concurrent, s.rows, s.bytes, s.sqlstate, s.detail
FROM wh.job_step s JOIN wh.job_run q ON q.id = s.run
LEFT JOIN wh.running_jobs() x ON x.run = s.run AND x.relation = s.relation
WHERE CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE oid = q.owner) THEN pg_catalog.pg_has_role(q.owner, 'USAGE') ELSE false END
   OR pg_catalog.pg_has_role('wh_admin', 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW wh.job_run_views IS 'The materialized views of each refreshing run: how and how long, CONCURRENTLY or not and why, rows and bytes, or the reason why it was skipped';

CREATE VIEW wh.freshness WITH (security_barrier) AS
SELECT j.name AS job, pg_catalog.format('%I.%I', j.view_schema, j.view_name) AS view, j.max_lag AS promise,
       v.refreshed AS last_refresh, f.lag, f.lag <= j.max_lag AS met,
       pg_catalog.round((100 * (1 - coalesce(m.missed + f.missing, f.missing) / greatest(
         extract(epoch FROM least(interval '7 days', pg_catalog.now() - j.created_at)), 1)))::numeric, 2) AS met_percent_7d
FROM wh.job j LEFT JOIN wh.view_state v ON v.relation = j.relation
CROSS JOIN LATERAL (SELECT CASE WHEN v.relation IS NULL THEN pg_catalog.clock_timestamp() - j.created_at
                           ELSE greatest(coalesce(pg_catalog.clock_timestamp() - wh.view_lag(j.relation), '0'), '0') END AS lag) g
CROSS JOIN LATERAL (SELECT g.lag, greatest(extract(epoch FROM g.lag - j.max_lag), 0) AS missing) f
LEFT JOIN LATERAL (
  SELECT pg_catalog.sum(extract(epoch FROM p.missed_until - greatest(p.missed_from, pg_catalog.now() - interval '7 days'))) AS missed
  FROM wh.promise_missed p WHERE p.job = j.id AND p.missed_until > pg_catalog.now() - interval '7 days') m ON true
WHERE j.kind = 'keep_fresh'
  AND (CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE oid = j.owner::oid) THEN pg_catalog.pg_has_role(j.owner::oid, 'USAGE') ELSE false END OR pg_catalog.pg_has_role('wh_admin', 'USAGE')
       OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'));
COMMENT ON VIEW wh.freshness IS 'Each view of wh.keep_fresh: how far behind what it reads it may be and is, and in how much of the last 7 days (or since it was promised) it was within that';

-- Who may -----------------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA wh FROM PUBLIC;
GRANT EXECUTE ON FUNCTION wh.raise_broken(text, bigint, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION
  wh.schedule(text, text, text, text, interval, int, interval, text, text, boolean),
  wh.schedule_refresh(regclass, text, text, interval, int, interval, text, boolean, text, boolean, text),
  wh.keep_fresh(regclass, interval, interval, int, interval, boolean, text, text),
  wh.alter_job(text, text, text, text, interval, int, interval, text, text, boolean, interval, text, boolean, text, text),
  wh.unschedule(text), wh.run_job(text, boolean), wh.cancel_job(text), wh.pause(text), wh.resume(text),
  wh.schedule_preview(text, text, int), wh.import_pg_cron(), wh.running_jobs(), wh.view_lag(oid)
TO wh_admin, wh_analyst;
GRANT EXECUTE ON FUNCTION
  wh.schedule_recreate_fdw(text, text, text, interval, int, interval, text, boolean, text)
TO wh_admin;

GRANT SELECT ON wh.jobs, wh.job_runs, wh.job_run_views, wh.freshness TO wh_admin, wh_analyst;
