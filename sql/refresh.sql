-- Materialized views, refreshed in order.

-- What one calls --------------------------------------------------------------------------------------------------

CREATE FUNCTION wh.refresh(view regclass, upstream boolean DEFAULT true, concurrently text DEFAULT 'auto')
RETURNS TABLE (view text, level int, status text, concurrent boolean, elapsed interval, rows bigint, bytes bigint, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS 'MODULE_PATHNAME', 'refresh_wrapper';
COMMENT ON FUNCTION wh.refresh(regclass, boolean, text) IS
'Refreshes a materialized view now, after the materialized views that it reads, each once; as the caller, in the caller''s transaction. concurrently: auto (where it can be done and somebody could be reading), always or never';

CREATE FUNCTION wh.list_refresh_order()
RETURNS TABLE (view text, owner text, level int, reads text[], concurrent boolean, reason text)
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'list_refresh_order_wrapper';
COMMENT ON FUNCTION wh.list_refresh_order() IS 'Internal: the rows of wh.refresh_order';

CREATE FUNCTION wh.change_mark(view regclass)
RETURNS TABLE (mark text, why_not text)
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'change_mark_wrapper';
COMMENT ON FUNCTION wh.change_mark(regclass) IS
'Internal: a text that stays the same until something that a materialized view reads has changed, or why that can''t be told';

-- What one sees ---------------------------------------------------------------------------------------------------

CREATE VIEW wh.refresh_order AS
SELECT o.view, o.owner, o.level, o.reads, o.concurrent, o.reason FROM wh.list_refresh_order() o;
COMMENT ON VIEW wh.refresh_order IS
'Every materialized view with its level (1 reads no other), what it reads directly, and whether CONCURRENTLY is possible, or why not';

-- Who may --------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION wh.refresh(regclass, boolean, text), wh.list_refresh_order(), wh.change_mark(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION wh.refresh(regclass, boolean, text), wh.list_refresh_order() TO wh_admin, wh_analyst;
GRANT SELECT ON wh.refresh_order TO wh_admin, wh_analyst;
