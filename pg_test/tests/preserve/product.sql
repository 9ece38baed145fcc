CREATE TYPE status AS ENUM ('new', 'paid', 'shipped');
CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL, name varchar(10), born date, boss int, seen timestamptz, age interval);
CREATE TABLE orders (id int PRIMARY KEY, user_id int, status status, total numeric(10,2), note text, at timestamptz, weight int DEFAULT 1);
CREATE TABLE untouched (id int);
INSERT INTO users SELECT g, 'u' || g || '@example.org', 'name ' || g, '2000-01-01'::date + g, nullif(g / 2, 0),
                         '2026-01-01 12:00+00'::timestamptz + g * interval '1 day', g * interval '1 day 2 hours'
                  FROM generate_series(1, 20) g;
INSERT INTO orders SELECT g, g % 20 + 1, (enum_range(NULL::status))[g % 3 + 1], g, 'note ' || g % 5, '2026-03-01 12:00+00', g
                   FROM generate_series(1, 60) g;
