-- On each foreign table a view, and on that view another; owned by an analyst, readable by all readers.
CREATE SCHEMA analysts AUTHORIZATION bench_analyst;
GRANT USAGE ON SCHEMA analysts TO bench_reader;
GRANT USAGE ON SCHEMA app TO bench_analyst;
GRANT SELECT ON ALL TABLES IN SCHEMA app TO bench_analyst;

CREATE PROCEDURE make_views(tables int) LANGUAGE plpgsql AS $$
DECLARE
  n text;
BEGIN
  FOR i IN 1..tables LOOP
    n := lpad(i::text, 5, '0');
    EXECUTE format('CREATE VIEW analysts.v%s AS SELECT id, email, amount, created_at, quantity, day, parent_id FROM app.t%s WHERE active', n, n);
    EXECUTE format('CREATE VIEW analysts.w%s AS SELECT day, count(*) AS rows, max(quantity) AS quantity, sum(amount) AS amount
                    FROM analysts.v%s GROUP BY day', n, n);
    EXECUTE format('ALTER VIEW analysts.v%s OWNER TO bench_analyst', n);
    EXECUTE format('ALTER VIEW analysts.w%s OWNER TO bench_analyst', n);
    EXECUTE format('GRANT SELECT ON analysts.v%s, analysts.w%s TO bench_reader', n, n);
    IF i % 500 = 0 THEN COMMIT; END IF;
  END LOOP;
END
$$;
