-- Tables t00001, t00002, … of ten columns, made in batches so that no transaction holds too many locks.
CREATE PROCEDURE make_tables(tables int) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1..tables LOOP
    EXECUTE format('CREATE TABLE t%s (id int, email varchar(80), amount numeric(12,2), created_at timestamptz, quantity int,
                    note text, properties jsonb, active boolean, day date, parent_id bigint)', lpad(i::text, 5, '0'));
    IF i % 500 = 0 THEN COMMIT; END IF;
  END LOOP;
END
$$;
